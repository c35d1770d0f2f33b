"""How much memory a run takes, by part; whether that fits; and which setting makes it fit.

What the engine takes, the engine says (cpuft.h, "Memory"): from the list of arrays by which it reserves them. What this
process holds beside that, Python, its libraries, the tokenizer and the data, is measured when all of it is there.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cpuft.config.file import changed_keys
from cpuft.config.keys import Config
from cpuft.engine import PASS_SIZE, Engine, SizeArray
from cpuft.errors import ResourceError
from cpuft.machine.memory import available_within, peak_rss_mb
from cpuft.train.passes import RunPasses, pass_sizes

Policy = Literal["keep", "recompute"]
HEADROOM = 0.85  # of the free memory is what "auto" takes for speed alone: other programs want some, too
# Counted on top of what is predicted: heaps of the threads, buffers of files, the page tables of the mapped model.
MARGIN = 1.02
# Passes of fewer tokens are slower than computing activations again (benchmarks/RESULTS.md): the panels of weights are
# then turned into floats for too few tokens.
FEW_TOKENS = 256

PassesOf = Callable[[Config], RunPasses]  # the passes that a run over the same data would have with other settings


@dataclass(frozen=True)
class Limit:
    """How much a process may hold, and in words what sets that."""

    n_bytes: int
    source: str


@dataclass(frozen=True)
class Memory:
    """What a run takes at its peak, in bytes by part.

    process: Python, libraries, tokenizer and data; base: the mapped weights; the rest as cpuft.h says under "Memory".
    """

    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        """All parts, and the margin for what is in none of them."""
        return int(sum(self.parts.values()) * MARGIN)


@dataclass(frozen=True)
class Fit:
    """A run as it would go within a limit.

    config:    as given, with fewer tokens_per_pass where max_ram asks for it.
    sizes:     of its passes, as `pass_sizes` gives them.
    advice:    where it does not fit: the settings that make it fit, None where no setting does.
    resume:    the run goes on with the settings that it began with.
    """

    config: Config
    policy: Policy
    sizes: SizeArray
    memory: Memory
    limit: Limit
    advice: Mapping[str, Any] | None = None
    resume: bool = False

    @property
    def fits(self) -> bool:
        """Whether the run stays within the limit."""
        return self.memory.total <= self.limit.n_bytes

    def refusal(self) -> str:
        """One sentence on a run that does not fit."""
        if self.advice is None and self.resume:
            mend = "nothing that a resumed run may change makes it fit: free some, or begin a new run from its adapter"
        elif self.advice is None:
            mend = "no setting makes it fit: take a smaller base model or quantization, or shorter examples"
        else:
            mend = f"it fits with {' and '.join(f'{key}: {value}' for key, value in self.advice.items())}"
        needed, most = _gb(self.memory.total), _gb(self.limit.n_bytes)
        return f"the run takes {needed} of memory and may take {most} ({self.limit.source}): {mend}"


def fit(config: Config, engine: Engine, passes_of: PassesOf, model: Path, *, resume: bool = False) -> Fit:
    """How a run goes within training.max_ram and what this machine has free. The engine has no adapter yet.

    Of what fits the fastest is chosen: whether activations are kept, and under max_ram how many tokens a pass has, but
    not of a run that is resumed, which must go on as it began. Neither changes what is computed but for rounding.
    """
    process, limit = resident_bytes(model), _limit(config, model)
    found = _Search(engine, passes_of, process, limit)
    attempts = [found.attempt(*choice) for choice in _choices(config, found.longest(config), resume=resume)]
    for attempt in attempts:
        last = attempt is attempts[-1]
        if attempt.fits and (last or config.training.max_ram or attempt.memory.total <= HEADROOM * limit.n_bytes):
            return attempt
    smallest = min(attempts, key=lambda attempt: attempt.memory.total)
    return replace(smallest, advice=found.advice(config, resume=resume), resume=resume)


def require_fit(fitted: Fit) -> None:
    """Raises ResourceError where a run does not fit, naming the setting that makes it fit."""
    if not fitted.fits:
        raise ResourceError(fitted.refusal())


class _Search:
    """Tries settings; remembers the sizes of passes, which most settings leave as they are."""

    def __init__(self, engine: Engine, passes_of: PassesOf, process: int, limit: Limit) -> None:
        self._engine, self._passes_of, self._process, self._limit = engine, passes_of, process, limit
        self._sizes: dict[tuple[Any, ...], SizeArray] = {}

    def attempt(self, config: Config, policy: Policy) -> Fit:
        sizes = self._sizes_of(config)
        return Fit(config, policy, sizes, predict(config, policy, self._engine, sizes, self._process), self._limit)

    def longest(self, config: Config) -> int:
        """Tokens of the longest example: no pass can have fewer."""
        run = self._passes_of(config)
        return max(example.tokens.size for example in (*run.training, *run.validation))

    def advice(self, config: Config, *, resume: bool) -> Mapping[str, Any] | None:
        """The fewest changes of settings that make a run fit, the mildest first."""
        singles = list(_advice(config, int(self._engine.facts["n_layer"]), self.longest(config)))
        if resume:
            singles = [single for single in singles if not changed_keys(config, with_settings(config, single))]
        together: dict[str, Any] = {}
        growing = []
        for single in singles:
            together = {**together, **single}
            growing.append(dict(together))
        for changes in (*singles, *growing):
            changed = with_settings(config, changes)
            choices = _choices(changed, self.longest(changed), resume=resume)
            if any(self.attempt(candidate, policy).fits for candidate, policy in choices):
                return changes
        return None

    def _sizes_of(self, config: Config) -> SizeArray:
        training, frozen = config.training, config.training.cache_frozen
        key = (training.tokens_per_pass, training.max_seq_length, frozen)
        if key not in self._sizes:
            self._sizes[key] = pass_sizes(self._passes_of(config), self._engine, frozen=frozen)
        return self._sizes[key]


def predict(config: Config, policy: Policy, engine: Engine, sizes: SizeArray, process: int) -> Memory:
    """What passes of these sizes take, beside `process` bytes that are held already."""
    lora, n_layer, n_embd = config.lora, int(engine.facts["n_layer"]), int(engine.facts["n_embd"])
    parts = engine.memory(
        sizes,
        rank=lora.rank,
        targets=lora.targets_in(engine.facts["targets"]),
        first_layer=max(0, n_layer - (lora.layers or n_layer)),
        moments=moments(config),
        policy=policy,
    )
    if config.training.cache_frozen:  # as read from the cache and as just computed
        parts["workspace"] += 2 * 4 * n_embd * int(sizes[:, PASS_SIZE.index("tokens")].max())
    return Memory({"process": process, **parts})


def moments(config: Config) -> Literal["f32", "8bit"]:
    """How the optimizer's state is kept."""
    return "8bit" if config.training.optim == "adamw_8bit" else "f32"


