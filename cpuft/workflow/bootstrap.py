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
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

from cpuft.backends.generator import Sampling
from cpuft.backends.llama_server import LlamaServer
from cpuft.config.file import load_config, to_document
from cpuft.config.keys import TrainJob
from cpuft.errors import DatasetError
from cpuft.evaluate.comparison import Difference, Mean, difference, mean_of
from cpuft.machine.files import atomic_write, file_digest, read_json, write_json, write_text
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
    n_parallel: int = 4
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
    """What answers, and how it is asked. constrained: held to the role's schema while it writes examples."""

    name: str
    program: Program
    adapter: Path | None = None
    constrained: bool = True


def run_bootstrap(role: Role, plan: Plan, say: Say, progress: Progress = silent) -> Bootstrap:
    """Runs it, or goes on. `say` gets what a user should read.

    Raises DatasetError where nothing good is left to learn from, KeyboardInterrupt after Ctrl-C, with all that was done
    in its place.
    """
    load_config(plan.config)  # mistakes in what is read late are told before hours of work
    if plan.concepts is not None:
        _require_concepts(plan.concepts, sum(plan.examples))
    else:
        domains_of(role)
    return _Work(role, plan, say, progress).run()


class _Work:
    """One run, with what its steps share."""

    def __init__(self, role: Role, plan: Plan, say: Say, progress: Progress) -> None:
        self._role, self._plan, self._say, self._progress = role, plan, say, progress
        self._folder, self._stages = plan.output, Stages(plan.output)
        self._base = file_digest(plan.base, progress)

    def run(self) -> Bootstrap:
        """Rounds, until one gains nothing."""
        best, pool, ended_early = _Model("base", Program(self._role.prompt)), list[RoleRecord](), False
        best_scores, row = self._measure(best)
        rows = [row]
        if self._plan.search is not None:
            model = _Model("prompt", self._prompt(self._plan.search))
            scores, row = self._measure(model)
            rows.append(replace(row, gain=difference(best_scores, scores)))
            if mean(scores) > mean(best_scores):
                best, best_scores = model, scores
        for number, count in enumerate(self._plan.examples, 1):
            pool = self._examples(number, count, best, pool)
            model = self._train(number)
            scores, row = self._measure(model)
            gain = difference(best_scores, scores)
            rows.append(replace(row, gain=gain, asked=count, kept=len(pool)))
            self._say(f"{model.name}: {rows[-1].free}; against {best.name}: {gain}")
            if gain.mean.value <= 0:
                ended_early = number < len(self._plan.examples)
                self._say(f"{model.name} gains nothing: {best.name} is kept")
                break
            best, best_scores = model, scores
        return self._finish(Bootstrap(tuple(rows), best.name, ended_early), best)

    def _prompt(self, search: Search) -> Program:
        """The best prompt for the base."""
        plan, folder = self._plan, self._folder / "prompt"
        parts = divide(plan.seeds, (), plan.seed)

        def work() -> None:
            with self._server(None) as server:
                report = optimize_prompt(self._role, server, self._base, parts, search, folder, progress=self._progress)
            self._say(f"prompt: {report.before} before, {report.after} after; {report.gain}")

        inputs = {"base": self._base, "search": asdict(search), "seeds": _digest(plan.seeds), "role": self._role.prompt}
        self._stages.run("prompt", inputs, [folder], work)
        return read_program(folder / PROGRAM, self._role)

    def _examples(self, number: int, count: int, model: _Model, before: Sequence[RoleRecord]) -> list[RoleRecord]:
        """All good examples up to this round, the newest by this model; they and the seeds stand in train and val."""
        plan, role, folder = self._plan, self._role, self._folder / f"v{number}"
        concepts, raw, good = (folder / f"{name}.jsonl" for name in ("concepts", "raw", "good"))

        def ask() -> None:
            folder.mkdir(exist_ok=True)
            found = self._concepts(number, count)
            write_text(concepts, "".join(one.line() for one in found))
            with self._server(model.adapter) as server:
                made = generate_records(
                    role, server, found, raw, model=f"{plan.base.name} {model.name}", program=model.program,
                    constrained=model.constrained, sampling=plan.sampling, seed=plan.seed, n_parallel=plan.n_parallel,
                    progress=titled(self._progress, f"examples of v{number}"),
                )  # fmt: skip
            if made.failed:
                self._say(f"{len(made.failed)} answers failed, such as {made.failed[0]}")

        def choose() -> None:
            held_out = tuple(one.asked for one in plan.test)
            criteria = replace(plan.criteria, held_out=held_out)
            found = filter_records([*before, *read_records(raw, role)], role, criteria)
            self._say(f"v{number}: {len(found.kept)} good examples, {_reasons(found.reasons)}")
            if not [*found.kept, *plan.seeds]:
                raise DatasetError(f"{raw}: no example is good enough to learn from ({_reasons(found.reasons)})")
            write_records(good, found.kept, role)
            write_card(good.with_suffix(".md"), role, {"good": found.kept}, found)
            parts = split_records([*plan.seeds, *found.kept], TRAIN_SHARE, plan.seed)
            for name, records in (("train", parts.train), ("val", parts.validation)):
                write_records(folder / f"{name}.jsonl", records, role)
                write_chat(folder / f"{name}.jsonl", folder / f"{name}-chat.jsonl", role)

        asked: dict[str, Any] = {"base": self._base, "adapter": model.adapter, "program": model.program.digest}
        asked |= {"model": model.name, "constrained": model.constrained, "concepts": plan.concepts}
        asked |= {"count": count, "sampling": asdict(plan.sampling), "seed": plan.seed, "schema": role.schema}
        self._stages.run(f"v{number} asked", asked, [raw], ask)
        chosen = {"raw": raw, "before": _digest(before), "seeds": _digest(plan.seeds), "test": _digest(plan.test)}
        chosen |= {"criteria": asdict(plan.criteria), "seed": plan.seed}
        outputs = [folder / f"{name}-chat.jsonl" for name in ("train", "val")]
        self._stages.run(f"v{number} chosen", chosen, [good, *outputs], choose)
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
        config, _ = load_config(plan.config, {"training.seed": plan.seed})

        def work() -> None:
            job = TrainJob(plan.base, train, run, config, val, resume=run.exists())
            if run_training(job, say=self._say, progress=self._progress).ended == "interrupted":
                raise KeyboardInterrupt

        inputs = {"base": self._base, "train": train, "val": val, "config": to_document(config)}
        self._stages.run(f"v{number} trained", inputs, [run, adapter], work)
        # It has learned to write YAML, and a schema would make it write JSON, which it has not.
        return _Model(f"v{number}", Program(self._role.short_prompt), adapter, constrained=False)

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

        inputs: dict[str, Any] = {"base": self._base, "adapter": model.adapter, "program": model.program.digest}
        inputs |= {"test": _digest(plan.test), "max_tokens": plan.sampling.max_tokens, "n_parallel": plan.n_parallel}
        self._stages.run(f"{model.name} measured", inputs, [file], work)
        found = read_json(file)
        free, constrained = (found[form]["scores"] for form in ("free", "constrained"))
        return free, Row(model.name, mean_of(free), mean_of(constrained))

    def _finish(self, result: Bootstrap, best: _Model) -> Bootstrap:
        write_json(self._folder / "result.json", result.facts())
        kept = self._folder / "best.gguf"
        kept.unlink(missing_ok=True)
        if best.adapter is not None:
            with atomic_write(kept) as temporary:
                shutil.copyfile(best.adapter, temporary)
        return result

    def _server(self, adapter: Path | None) -> LlamaServer:
        plan = self._plan
        return LlamaServer(plan.base, adapter=adapter, n_parallel=plan.n_parallel, n_ctx=plan.context)


def _require_concepts(path: Path, wanted: int) -> None:
    found = len(read_concepts(path))
    if found < wanted:
        raise DatasetError(
            f"{path}: holds {found} concepts, and --examples asks for {wanted}: add some, or ask for less"
        )


def _digest(records: Sequence[RoleRecord]) -> str:
    return hashlib.sha256("\n".join(f"{one.asked}\n{one.answer}" for one in records).encode()).hexdigest()


def _reasons(reasons: Counter[str]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common()) or "none dropped"
