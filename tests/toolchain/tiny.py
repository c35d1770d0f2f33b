"""A checkout that builds for real in seconds: this package with a one-line engine and a llama.cpp of one-line parts.

Its programs say what the real ones say when `cpuft build` tries them, so what a test breaks in them really breaks.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from cpuft.toolchain.proof import PERPLEXITY
from tests.conftest import ROOT

LIBRARIES = ("llama", "ggml", "ggml-cpu", "ggml-base")
TOOLS = ("llama-server", "llama-quantize", "llama-imatrix", "llama-perplexity", "llama-bench")

# Stands before the real compiler: notes what it is asked to compile and, on request, takes its time.
COMPILER = """#!/bin/sh
for argument; do
    if [ "$argument" = -c ]; then
        echo "$*" >> "{log}"
        sleep "${{COMPILER_SECONDS:-0}}"
    fi
done
exec {compiler} "$@"
"""

# `llama_cpp_computes` is what all programs call, as the real ones call ggml's code for this CPU.
COMPUTES = "int llama_cpp_computes(void) { return 0; }\n"
TOOL = """#include <cstdio>
extern "C" int llama_cpp_computes();
int main() {
    std::printf("Final estimate: PPL = %f +/- 0.1\\n", PERPLEXITY);
    return llama_cpp_computes();
}
"""
SERVER = """#include <arpa/inet.h>
#include <unistd.h>
#include <cstdio>
#include <cstring>
extern "C" int llama_cpp_computes();
int main() {
    sockaddr_in address{};
    socklen_t size = sizeof address;
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int listener = socket(AF_INET, SOCK_STREAM, 0);
    auto* any = reinterpret_cast<sockaddr*>(&address);
    if (bind(listener, any, size) != 0 || listen(listener, 1) != 0 || getsockname(listener, any, &size) != 0) return 1;
    std::printf("listening on http://127.0.0.1:%d\\n", ntohs(address.sin_port));
    std::fflush(stdout);
    const int request = accept(listener, nullptr, nullptr);
    // All of the request, which ends with its JSON: a connection closed on what is unread would be reset.
    char body[4096];
    size_t got = 0;
    while (got == 0 || body[got - 1] != '}') {
        const ssize_t more = read(request, body + got, sizeof body - got);
        if (more <= 0) return 1;
        got += static_cast<size_t>(more);
    }
    if (llama_cpp_computes() != 0) return 1;
    const char* reply = "HTTP/1.0 200 OK\\r\\n\\r\\n{\\"content\\": \\"yes\\"}";
    if (write(request, reply, std::strlen(reply)) < 0) return 1;
    close(request);
    pause();
}
"""
ENGINE = 'extern "C" int cpuft_answer(const char* isa) { return isa ? 42 : 0; }\n'
# What Python sees of that engine, as far as a trial of it goes.
ENGINE_OF_PYTHON = '''"""The tiny engine."""

import ctypes
import os
from cpuft.engine.abi import default_isa

Batch = lambda *arrays: arrays


class Engine:
    def __init__(self, model, *, threads=0, isa=None):
        self.isa = (isa or default_isa() or "its own choice").encode()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def tokenize(self, text):
        return [1, 2, 3]

    def adapter_init(self, **settings):
        pass

    def forward_backward(self, batch):
        return ctypes.CDLL(os.environ["CPUFT_LIBRARY"]).cpuft_answer(self.isa), 1

    def step(self, **settings):
        return 1.0
'''


@dataclass
class TinyCheckout:
    """Its own package, llama.cpp tree, cache and compilers, all below `directory`."""

    directory: Path
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.project = self.directory / "project"
        self.llama = self.directory / "llama.cpp"
        self.cache = self.directory / "cache"
        self.compiled = self.directory / "compiled.log"
        _write_project(self.project)
        _write_llama(self.llama)
        compilers = {"CC": "cc", "CXX": "c++"}
        for variable, name in compilers.items():
            self._write_compiler(name, os.environ.get(variable, name))
        self.environment = {
            **os.environ,
            **{variable: str(self.directory / name) for variable, name in compilers.items()},
            "CPUFT_CACHE": str(self.cache),
            "PYTHONDONTWRITEBYTECODE": "1",
            # Whatever index this machine uses, these tests reach none but what they set themselves.
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": "",
            "PIP_CONFIG_FILE": os.devnull,
        }

    def _write_compiler(self, name: str, real: str) -> None:
        script = self.directory / name
        script.write_text(COMPILER.format(log=self.compiled, compiler=shutil.which(real)))
        script.chmod(0o755)

    def compiled_files(self) -> list[str]:
        """The sources compiled so far, each as often as it was compiled."""
        lines = self.compiled.read_text().splitlines() if self.compiled.exists() else []
        ours = (line for line in lines if "CMakeFiles/CMakeScratch" not in line and "CMakeFiles/3" not in line)
        sources = (word for line in ours for word in line.split() if word.endswith((".c", ".cpp")))
        return sorted(Path(source).name for source in sources if Path(source).parent.name in ("llama.cpp", "native"))

    def command(self, *args: str | Path, **environment: str) -> "subprocess.Popen[str]":
        """Starts `cpuft ARGS` in this checkout."""
        return subprocess.Popen(
            [sys.executable, "-m", "cpuft", *map(str, args)],
            cwd=self.project,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *args: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Runs `cpuft ARGS` in this checkout to its end."""
        process = self.command(*args, **environment)
        output, errors = process.communicate(timeout=300)
        return subprocess.CompletedProcess(args, process.returncode, output, errors)

    def locate(self) -> "subprocess.CompletedProcess[str]":
        """Asks this checkout's own `toolchain.locate` for the engine; an error is its last line on stderr."""
        return self.python("from cpuft import toolchain; print(toolchain.locate().engine_library)")

    def python(self, code: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Runs Python code on this checkout's own package."""
        return subprocess.run(
            [sys.executable, "-c", code], cwd=self.project, env={**self.environment, **environment},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def write_lock(self, archive: Path, *, sha256: str | None = None) -> None:
        """Locks this checkout to the source distribution `archive`."""
        lock = {
            "package": "tiny-llama",
            "version": "1.0",
            "sha256": sha256 or hashlib.sha256(archive.read_bytes()).hexdigest(),
            "path": "vendor/llama.cpp",
        }
        (self.project / "vendor" / "llama.cpp.lock").write_text(yaml.safe_dump(lock))
        self.write_mends([])

    def write_mends(self, mends: list[dict[str, str]]) -> None:
        """Says what this checkout changes in the llama.cpp that it fetches."""
        (self.project / "vendor" / "llama.cpp.mends.yaml").write_text(yaml.safe_dump(mends))

    def pack(self) -> Path:
        """A source distribution that carries the tiny llama.cpp."""
        root = self.directory / "tiny_llama-1.0"
        shutil.copytree(self.llama, root / "vendor" / "llama.cpp")
        (root / "pyproject.toml").write_text(
            '[build-system]\nrequires = ["scikit-build-core"]\nbuild-backend = "scikit_build_core.build"\n'
            '[project]\nname = "tiny-llama"\nversion = "1.0"\n'
        )
        (root / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: tiny-llama\nVersion: 1.0\n")
        index = self.directory / "index"
        index.mkdir()
        archive = index / "tiny_llama-1.0.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(root, arcname=root.name)
        return archive


def _write_project(project: Path) -> None:
    shutil.copytree(ROOT / "cpuft", project / "cpuft", ignore=shutil.ignore_patterns("native", "*.gguf", "__pycache__"))
    (project / "cpuft" / "demo" / "base-q8_0.gguf").touch()
    (project / "cpuft" / "engine" / "__init__.py").write_text(ENGINE_OF_PYTHON)
    shutil.copytree(ROOT / "vendor", project / "vendor")
    shutil.copy(ROOT / "CMakeLists.txt", project)
    native = project / "cpuft" / "native"
    native.mkdir()
    (native / "CMakeLists.txt").write_text(
        "add_library(cpuft_native SHARED engine.cpp)\n"
        "target_link_libraries(cpuft_native PRIVATE cpuft_llama)\n"
        "set_target_properties(cpuft_native PROPERTIES OUTPUT_NAME cpuft)\n"
    )
    (native / "engine.cpp").write_text(ENGINE)


def _write_llama(llama: Path) -> None:
    for folder in ("include", "ggml/include"):
        (llama / folder).mkdir(parents=True)
    (llama / "include" / "llama.h").touch()
    lines = ["cmake_minimum_required(VERSION 3.24)", "project(llama.cpp LANGUAGES C CXX)"]
    lines += [f"set(CMAKE_{kind}_OUTPUT_DIRECTORY ${{CMAKE_BINARY_DIR}}/bin)" for kind in ("LIBRARY", "RUNTIME")]
    for name in LIBRARIES:
        (llama / f"{name}.c").write_text(f"int {name.replace('-', '_')}(void) {{ return 0; }}\n")
        lines.append(f"add_library({name} SHARED {name}.c)")
    (llama / "ggml-cpu.c").write_text(COMPUTES)
    lines += ["if(GGML_NATIVE)", "target_compile_definitions(ggml-cpu PRIVATE NATIVE)", "endif()"]
    lines.append("target_link_libraries(llama PRIVATE ggml ggml-cpu ggml-base)")
    for name in TOOLS:
        (llama / f"{name}.cpp").write_text(SERVER if name == "llama-server" else TOOL)
        lines += [f"add_executable({name} {name}.cpp)", f"target_link_libraries({name} PRIVATE llama ggml-cpu)"]
        lines.append(f"target_compile_definitions({name} PRIVATE PERPLEXITY={PERPLEXITY})")
    (llama / "CMakeLists.txt").write_text("\n".join(lines) + "\n")
