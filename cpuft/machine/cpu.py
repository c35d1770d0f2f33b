"""What the CPU of this machine can do, and which of the engine's kernels it can run."""

import math
import os
import platform
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from cpuft.machine.cgroups import group_folders

_AVX2 = frozenset({"avx2", "fma", "f16c"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}

STAT = Path("/proc/stat")
# The engine's instruction sets, widest first, each with the features (as /proc/cpuinfo names them) that its kernels
# use.
ENGINE_ISAS: dict[str, frozenset[str]] = {
    "avx512bf16": _AVX512 | {"avx512_vnni", "avx512_bf16"},
    "avx512vnni": _AVX512 | {"avx512_vnni"},
    "avx512": _AVX512,
    "avxvnni": _AVX2 | {"avx_vnni"},
    "avx2": _AVX2,
    "reference": frozenset(),
}
# Where this made the CPU, a product of bfloat16 is slower than one of float32: native/kernels/select.cpp has figures.
SLOW_BF16_VENDOR = "GenuineIntel"

# Features that change what a compiler may emit for this CPU. The rest of the flags name the kernel's and the
# hypervisor's abilities and come and go with their updates.
_CODE_FEATURE = re.compile(
    r"(s?sse\w*|pni|avx\w*|fma4?|f16c|bmi[12]|abm|lzcnt|popcnt|movbe|v?aes|v?pclmulqdq|gfni|sha\w*|amx\w*|adx|xop|tbm"
    r"|asimd\w*|fp|fphp|sve\w*|sme\w*|i8mm|bf16|atomics|crc32|dotprod)"
)


def cpu_model() -> str:
    """The CPU's name, or its architecture where the system does not tell the name."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def cpu_features() -> frozenset[str]:
    """The features that matter to compiled code; empty where the system does not list them."""
    info = _cpuinfo()
    flags = info.get("flags") or info.get("Features") or ""
    return frozenset(flag for flag in flags.split() if _CODE_FEATURE.fullmatch(flag))


def cpu_vendor() -> str:
    """The CPU's maker as /proc/cpuinfo names it; empty where the system does not tell."""
    return _cpuinfo().get("vendor_id", "")


def best_isa(features: frozenset[str], vendor: str, broken: Iterable[str] = ()) -> str:
    """The fastest instruction set of the engine that a CPU with these features runs, none of `broken`."""
    slow = {"avx512bf16"} if vendor == SLOW_BF16_VENDOR else set()
    left = (isa for isa, needed in ENGINE_ISAS.items() if needed <= features and isa not in {*slow, *broken})
    return next(left, "reference")


def engine_isas() -> list[str]:
    """The instruction sets of the engine that this CPU runs, plain C++ first."""
    features = cpu_features()
    return [isa for isa, needed in reversed(ENGINE_ISAS.items()) if needed <= features]


def available_cpus() -> int:
    """How many CPUs this process may run on at a time.

    A control group's quota counts, rounded up: threads beyond it only make each other wait.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(math.ceil(quota) for quota in _quotas())]))


def _quotas() -> Iterator[float]:
    """The CPUs that each control group around this process grants it, where it limits them."""
    for version, folder in group_folders("cpu"):
        try:
            if version == 2:
                most, period = (folder / "cpu.max").read_text(encoding="ascii").split()
            else:
                most, period = (
                    (folder / name).read_text(encoding="ascii") for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
                )
            quota = float(most) / float(period)
        except (OSError, ValueError, ZeroDivisionError):  # no such file; "max"
            continue
        if quota > 0:  # version 1 says -1 for no limit
            yield quota


class CpuLoad:
    """What other programs use of the CPUs that this process may run on, from when the object is made."""

    def __init__(self) -> None:
        self._began = self._now()

    def others(self) -> float:
        """Their share since then, from 0 to 1; 0 where the system does not tell.

        What a hypervisor gave to other machines counts as theirs. Linux counts in ticks of 10 ms.
        """
        wall, busy, own = (now - began for now, began in zip(self._now(), self._began, strict=True))
        return min(1.0, max(0.0, busy - own) / (wall * available_cpus())) if wall > 0 else 0.0

    @staticmethod
    def _now() -> tuple[float, float, float]:
        return time.perf_counter(), _busy_seconds(), time.process_time()


def _busy_seconds() -> float:
    """For how long the CPUs of this process have worked, together and for whomever; 0 where that is unknown."""
    try:
        lines = STAT.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    own = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    ticks = 0
    for name, *counts in map(str.split, lines):
        if name in own:  # user, nice, system, idle, iowait, irq, softirq, steal; guests are in the first two
            ticks += sum(int(count) for i, count in enumerate(counts[:8]) if i not in (3, 4))
    return ticks / os.sysconf("SC_CLK_TCK")


def _cpuinfo() -> dict[str, str]:
    """The first processor's entry of /proc/cpuinfo; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
