"""From a role to a tuned model without a hand-made data set: a model writes the examples that it then learns from.

Each round: concepts, answers of the best model so far, what is good of them, training on all that is good up to now,
and a comparison on concepts that nothing else has seen. It ends early where a round gains nothing; the best model is
kept, not the last. Everything is in one folder; each step is done once, and one that was stopped goes on.

  prompt/        the best prompt for the base (workflow/prompt.py)
  v1/, v2/, …    concepts.jsonl, raw.jsonl, good.jsonl, train.jsonl, val.jsonl with their cards, run/ with the adapter
  scores/        the answers of each model to the test concepts
  result.json    the table
  best.gguf      the adapter of the best model; none where the base is the best
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

from cpuft.backends.generator import PARALLEL, Sampling
from cpuft.backends.llama_server import LlamaServer
from cpuft.config.file import load_config, to_document
from cpuft.config.keys import TrainJob
from cpuft.errors import ConfigError, DatasetError
from cpuft.evaluate.comparison import Difference, Mean, difference, mean_of
from cpuft.machine.disk import disk_errors
from cpuft.machine.files import atomic_write, file_digest, read_json, write_json, write_text
from cpuft.machine.locks import sole_use
from cpuft.machine.progress import Progress, silent, titled
from cpuft.roles import Role
from cpuft.synth.card import write_card
from cpuft.synth.concepts import Concept, combine, domains_of, read_concepts
from cpuft.synth.filter import Criteria, filter_records
from cpuft.synth.generation import SAMPLING, generate_records
from cpuft.synth.program import Program, read_program
from cpuft.synth.records import RoleRecord, read_records, write_chat, write_records
from cpuft.synth.search import Search
from cpuft.synth.split import split_records
from cpuft.train.loop import run_training
from cpuft.workflow.prompt import CONTEXT, PROGRAM, divide, optimize_prompt, score
from cpuft.workflow.stages import Stages

TRAIN_SHARE = 0.8  # of the good examples; the rest decides which adapter of a run is the best

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What a bootstrap is to do.

    base:     a GGUF file. config: of the training, the keys of configs/lora.yaml.
    examples: how many concepts are asked in each round; its length is the number of rounds.
    concepts: a file that they are taken from, in its order; None makes them from the role's lexicon.
    seeds:    examples to begin with: prompts are sought on them, and all trainings learn from them.
    test:     examples that are only measured by.
    search:   of the prompt; None takes the role's own.
    context:  tokens of a question and its answer. n_parallel: requests in flight.
    """

    base: Path
    output: Path
    examples: Sequence[int]
    seeds: Sequence[RoleRecord]
    test: Sequence[RoleRecord]
    config: Path | None = None
    concepts: Path | None = None
    search: Search | None = field(default_factory=Search)
    criteria: Criteria = field(default_factory=Criteria)
    sampling: Sampling = SAMPLING
    context: int = CONTEXT
    n_parallel: int = PARALLEL
    seed: int = 0


@dataclass(frozen=True)
class Row:
    """A model in the table: its scores on the test examples, and how much better it is than the best before it.

    name: "base" (asked by the role's own prompt), "prompt" (the base asked by the best that was found), "v1", "v2", ….

    free: without a grammar. constrained: held to the role's schema. asked: questions of its round. kept: good examples
    that it has learned, beside the seeds.
    """

    name: str
    free: Mean
    constrained: Mean
    gain: Difference | None = None
    asked: int = 0
    kept: int = 0

    def facts(self) -> dict[str, Any]:
        """Ready for JSON."""
        counts = {name: getattr(self, name) for name in ("name", "asked", "kept")}
        gain = None if self.gain is None else self.gain.facts()
        return {**counts, "free": self.free.facts(), "constrained": self.constrained.facts(), "gain": gain}


@dataclass(frozen=True)
class Bootstrap:
    """How it went. best: the name of a row. ended_early: a round gained nothing."""

    rows: tuple[Row, ...]
    best: str
    ended_early: bool

    def facts(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"rows": [row.facts() for row in self.rows], "best": self.best, "ended_early": self.ended_early}


@dataclass(frozen=True)
class _Model:
    """What answers, and how it is asked."""

    name: str
    program: Program
    adapter: Path | None = None


def run_bootstrap(role: Role, plan: Plan, say: Say, progress: Progress = silent) -> Bootstrap:
    """Runs it, or goes on. `say` gets what a user should read.

    Raises UserError for what is wrong with the plan, before any work; DatasetError where nothing good is left to learn
    from; KeyboardInterrupt after Ctrl-C, with all that was done in its place.
    """
    _require(role, plan)
    with disk_errors(plan.output):
        plan.output.mkdir(parents=True, exist_ok=True)
    with sole_use(plan.output, "bootstrapping"):
        return _Work(role, plan, say, progress).run()


