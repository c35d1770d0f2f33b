"""What `cpuft build` made is run before it counts as built; what dies is built again for fewer instruction sets.

The programs here are tiny but real: they are compiled, and those that shall die do die of the signal.
"""

import json
import re
import subprocess
from pathlib import Path

import pytest

from cpuft.demo import BASE_MODEL
from cpuft.machine import cpu
from cpuft.toolchain import Toolchain, ladder, proof
from tests.toolchain.tiny import ENGINE, SERVER, TinyCheckout

DIES_NATIVE = "#ifdef NATIVE\n#define END __builtin_trap()\n#else\n#define END return 0\n#endif\n"
SAPPHIRE_RAPIDS = frozenset(
    "sse4_2 avx avx2 fma f16c bmi2 avx_vnni avx512f avx512bw avx512cd avx512dq avx512vl avx512vbmi avx512_vnni "
    "avx512_bf16 amx_tile amx_int8 amx_bf16".split()
)
FIRST_FALLBACK = list(ladder.rungs(cpu.cpu_features()))[1].without


def _checks(tiny: TinyCheckout) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in json.loads(tiny.run("doctor", "--json").stdout)}


def test_program_that_dies_is_compiled_for_fewer_instruction_sets(tiny: TinyCheckout) -> None:
    (tiny.llama / "ggml-cpu.c").write_text(DIES_NATIVE + "int llama_cpp_computes(void) { END; }\n")
    done = tiny.run("build", "--source", tiny.llama)
    assert done.returncode == 0, done.stderr
    assert (
        f"llama-quantize died of SIGILL: compiling the part of llama.cpp that computes again, without {FIRST_FALLBACK}."
        in done.stderr.splitlines()
    )
    assert tiny.compiled_files().count("ggml-cpu.c") == 2
    assert tiny.compiled_files().count("ggml-base.c") == 1
    programs = _checks(tiny)["programs"]
    assert programs["status"] == "works"
    assert programs["found"].endswith(f"without {FIRST_FALLBACK}")
    assert programs["mend"] == "llama-quantize died of SIGILL with it when it was built"
    assert "Everything is up to date." in tiny.run("build", "--source", tiny.llama).stdout


@pytest.mark.parametrize(
    ("computes", "said"),
    [
        ("__builtin_trap()", "llama-quantize died of SIGILL, whatever it is compiled for"),
        ("*(volatile int *)0 = 0; return 0", "llama-quantize died of SIGSEGV, whatever it is compiled for"),
        ("return 3", "llama-quantize ended with status 3 when it was tried (Final estimate: PPL = "),
    ],
)
def test_programs_that_never_work_are_not_taken_for_built(computes: str, said: str, tiny: TinyCheckout) -> None:
    (tiny.llama / "ggml-cpu.c").write_text(f"int llama_cpp_computes(void) {{ {computes}; }}\n")
    done = tiny.run("build", "--source", tiny.llama)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert not list(tiny.cache.glob("llama/*/complete.json"))
    assert "run `cpuft build`" in tiny.locate().stderr


def test_wrong_numbers_count_as_a_fault(tiny: TinyCheckout) -> None:
    program = tiny.llama / "llama-perplexity.cpp"
    wrong = "#ifdef GGML\n#define SUM 1.5\n#else\n#define SUM 1\n#endif\n"
    program.write_text(wrong + program.read_text().replace("PERPLEXITY)", "PERPLEXITY * SUM)"))
    with (tiny.llama / "CMakeLists.txt").open("a") as lists:
        lists.write("if(GGML_NATIVE)\ntarget_compile_definitions(llama-perplexity PRIVATE GGML)\nendif()\n")
    done = tiny.run("build", "--source", tiny.llama)
    assert done.returncode == 0, done.stderr
    assert f"llama-perplexity gave {1.5 * proof.PERPLEXITY:.6f}"[:24] in done.stderr
    assert f"without {FIRST_FALLBACK}." in done.stderr


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("int main() {", "int main() {\n    std::abort();"),  # while it starts
        ("if (llama_cpp_computes() != 0)", "if (raise(SIGABRT) != 0)"),  # at the first request
    ],
)
def test_server_that_dies(before: str, after: str, tiny: TinyCheckout) -> None:
    server = SERVER.replace("#include <cstdio>", "#include <csignal>\n#include <cstdio>\n#include <cstdlib>")
    assert before in server
    (tiny.llama / "llama-server.cpp").write_text(server.replace(before, after))
    done = tiny.run("build", "--source", tiny.llama)
    assert done.returncode == 2
    assert "llama-server died of SIGABRT, whatever it is compiled for" in done.stderr.splitlines()[-1]


