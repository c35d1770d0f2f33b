"""A base model made ready for training: its file in the wanted quantization, what it is, and what training it takes.

FOLDER/source.json   which file it was made of, and the quantization: a folder is gone on with where these are the same
FOLDER/model.gguf    the base: the same file where it has that quantization (a hard link, else a copy), else a new one
FOLDER/model.json    architecture, sizes, types, licence, sha256, what its chat template makes of a conversation
FOLDER/plan.json     what a run with the default settings takes, over as much data as PLAN_EXAMPLES says
FOLDER/README.txt    the two above for people

Each file appears whole or not at all, in this order, so that a run that was stopped goes on where it was.
"""

import contextlib
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cpuft.chat.template import ANY_DAY
from cpuft.config.keys import Config, TrainJob
from cpuft.data.dataset import Dataset, formatter_of
from cpuft.data.examples import Example
from cpuft.data.records import Chat
from cpuft.engine import Engine
from cpuft.errors import ConfigError, ExampleError, ModelError
from cpuft.gguf.description import describe_model
from cpuft.gguf.reader import Gguf, read_gguf
from cpuft.machine.disk import disk_errors
from cpuft.machine.files import atomic_write, write_text
from cpuft.machine.locks import LOCK, sole_use
from cpuft.machine.progress import Progress, silent, titled
from cpuft.plan.plan import Plan, dated, plan_data
from cpuft.plan.text import plan_text
from cpuft.release.merge import KEEP, merge
from cpuft.sources.source import PREPARED as MODEL
from cpuft.train.inputs import Data
from cpuft.train.passes import RunPasses

SOURCE, DESCRIPTION, PLAN, README = "source.json", "model.json", "plan.json", "README.txt"
QUANTIZATIONS = {"4bit": "q4_k_m", "8bit": "q8_0"}  # as people say it who come from bitsandbytes
UNQUANTIZED = ("f32", "f16", "bf16")
# The plan's data: as many examples for training and validation, each of so many tokens, half of them an answer.
PLAN_EXAMPLES, PLAN_VALIDATION, PLAN_TOKENS = 100, 20, 512
CONVERSATION: tuple[dict[str, Any], ...] = (
    {"role": "system", "content": "You answer in one word."},
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris"},
)
CHUNK = 16 << 20  # bytes read at a time


@dataclass(frozen=True)
class Prepared:
    """A base in its folder. description and plan are ready for JSON."""

    folder: Path
    model: Path
    description: Mapping[str, Any]
    plan: Mapping[str, Any]
    text: str


def prepare(
    source: Path,
    folder: Path,
    quantization: str,
    *,
    threads: int = 0,
    progress: Progress = silent,
) -> Prepared:
    """Makes or completes the folder of a base.

    quantization: a type that llama-quantize knows, "4bit", "8bit", or "keep".
    Raises ModelError for a file that cannot be trained, ConfigError where the folder holds something else.
    """
    file_type = QUANTIZATIONS.get(quantization.lower(), quantization.lower())
    with Engine(source, threads=threads):  # refuses what cannot be trained, before anything is written
        pass
    origin = {"sha256": _sha256(source, progress), "quantization": file_type}
    _require_claimable(folder, origin)  # before anything is made in it
    model = folder / MODEL
    with contextlib.ExitStack() as held:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            unlocked = held.enter_context(sole_use(folder, "preparing a base"))
        if not _require_claimable(folder, origin):  # another process may have been faster
            write_text(folder / SOURCE, _json(origin))
        if not model.exists():
            _place(source, model, file_type, threads, progress)
        if not (folder / DESCRIPTION).exists():
            write_text(folder / DESCRIPTION, _json(_description(source, model, threads, progress)))
        if not (folder / PLAN).exists() or not (folder / README).exists():
            plan = _plan(model, threads, progress)
            write_text(folder / PLAN, _json(plan.document()))
            write_text(folder / README, _readme(_read_json(folder / DESCRIPTION), plan))
    text = (folder / README).read_text(encoding="utf-8") + ("" if unlocked is None else f"Note: {unlocked}\n")
    return Prepared(folder, model, _read_json(folder / DESCRIPTION), _read_json(folder / PLAN), text)


