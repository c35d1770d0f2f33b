# Everything here works on a machine that has Python 3.11 or newer, a C++ compiler, make and git.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL: # one pip at a time in one environment
.PHONY: help build demo real-loop test lint peers clean ollama-install-candidates

PYTHON ?= python3
ROLE ?= ba
REAL_MODEL ?= $(HOME)/.cache/cpuft/real-models/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf
VENV ?= .venv
PYTEST_ARGS ?=
MARKS ?= not slow
# Two workers, each with whole files (tests/conftest.py groups them).
PYTEST = $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup --no-loadscope-reorder
BIN := $(VENV)/bin
# One stamp each: what running needs, and what working on the code needs beyond that.
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
PEERS := .venv-peers

# llama-cpp-python without libraries of its own: it loads those of `cpuft build`, so there is one ggml for everything.
# Python compiles what it imports when it does; compiling all packages ahead takes longer than downloading them.
PIP_INSTALL = CMAKE_ARGS="-DLLAMA_BUILD=OFF -DLLAVA_BUILD=OFF" PIP_DISABLE_PIP_VERSION_CHECK=1 \
	$(BIN)/python -m pip install --quiet --no-compile

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-25s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: $(INSTALLED) ## Install the package and compile llama.cpp and the engine
	$(BIN)/cpuft build

demo: build ## Train, merge and compare the bundled tiny model
	$(BIN)/cpuft demo

real-loop: build ## The whole loop on a real model (REAL_MODEL=file): prompt, data, training, comparison; an hour or two
	$(BIN)/cpuft bootstrap --role ba --base $(REAL_MODEL) --examples 60,60 --test cpuft/demo/test.jsonl \
		--config configs/real-loop.yaml --num-candidates 5 --num-trials 6 --max-bootstrapped-demos 2 --max-tokens 800 \
		--parallel 8 --output artifacts/real-loop

ollama-install-candidates: $(INSTALLED) ## Pull the base models for a role (ROLE=ba) into a running Ollama, about 12 GB
	$(BIN)/cpuft models pull --candidates configs/candidates.yaml --role $(ROLE)

test: $(INSTALLED_DEV) build ## Lint and run all tests but the slow ones (MARKS= runs those, too)
	scripts/check
	$(PYTEST) -m "$(MARKS)" $(PYTEST_ARGS)

lint: $(INSTALLED_DEV) ## Formatting, types, and paths named in documents
	scripts/check

peers: $(PEERS)/.installed ## Install what benchmarks compare with (PyTorch, transformers, PEFT) into an environment of its own

# artifacts/ stays: the examples put bases, runs and merged models there, which may have taken days.
clean: ## Remove the environments and what the build left here; artifacts/ and the toolchain in ~/.cache/cpuft stay
	rm -rf $(VENV) $(PEERS) build cpuft.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Python 3.11 or newer is needed and $(PYTHON) is not: make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml | $(BIN)/python
	@echo "Installing cpuft into $(VENV) (about a minute)"
	@$(PIP_INSTALL) --editable '.[synth,review]'
	@touch $@

$(INSTALLED_DEV): $(INSTALLED)
	@echo "Installing the development tools into $(VENV)"
	@$(PIP_INSTALL) --editable '.[synth,review,dev]'
	@touch $@

$(PEERS)/.installed:
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet torch==2.13.0 transformers==5.24.0 peft==0.21.2 numpy gguf sentencepiece
	@touch $@