@pytest.mark.skipif(cpu.engine_isas() == ["reference"], reason="this CPU runs one kernel table alone")
def test_kernel_tables_that_die_are_not_used(tiny: TinyCheckout) -> None:
    """The engine takes the best that is left, and doctor says so; CPUFT_ISA still has the last word."""
    best = cpu.best_isa(cpu.cpu_features(), cpu.cpu_vendor())
    source = "#include <cstring>\n" + ENGINE.replace(
        "return", f'if (!std::strcmp(isa, "{best}")) __builtin_trap(); return'
    )
    (tiny.project / "cpuft" / "native" / "engine.cpp").write_text(source)
    done = tiny.run("build", "--source", tiny.llama)
    assert done.returncode == 0, done.stderr
    assert f"the engine's {best} code died of SIGILL: it will not be used." in done.stderr.splitlines()
    second = cpu.best_isa(cpu.cpu_features(), cpu.cpu_vendor(), [best])
    checks = _checks(tiny)
    assert checks["instruction set"]["found"] == second
    assert checks["training"]["status"] == "works"
    assert best not in checks["training"]["found"].split()
    assert checks["training"]["mend"] == f"the engine's {best} code died of SIGILL: it is not used"
    asked = "from cpuft.engine.abi import default_isa; print(default_isa())"
    assert tiny.python(asked).stdout.split() == [second]
    assert tiny.python(asked, CPUFT_ISA=best).stdout.split() == ["None"]


def test_engine_whose_plain_code_dies(tiny: TinyCheckout) -> None:
    source = ENGINE.replace("return", "__builtin_trap(); return")
    (tiny.project / "cpuft" / "native" / "engine.cpp").write_text(source)
    done = tiny.run("build", "--source", tiny.llama)
    assert done.returncode == 2, done.stdout
    assert "the engine's reference code died of SIGILL" in done.stderr.splitlines()[-1]
    assert "run `cpuft build`" in tiny.locate().stderr


def test_doctor_finds_what_broke_since(tiny: TinyCheckout) -> None:
    tiny.run("build", "--source", tiny.llama)
    assert _checks(tiny)["programs"]["status"] == "works"
    (server,) = tiny.cache.glob("llama/*/bin/llama-server")
    server.unlink()
    server.write_text("#!/bin/sh\nkill -ILL $$\n")
    server.chmod(0o755)
    programs = _checks(tiny)["programs"]
    assert programs["status"] == "missing"
    assert (programs["found"], programs["mend"]) == ("llama-server died of SIGILL", "run `cpuft build --force`")


def test_the_ladder_of_a_cpu_with_everything() -> None:
    native, no_amx, no_avx512, no_avx = ladder.rungs(SAPPHIRE_RAPIDS)
    assert native == ladder.Rung("", {"GGML_NATIVE": "ON"})
    assert no_amx.without == "AMX"
    assert {name for name, value in no_amx.options.items() if value == "OFF"} == {
        "GGML_NATIVE", "GGML_AMX_TILE", "GGML_AMX_INT8", "GGML_AMX_BF16",
    }  # fmt: skip
    assert no_avx512.without == "AMX and AVX-512"
    assert {name for name, value in no_avx512.options.items() if value == "ON"} == {
        "GGML_SSE42", "GGML_AVX", "GGML_AVX2", "GGML_BMI2", "GGML_FMA", "GGML_F16C", "GGML_AVX_VNNI",
    }  # fmt: skip
    assert {name for name, value in no_avx.options.items() if value == "ON"} == {"GGML_SSE42"}


def test_the_ladder_of_other_cpus() -> None:
    assert [rung.without for rung in ladder.rungs(frozenset({"sse4_2", "avx", "avx2"}))] == ["", "AVX"]
    arm = list(ladder.rungs(frozenset({"asimd", "i8mm"})))
    assert [rung.options["GGML_NATIVE"] for rung in arm] == ["ON", "OFF"]


def test_the_real_programs_are_proven(built: Toolchain, tmp_path: Path) -> None:
    assert proof.prove_llama(built.lib_dir, tmp_path / "log") is None
    assert "Final estimate" in (tmp_path / "log").read_text()
    assert proof.prove_engine(built.engine_library, cpu.engine_isas(), tmp_path / "log") == {}


@pytest.mark.parametrize("file_type", ["q4_0", "q4_1", "q8_0", "q4_k", "q5_k", "q6_k", "iq4_xs", "f16"])
def test_code_for_this_cpu_agrees_with_llama_cpps_plain_products(
    file_type: str, built: Toolchain, tmp_path: Path
) -> None:
    """These are the types that AMX multiplies, and others that are packed anew for wide vectors."""
    model, text = tmp_path / "model.gguf", tmp_path / "text"
    text.write_text(12 * proof.TEXT)
    quantize: list[str | Path] = [built.tool("llama-quantize"), "--allow-requantize", BASE_MODEL, model, file_type]
    subprocess.run(quantize, capture_output=True, check=True)
    perplexity: list[str | Path] = [built.tool("llama-perplexity"), "--model", model, "--file", text, *proof.READING]
    estimates = []
    for more in ([], ["--no-repack"]):
        done = subprocess.run([*perplexity, *more], capture_output=True, text=True, check=True)
        estimates += [float(found) for found in re.findall(r"Final estimate: PPL = (\S+)", done.stdout + done.stderr)]
    assert estimates[0] == pytest.approx(estimates[1], rel=0.01)


def test_programs_print_to_the_end_on_a_busy_machine(built: Toolchain, tmp_path: Path) -> None:
    """Without the mend in llama.cpp's logging, several of so many at once lose their last line."""
    text = tmp_path / "text"
    text.write_text(12 * proof.TEXT)
    command: list[str | Path] = [built.tool("llama-perplexity"), "--model", BASE_MODEL, "--file", text, *proof.READING]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(24)]
    printed = [process.communicate(timeout=120)[0] for process in running]
    assert [b"Final estimate" in output for output in printed] == [True] * len(running)