class _Work:
    """One run, with what its steps share."""

    def __init__(self, role: Role, plan: Plan, say: Say, progress: Progress) -> None:
        self._role, self._plan, self._say, self._progress = role, plan, say, progress
        self._folder, self._stages = plan.output, Stages(plan.output)
        # What no step's result outlives a change of.
        self._all: dict[str, Any] = {"base": file_digest(plan.base, progress), "role": role.digest, "seed": plan.seed}
        self._all |= {"context": plan.context, "n_parallel": plan.n_parallel, "test": _digest(plan.test)}

    def run(self) -> Bootstrap:
        """Rounds, until one gains nothing."""
        best = writer = _Model("base", Program(self._role.prompt))
        scores, row = self._measure(best)
        rows, pool, ended_early = [row], list[RoleRecord](), False
        if self._plan.search is not None:
            model = _Model("prompt", self._prompt(self._plan.search))
            found, row = self._measure(model)
            rows.append(replace(row, gain=difference(scores, found)))
            if row.constrained.value > rows[0].constrained.value:
                writer = model  # examples are written under the schema
            if mean(found) > mean(scores):
                best, scores = model, found
        for number, count in enumerate(self._plan.examples, 1):
            asked = self._ask(number, count, writer)
            pool = self._choose(number, pool)
            model = self._train(number)
            found, row = self._measure(model)
            gain = difference(scores, found)
            rows.append(replace(row, gain=gain, asked=asked, kept=len(pool)))
            self._say(f"{model.name}: {row.free}; against {best.name}: {gain}")
            if gain.mean.value <= 0:
                ended_early = number < len(self._plan.examples)
                self._say(f"{model.name} gains nothing: {best.name} is kept")
                break
            best = writer = model
            scores = found
        return self._finish(Bootstrap(tuple(rows), best.name, ended_early), best)

    def _prompt(self, search: Search) -> Program:
        """The best prompt for the base."""
        plan, folder = self._plan, self._folder / "prompt"
        parts, base = divide(plan.seeds, (), plan.seed), self._all["base"]

        def work() -> None:
            with self._server(None) as server:
                report = optimize_prompt(self._role, server, base, parts, search, folder, progress=self._progress)
            self._say(f"prompt: {report.before} before, {report.after} after; {report.gain}")

        inputs = {**self._all, "search": asdict(search), "seeds": _digest(plan.seeds)}
        # The model's answers beside them are good for any other search.
        self._stages.run("prompt", inputs, [folder / PROGRAM, folder / "report.json"], work)
        return read_program(folder / PROGRAM, self._role)

    def _ask(self, number: int, count: int, model: _Model) -> int:
        """A model's answers to new concepts; returns how many were asked."""
        plan, folder = self._plan, self._folder / f"v{number}"
        concepts, raw = folder / "concepts.jsonl", folder / "raw.jsonl"

        def work() -> None:
            folder.mkdir(exist_ok=True)
            found = self._concepts(number, count)
            write_text(concepts, "".join(one.line() for one in found))
            with self._server(model.adapter) as server:
                made = generate_records(
                    self._role, server, found, raw, model=f"{plan.base.name} {model.name}", program=model.program,
                    sampling=plan.sampling, seed=plan.seed, n_parallel=plan.n_parallel,
                    progress=titled(self._progress, f"examples of v{number}"),
                )  # fmt: skip
            if made.error is not None:
                raise made.error
            if made.failed:
                self._say(f"{len(made.failed)} questions were not answered, such as {made.failed[0]}")

        inputs = {**self._all, **_facts(model), "count": count, "concepts": plan.concepts}
        inputs["sampling"] = asdict(plan.sampling)
        self._stages.run(f"v{number} asked", inputs, [concepts, raw], work)
        return len(read_concepts(concepts))

    def _choose(self, number: int, before: Sequence[RoleRecord]) -> list[RoleRecord]:
        """All good examples up to this round; they and the seeds are divided into train and val."""
        plan, role, folder = self._plan, self._role, self._folder / f"v{number}"
        raw, good = folder / "raw.jsonl", folder / "good.jsonl"
        chats = [folder / f"{name}-chat.jsonl" for name in ("train", "val")]

        def work() -> None:
            new = read_records(raw, role) if raw.stat().st_size else []
            criteria = replace(plan.criteria, held_out=tuple(one.asked for one in plan.test))
            found = filter_records([*before, *new], role, criteria)
            self._say(f"v{number}: {len(found.kept)} good examples; dropped: {_reasons(found.reasons)}")
            if not [*found.kept, *plan.seeds]:
                raise DatasetError(f"{raw}: no example is good enough to learn from ({_reasons(found.reasons)})")
            parts = split_records([*plan.seeds, *found.kept], TRAIN_SHARE, plan.seed)
            for chat, records in zip(chats, (parts.train, parts.validation), strict=True):
                file = chat.with_name(chat.name.replace("-chat", ""))
                write_records(file, records, role)
                write_chat(file, chat, role)
            write_card(good.with_suffix(".md"), role, {"good": found.kept}, found)
            write_records(good, found.kept, role)

        inputs = {**self._all, "raw": raw, "before": _digest(before), "seeds": _digest(plan.seeds)}
        inputs["criteria"] = asdict(plan.criteria)
        self._stages.run(f"v{number} chosen", inputs, [good, *chats], work)
        return read_records(good, role) if good.stat().st_size else []

    def _concepts(self, number: int, count: int) -> list[Concept]:
        plan = self._plan
        if plan.concepts is None:
            return combine(self._role, count, [], plan.seed + number)
        before = sum(plan.examples[: number - 1])
        return read_concepts(plan.concepts)[before : before + count]

    def _train(self, number: int) -> _Model:
        """A fresh adapter that has learned a round's examples; it is asked by the role's short prompt."""
        plan, folder = self._plan, self._folder / f"v{number}"
        run, adapter = folder / "run", folder / "run" / "adapter.gguf"
        train, val = (folder / f"{name}-chat.jsonl" for name in ("train", "val"))
        config, _ = load_config(plan.config)
        if "training.seed" not in config.explicit_keys:
            config, _ = load_config(plan.config, {"training.seed": plan.seed})

        def work() -> None:
            begun = (run / "config.yaml").is_file()
            job = TrainJob(plan.base, train, run, config, val, resume=begun, overwrite=not begun)
            if run_training(job, say=self._say, progress=self._progress).ended == "interrupted":
                raise KeyboardInterrupt

        inputs = {"base": self._all["base"], "train": train, "val": val, "config": to_document(config)}
        self._stages.run(f"v{number} trained", inputs, [run, adapter], work)
        return _Model(f"v{number}", Program(self._role.short_prompt), adapter)

    def _measure(self, model: _Model) -> tuple[list[float], Row]:
        """The scores of a model on the test examples, without a grammar, and its row."""
        plan, file = self._plan, self._folder / "scores" / f"{model.name}.json"

        def work() -> None:
            found: dict[str, Any] = {}
            with self._server(model.adapter) as server:
                for form in ("free", "constrained"):
                    told = titled(self._progress, f"{model.name}, {form}")
                    answers = score(
                        self._role, server, model.program, plan.test, constrained=form == "constrained",
                        max_tokens=plan.sampling.max_tokens, n_parallel=plan.n_parallel, progress=told,
                    )  # fmt: skip
                    found[form] = {"scores": answers.scores, **answers.summary(), "answers": answers.details()}
            write_json(file, found)

        inputs = {**self._all, **_facts(model), "max_tokens": plan.sampling.max_tokens}
        self._stages.run(f"{model.name} measured", inputs, [file], work)
        found = read_json(file)
        free, constrained = (found[form]["scores"] for form in ("free", "constrained"))
        return free, Row(model.name, mean_of(free), mean_of(constrained))

    def _finish(self, result: Bootstrap, best: _Model) -> Bootstrap:
        kept = self._folder / "best.gguf"
        if best.adapter is None:
            kept.unlink(missing_ok=True)
        else:
            with atomic_write(kept) as temporary:
                shutil.copyfile(best.adapter, temporary)
        write_json(self._folder / "result.json", result.facts())
        return result

    def _server(self, adapter: Path | None) -> LlamaServer:
        plan = self._plan
        return LlamaServer(plan.base, adapter=adapter, n_parallel=plan.n_parallel, n_ctx=plan.context)


def _facts(model: _Model) -> dict[str, Any]:
    """What a model's answers depend on, beside the base."""
    return {"adapter": model.adapter, "program": model.program.digest}


def _require(role: Role, plan: Plan) -> None:
    """Raises UserError for whatever would be noticed late: it is told before hours of work."""
    load_config(plan.config)
    if len(role.sources) > 1:
        raise ConfigError(f"the role {role.name} is asked what other roles answer: concepts alone cannot bootstrap it")
    if plan.search is not None:
        divide(plan.seeds, (), plan.seed)
    if plan.concepts is None:
        domains_of(role)
    else:
        _require_concepts(plan.concepts, sum(plan.examples))


def _require_concepts(path: Path, wanted: int) -> None:
    found = len(read_concepts(path))
    if found < wanted:
        raise DatasetError(
            f"{path}: holds {found} concepts, and --examples asks for {wanted}: add some, or ask for less"
        )


def _digest(records: Sequence[RoleRecord]) -> str:
    lines = (json.dumps([one.inputs, one.answer, one.facts], sort_keys=True, default=str) for one in records)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _reasons(reasons: Counter[str]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common()) or "none dropped"
