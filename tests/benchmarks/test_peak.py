"""The peak is that of all chains at once: the compiled loops hold every multiply-add that they count."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks import peak
from cpuft.toolchain.compiler import find_compilers

MIN_CHAINS = 12  # what hides the latency: see peak.cpp
LOOPS = {"f32_ymm": "vfmadd231ps", "f32_zmm": "vfmadd231ps", "bf16_zmm": "vdpbf16ps", "int8_zmm": "vpdpbusd",
         "int8_ymm": "vpdpbusd"}  # fmt: skip
INSTRUCTION = re.compile(r"^ *([0-9a-f]+):\s+(.*)$")
JUMP = re.compile(r"^j\w+ +([0-9a-f]+) ")

# Equal chains from intrinsics: what the compiler makes of them is one chain.
MERGED = """
#include <immintrin.h>
[[gnu::target("avx2,fma")]] void f32_ymm(__m256 a, __m256 b, float* out) {
    __m256 sums[12] = {};
    for (long round = 0; round < 20000000; ++round) {
        asm volatile("" : "+x"(a), "+x"(b));
#pragma GCC unroll 12
        for (__m256& sum : sums) sum = _mm256_fmadd_ps(a, b, sum);
    }
    for (int i = 0; i < 12; ++i) out[i] = sums[i][0];
}
"""

pytestmark = pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is not installed")


def loop_of(program: Path, function: str, mnemonic: str) -> list[str]:
    """The instructions of a function's loop with this one in it: from where its backward jump goes to that jump."""
    listing = subprocess.run(
        ["objdump", "-dC", "--no-show-raw-insn", program], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    body: dict[int, str] = {}
    inside = False
    for line in listing:
        if line.endswith(">:"):
            inside = f"{function}(" in line
        elif inside and (found := INSTRUCTION.match(line)):
            body[int(found[1], 16)] = found[2]
    jumps = ((at, int(jump[1], 16)) for at, text in body.items() if (jump := JUMP.match(text)))
    loops = [[text for at, text in body.items() if first <= at <= last] for last, first in jumps if first <= last]
    loops = [loop for loop in loops if any(mnemonic in text.split() for text in loop)]
    assert len(loops) == 1, f"{function} has {len(loops)} loops with {mnemonic}"
    return loops[0]


def chains(loop: list[str], mnemonic: str) -> set[str]:
    """The registers that are added to; a chain that went through memory would show no register of its own."""
    return {text.rpartition(",")[2].strip() for text in loop if mnemonic in text.split()}


@pytest.mark.parametrize("function", LOOPS)
def test_every_chain_is_in_the_loop(function: str) -> None:
    mnemonic = LOOPS[function]
    loop = loop_of(peak.peak_program(), function, mnemonic)
    count = sum(mnemonic in text.split() for text in loop)
    assert count >= MIN_CHAINS
    assert len(chains(loop, mnemonic)) == count
    assert not [text for text in loop if "(%r" in text], "the loop touches memory"
    declared = re.search(rf"k{function[-3:].title()}Chains = (\d+)", peak.SOURCE.read_text())
    assert declared is not None
    assert count == int(declared[1])


def test_merged_chains_would_be_noticed(tmp_path: Path) -> None:
    source, program = tmp_path / "merged.cpp", tmp_path / "merged.o"
    source.write_text(MERGED)
    subprocess.run([find_compilers().cxx, "-O2", "-std=c++17", "-c", source, "-o", program], check=True)
    assert len(chains(loop_of(program, "f32_ymm", "vfmadd231ps"), "vfmadd231ps")) < MIN_CHAINS


def test_only_known_pairs_are_measured() -> None:
    """A pair without a loop is no figure; nor are the reference kernels."""
    assert peak.measure_peak("avx2", "int8", 1) is None
    assert peak.measure_peak("reference", "f32", 1) is None