def _require_claimable(folder: Path, origin: dict[str, str]) -> bool:
    """Whether a folder holds a base that comes from the same. Raises ConfigError where it holds anything else."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: a file, expected a folder for the base model")
    if not folder.exists():
        return False
    record = folder / SOURCE
    if record.is_file():
        if _read_json(record) != origin:
            raise ConfigError(f"{folder}: it holds a base of another source or quantization: give another --output")
        return True
    with disk_errors(folder):
        present = sorted(
            entry.name for entry in folder.iterdir() if entry.name != LOCK and not entry.name.endswith(".partial")
        )
    if present:
        raise ConfigError(f"{folder}: the folder holds {', '.join(present[:5])}: give another --output")
    return False


def _place(source: Path, model: Path, file_type: str, threads: int, progress: Progress) -> None:
    if file_type not in (KEEP, describe_model(source)["file_type"]):
        merge(
            source,
            model,
            file_type=file_type,
            threads=threads,
            progress=titled(progress, "Quantizing"),
        )
        return
    with disk_errors(model):
        try:
            os.link(source.resolve(), model)
        except OSError:  # another disk, or one without links
            with atomic_write(model) as temporary:
                shutil.copyfile(source, temporary)


def _description(source: Path, model: Path, threads: int, progress: Progress) -> dict[str, Any]:
    """What the base is, checked: a conversation goes through its template and has a loss."""
    gguf = read_gguf(model)
    facts = describe_model(model)
    del facts["tensors"], facts["path"]
    before, after = describe_model(source)["file_type"], facts["file_type"]
    notes = []
    if before != after and before not in UNQUANTIZED:
        notes.append(f"quantized from {before}, which loses more than from f16: prefer an f16 source")
    with Engine(model, threads=threads) as engine:
        template = _template(gguf, engine)
        loss = _sample_loss(engine)
    if not math.isfinite(loss):
        raise ModelError(f"{model}: the loss of a sample is {loss}: the weights hold values that are not finite")
    licence = {key: gguf.get(f"general.{key}") for key in ("license", "license.name", "license.link")}
    return {
        "sha256": _sha256(model, progress),
        "source": str(source),
        **facts,
        "licence": licence if any(licence.values()) else None,
        "trainable": True,
        "template": template,
        "notes": notes,
    }


def _template(model: Gguf, engine: Engine) -> dict[str, Any]:
    """What the chat template makes of CONVERSATION, and what of it is trained on."""
    formatter = formatter_of(model, engine, ANY_DAY)
    if model.get("tokenizer.chat_template") is None:
        return {"works": False, "why": "the model has none: give examples as prompt and completion, or text"}
    try:
        (example,) = formatter.examples(Chat(list(CONVERSATION)), "sample")
    except ExampleError as error:
        return {"works": False, "why": str(error)}
    return {"works": True, "text": _text(engine, example, all_=True), "trained_on": _text(engine, example, all_=False)}


def _text(engine: Engine, example: Example, *, all_: bool) -> str:
    tokens = example.tokens if all_ else example.tokens[example.supervised == 1]
    return engine.detokenize([int(token) for token in tokens]).decode(errors="replace")


def _examples(count: int, n_vocab: int, seed: int) -> list[Example]:
    """Random tokens, so that no two examples begin alike."""
    rng = np.random.default_rng(seed)
    supervised = (np.arange(PLAN_TOKENS) >= PLAN_TOKENS // 2).astype(np.uint8)
    return [Example(rng.integers(0, n_vocab, PLAN_TOKENS).astype(np.int32), supervised, "plan") for _ in range(count)]


def _sample_loss(engine: Engine) -> float:
    (example,) = _examples(1, int(engine.facts["n_vocab"]), seed=0)
    run = RunPasses(dated(Config()), [example], [example], prefix_block=1)
    return engine.forward(run.of_validation()[0])[0]


def _plan(model: Path, threads: int, progress: Progress) -> Plan:
    started = time.monotonic()
    job = TrainJob(model, Path(), Path())
    with Engine(model, threads=threads) as engine:
        training, validation = (
            Dataset(Path("plan"), _examples(count, int(engine.facts["n_vocab"]), seed), n_truncated=0)
            for seed, count in enumerate((PLAN_EXAMPLES, PLAN_VALIDATION))
        )
        note = f"made for {PLAN_EXAMPLES} examples of {PLAN_TOKENS} tokens: `cpuft plan` tells it of your own data"
        data = Data(training, validation, [note])
        return plan_data(job, dated(job.config), engine, data, started, progress)


def _readme(description: Mapping[str, Any], plan: Plan) -> str:
    template, licence = description["template"], description["licence"]
    works = f"trained on {template['trained_on']!r}" if template["works"] else template["why"]
    size = f"{description['n_params'] / 1e6:,.1f} M parameters, {description['file_bytes'] / 1e6:,.1f} MB"
    kind = f"{description['architecture']}, {description['file_type']}, {size}"
    lines = [
        f"{description['name'] or 'a base model'}: {kind}",
        f"sha256         {description['sha256']}",
        f"licence        {' '.join(str(v) for v in licence.values() if v) if licence else 'the file names none'}",
        f"chat template  {works}",
        *(f"Note: {note}" for note in description["notes"]),
        "",
        "What a training run with the default settings takes",
        "",
        plan_text(plan),
    ]
    return "\n".join(lines) + "\n"


def _sha256(path: Path, progress: Progress) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            total = os.fstat(stream.fileno()).st_size
            while block := stream.read(CHUNK):
                digest.update(block)
                progress(f"Checksum of {path.name}", stream.tell(), total)
    except OSError as error:
        raise ModelError(f"{path}: cannot read the model: {error.strerror}") from error
    return digest.hexdigest()


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content
    except (OSError, ValueError):
        raise ConfigError(f"{path}: damaged, expected what `cpuft prepare` wrote: remove the folder") from None