def with_settings(config: Config, changes: Mapping[str, Any]) -> Config:
    """A configuration with changes by key path, such as training.optim."""
    sections = {"lora": config.lora, "training": config.training}
    for path, value in changes.items():
        section, _, key = path.partition(".")
        sections[section] = replace(sections[section], **{{"r": "rank"}.get(key, key): value})  # type: ignore[type-var]
    return Config(**sections)  # type: ignore[arg-type]


def resident_bytes(model: Path) -> int:
    """What this process holds in memory, without the mapped model; its peak where the system tells no more."""
    try:
        lines = Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return int(peak_rss_mb() * 1e6)
    total, own = 0, True
    for line in lines:
        words = line.split(maxsplit=5)
        if "-" in words[0] and not words[0].endswith(":"):
            own = len(words) < 6 or words[5] != os.path.realpath(model)
        elif words[0] == "Rss:" and own:
            total += int(words[1]) * 1024
    return total


def _limit(config: Config, model: Path) -> Limit:
    # What this process holds already, of the model too, is no longer among what is available.
    free, source = available_within()
    machine = Limit(free + resident_bytes(model), source)
    most = config.training.max_ram
    if most is None or machine.n_bytes < most:
        return machine
    return Limit(most, f"training.max_ram: {_gb(most)}")


def _policies(config: Config) -> tuple[Policy, ...]:
    match config.training.activations:
        case "keep":
            return ("keep",)
        case "recompute":
            return ("recompute",)
        case _:
            return ("keep", "recompute")


def _choices(config: Config, longest: int, *, resume: bool) -> Iterator[tuple[Config, Policy]]:
    """Configurations and policies that compute the same, the fastest first."""
    most = config.training.tokens_per_pass
    least = longest if config.training.max_ram and not resume else most
    counts = _halves(most, least)
    for few in (False, True):
        for policy in _policies(config):
            for tokens in counts:
                slow = policy == "keep" and tokens < min(most, FEW_TOKENS)
                if slow == few:
                    yield with_settings(config, {"training.tokens_per_pass": tokens}), policy


def _advice(config: Config, n_layer: int, longest: int) -> Iterator[dict[str, Any]]:
    """Changes that save memory, one kind after the other, each from the mildest on; not those that max_ram makes."""
    training, lora = config.training, config.lora
    if training.activations == "keep":
        yield {"training.activations": "recompute"}
    for tokens in _halves(training.tokens_per_pass, longest)[1:] if training.max_ram is None else ():
        yield {"training.tokens_per_pass": tokens}
    if training.optim == "adamw":
        yield {"training.optim": "adamw_8bit"}
    for layers in _halves(lora.layers or n_layer, 1)[1:]:
        yield {"lora.layers": layers}
    for rank in _halves(lora.rank, 1)[1:]:
        yield {"lora.r": rank}


def _halves(most: int, least: int) -> list[int]:
    """`most`, its half, … down to `least`; `most` alone where that is no more."""
    counts = [most]
    while counts[-1] > least:
        counts.append(max(least, counts[-1] // 2))
    return counts


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB"
