"""Which instruction sets llama.cpp is compiled for: at first all of this CPU's, then fewer, until its programs work."""

from collections.abc import Iterator
from dataclasses import dataclass

# llama.cpp's options for x86, each with the features (as /proc/cpuinfo names them) that its code uses.
_X86_OPTIONS: dict[str, frozenset[str]] = {
    "GGML_SSE42": frozenset({"sse4_2"}),
    "GGML_AVX": frozenset({"avx"}),
    "GGML_AVX2": frozenset({"avx2"}),
    "GGML_BMI2": frozenset({"bmi2"}),
    "GGML_FMA": frozenset({"fma"}),
    "GGML_F16C": frozenset({"f16c"}),
    "GGML_AVX_VNNI": frozenset({"avx_vnni"}),
    "GGML_AVX512": frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
    "GGML_AVX512_VBMI": frozenset({"avx512vbmi"}),
    "GGML_AVX512_VNNI": frozenset({"avx512_vnni"}),
    "GGML_AVX512_BF16": frozenset({"avx512_bf16"}),
    "GGML_AMX_TILE": frozenset({"amx_tile"}),
    "GGML_AMX_INT8": frozenset({"amx_int8"}),
    "GGML_AMX_BF16": frozenset({"amx_bf16"}),
}
# What is left out step by step, with all before it: the youngest and least tried first. A feature of a family starts
# with one of its prefixes.
_FAMILIES = (("AMX", ("amx",)), ("AVX-512", ("avx512",)), ("AVX", ("avx", "fma", "f16c", "bmi2")))


@dataclass(frozen=True)
class Rung:
    """One choice of instruction sets: what it leaves out, in words ("" where nothing), and CMake's options for it."""

    without: str
    options: dict[str, str]


def rungs(features: frozenset[str]) -> Iterator[Rung]:
    """Yields the choices for a CPU with these features, the fastest first.

    The first leaves it to the compiler what the CPU has. The others name what they use; where the features of a CPU
    are of no family above, there is one other, what every CPU of its architecture has.
    """
    yield Rung("", {"GGML_NATIVE": "ON"})
    left_out: list[str] = []
    for family, prefixes in _FAMILIES:
        if any(feature.startswith(prefixes) for feature in features):
            features = frozenset(feature for feature in features if not feature.startswith(prefixes))
            left_out.append(family)
            yield Rung(" and ".join(left_out), {"GGML_NATIVE": "OFF", **_explicit(features)})
    if not left_out:
        yield Rung("the instruction sets that not every CPU has", {"GGML_NATIVE": "OFF", **_explicit(frozenset())})


def _explicit(features: frozenset[str]) -> dict[str, str]:
    return {option: "ON" if needed <= features else "OFF" for option, needed in _X86_OPTIONS.items()}
