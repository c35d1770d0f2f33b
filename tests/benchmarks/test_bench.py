"""`cpuft bench` on a tiny shape: the keys that results are read by, both sides' work, and what bad input says."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import gemm, merge, shapes, step_profile, train_throughput
from cpuft import demo
from cpuft.cli.main import cli
from cpuft.errors import CpuftError
from cpuft.toolchain import sources
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("built")

# What benchmarks/RESULTS.md and the targets are read from.
TRAIN_KEYS = {
    "benchmark", "shape", "base_type", "tokens", "isa", "tok_s", "tok_s_min", "tok_s_max", "peak_rss_mb", "mfu",
    "peer", "peer_tok_s", "peer_peak_rss_mb", "ratio", "cpu", "date",
}  # fmt: skip
# Relative L2 distance to the product in double. float32: far below a rounding a sum of 320 could lose; bfloat16: two
# operands rounded to 8 bits; int8: activations rounded to 1/127 of a block's largest.
MOST_RESIDUAL = {"f32": 1e-6, "bf16": 2.0**-8, "int8": 2e-2}
# Stands for the peer's Python: notes its environment and arguments, answers with known times.
PEER = """#!/bin/sh
echo "$ATEN_CPU_CAPABILITY $ONEDNN_MAX_CPU_ISA $MKL_ENABLE_INSTRUCTIONS" > "{log}"
echo "$2" >> "{log}"
echo '{{"n_threads": 1, "seconds": [1.0, 4.0, 2.0], "peak_rss_mb": 7}}'
"""


def bench(*arguments: str | int | Path) -> list[dict[str, Any]]:
    """The JSON lines of `cpuft bench ARGUMENTS`."""
    result = CliRunner().invoke(cli, ["bench", *map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_train(models: Path) -> None:
    (row,) = bench("train", "--shape", "tiny", "--models", models, "--tokens", 32, "--repeats", 2, "--threads", 1)
    assert row.keys() >= TRAIN_KEYS
    assert 0 < row["tok_s_min"] <= row["tok_s"] <= row["tok_s_max"]
    assert (row["threads"], row["repeats"], row["peer"]) == (1, 2, None)
    assert row["mfu"] is None or 0 < row["mfu"] < 1


@pytest.mark.parametrize(
    ("peer", "dtype", "isa", "environment"),
    [("peft-f32", "float32", ["--peer-isa", "avx2"], "avx2 AVX2 AVX2"), ("peft-bf16", "bfloat16", [], "")],
)
def test_the_peer_gets_the_same_work(
    peer: str,
    dtype: str,
    isa: list[str],
    environment: str,
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in train_throughput.PEER_ISAS["avx2"]:
        monkeypatch.delenv(name, raising=False)
    python, log = tmp_path / "python", tmp_path / "log"
    python.write_text(PEER.format(log=log))
    python.chmod(0o755)
    work = ("--tokens", 32, "--repeats", 3, "--threads", 1)
    (row,) = bench("train", "--shape", "tiny", "--models", models, *work, "--peer", peer, "--peer-python", python, *isa)
    held, settings = log.read_text().splitlines()
    assert held.strip() == environment
    wanted = {"dtype": dtype, "tokens": 32, "repeats": 3, "threads": 1, "rank": 16, "n_embd": 256, "n_layer": 2}
    assert wanted.items() <= json.loads(settings).items()
    assert (row["peer"], row["peer_isa"], row["peer_peak_rss_mb"]) == (peer, isa[1] if isa else None, 7)
    assert (row["peer_tok_s"], row["peer_tok_s_min"], row["peer_tok_s_max"]) == (16, 8, 32)
    assert row["ratio"] == pytest.approx(row["tok_s"] / 16, abs=1e-3)


def test_gemm_is_right_in_every_precision_type_and_direction() -> None:
    rows = bench("gemm", "--size", "80x256", "--tokens", 33, "--repeats", 1, "--threads", 2)
    assert {(row["type"], row["direction"]) for row in rows} == {(t, d) for t in gemm.TYPES for d in gemm.DIRECTIONS}
    assert "f32" in {row["precision"] for row in rows}
    for row in rows:
        assert 0 < row["residual"] < MOST_RESIDUAL[row["precision"]], row
        assert row["gflops"] > 0
        assert 0 < row["pack_share"] < 1
        assert row["fill_ns"] > 0


def test_gemm_leaves_out_types_whose_blocks_do_not_fit() -> None:
    arguments = ["bench", "gemm", "--size", "16x96", "--tokens", "3", "--repeats", "1", "--precision", "f32", "--json"]
    result = CliRunner().invoke(cli, [*arguments, "--type", "q4_k", "--type", "q8_0"])
    assert [json.loads(line)["type"] for line in result.stdout.splitlines()] == ["q8_0", "q8_0"]
    assert "Rows of 96 values are no whole blocks of q4_k" in result.stderr


def test_gemm_covers_the_layers_of_a_model() -> None:
    sizes = {layers.names: (layers.outputs, layers.inputs) for layers in gemm.layers_of("qwen2.5-3b")}
    assert sizes == {
        "attn_q+attn_output": (2048, 2048), "attn_k+attn_v": (256, 2048), "ffn_gate+ffn_up": (11008, 2048),
        "ffn_down": (2048, 11008),
    }  # fmt: skip


def test_attention_is_right_in_both_directions_of_every_head_size() -> None:
    rows = bench("attention", "--tokens", 70, "--heads", 2, "--kv-heads", 1, "--repeats", 1, "--threads", 2)
    sizes = {(row["head_size"], row["direction"]) for row in rows}
    assert sizes == {(size, direction) for size in (64, 128, 256) for direction in ("forward", "backward")}
    for row in rows:
        assert 0 < row["residual"] < 2 * MOST_RESIDUAL[row["precision"]], row  # of gradients, behind two products
        assert row["of_gemm"] == pytest.approx(row["gflops"] / row["gemm_gflops"], abs=1e-3)


def test_memory(models: Path) -> None:
    lengths = ("--tokens", 16, "--tokens", 1024)
    rows = bench("memory", "--shape", "tiny", "--models", models, *lengths, "--threads", 1)
    peaks = {(row["tokens"], row["activations"]): row["peak_rss_mb"] for row in rows}
    assert list(peaks) == [(16, "keep"), (16, "recompute"), (1024, "keep"), (1024, "recompute")]
    assert peaks[1024, "keep"] > peaks[16, "keep"]
    assert peaks[1024, "keep"] > peaks[1024, "recompute"]


def test_memory_by_optimizer(models: Path) -> None:
    optimizers = ("--optimizer", "adamw", "--optimizer", "adamw_8bit")
    work = ("--tokens", 16, "--activations", "keep", "--threads", 1)
    whole, small = bench("memory", "--shape", "tiny", "--models", models, *work, *optimizers)
    assert (whole["optimizer"], small["optimizer"]) == ("adamw", "adamw_8bit")
    assert small["moments_mb"] == pytest.approx(whole["moments_mb"] * (2 + 8 / 256) / 8, abs=0.1)


@pytest.mark.parametrize(
    ("by", "field"), [("threads", "threads"), ("length", "tokens"), ("rank", "rank"), ("targets", "n_targets")]
)
def test_scaling(by: str, field: str, models: Path) -> None:
    work = ("--tokens", 16, "--repeats", 1, "--rank", 2)
    values = ("--by", by, "--value", 3, "--value", 6)
    rows = bench("scaling", "--shape", "tiny", "--models", models, *work, *values)
    assert [(row["by"], row["value"], row[field]) for row in rows] == [(by, 3, 3), (by, 6, 6)]
    assert rows[0]["speedup"] == 1
    assert rows[1]["speedup"] == pytest.approx(rows[1]["tok_s"] / rows[0]["tok_s"], abs=1e-3)
    efficiency = pytest.approx(rows[1]["speedup"] / 2, abs=1e-3) if by == "threads" else None
    assert rows[1]["efficiency"] == efficiency


def test_profile(models: Path) -> None:
    rows = bench("profile", "--shape", "tiny", "--models", models, "--tokens", 32, "--repeats", 2, "--threads", 1)
    seconds = {row["part"]: row["seconds"] for row in rows}
    shares = {row["part"]: row["share"] for row in rows}
    parts, sums = list(seconds)[:-2], list(seconds)[-2:]
    assert sums == ["gemm + attention", "everything else"]
    assert {"rmsnorm", "optimizer", "other", *step_profile.PRODUCTS} <= set(parts)
    assert min(seconds.values()) > 0
    products = sum(seconds[part] for part in step_profile.PRODUCTS)
    assert seconds["gemm + attention"] == pytest.approx(products, abs=1e-5)
    # What Python adds to a step belongs to no part.
    assert sum(seconds[part] for part in parts) <= sum(seconds[part] for part in sums) * 1.001 + 1e-5
    assert shares["gemm + attention"] + shares["everything else"] == pytest.approx(1, abs=1e-3)


def test_prefix() -> None:
    """A step's examples share a beginning in one way, in the others none, whatever the speed."""
    arguments = ("--prefix", 70, "--examples", 3, "--repeats", 1, "--threads", 1, "--tokens-per-pass", 800)
    shared, distinct, alone = bench("prefix", *arguments)
    assert [row["way"] for row in (shared, distinct, alone)] == ["shared", "distinct", "alone"]
    assert shared["tokens"] == distinct["tokens"] == alone["tokens"] > 3 * 70
    assert shared["computed"] < distinct["computed"] == alone["computed"] < alone["tokens"]
    assert (distinct["computed"] - shared["computed"]) % 64 == 0
    assert alone["passes"] == 3
    assert shared["passes"] <= distinct["passes"] < 3
    assert distinct["ratio"] == 1


def test_plan(models: Path) -> None:
    """Memory as it was foretold; time has its own say."""
    (row,) = bench("plan", "--shape", "tiny", "--models", models, "--steps", 1, "--threads", 1)
    assert row["ratio_mb"] == pytest.approx(row["planned_mb"] / row["peak_rss_mb"], abs=0.02)
    assert 0.85 < row["ratio_mb"] < 1.15
    assert row["ratio_s"] > 0
    assert sum(row["parts_mb"].values()) <= row["planned_mb"]


def test_synth() -> None:
    """The demo's base model, which the schema holds to answers that would not end in so few tokens."""
    work = ("--parallel", 4, "--requests", 6, "--alone", 2, "--max-tokens", 24, "--threads", 1)
    (row,) = bench("synth", "--model", demo.BASE_MODEL, *work)
    assert (row["threads"], row["slots"], row["slot_context"], row["bar"]) == (1, 4, 1024, 2.5)
    assert (row["one_requests"], row["one_tokens"]) == (2, 2 * 2 * 24)
    assert (row["many_requests"], row["many_tokens"]) == (6, 2 * 6 * 24)
    for side in ("one", "many"):
        assert 0 < row[f"{side}_tok_s_min"] <= row[f"{side}_tok_s"] <= row[f"{side}_tok_s_max"]
    assert row["ratio"] == pytest.approx(row["many_tok_s"] / row["one_tok_s"], rel=1e-2)
    assert "--cache-ram 0" in row["cache"]


def test_synth_on_random_weights(models: Path) -> None:
    work = ("--parallel", 2, "--requests", 2, "--alone", 1, "--max-tokens", 8, "--threads", 1, "--unconstrained")
    (row,) = bench("synth", "--shape", "tiny", "--models", models, *work)
    assert (row["model"], row["constrained"]) == ("tiny-q4_k_m", False)
    assert 0 < row["many_tokens"] <= 2 * 2 * 8


def test_merge(models: Path) -> None:
    before = set(models.iterdir())
    (row,) = bench("merge", "--shape", "tiny", "--models", models, "--repeats", 1, "--threads", 1)
    assert row["ratio"] == pytest.approx(row["peer_seconds"] / row["seconds"], rel=0.05)
    assert row["peak_rss_mb"] > 0
    assert row["peer_peak_rss_mb"] > 0
    assert {path.name for path in set(models.iterdir()) - before} <= {"tiny-q4_k_m.gguf"}


def test_merge_compares_like_with_like(models: Path) -> None:
    ours, theirs = (shapes.model_file(models, "tiny", file_type) for file_type in ("q4_k_m", "q8_0"))
    merge.require_same_types(ours, ours)
    with pytest.raises(CpuftError, match="chose different types"):
        merge.require_same_types(ours, theirs)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "--shape", "tiny", "--isa", "mmx"], 'unknown isa "mmx"'),
        (["gemm", "--isa", "mmx"], "unknown isa 'mmx'"),
        (["gemm", "--size", "12"], "expected OUTPUTSxINPUTS"),
        (["attention", "--heads", "3", "--kv-heads", "2"], "3 query heads cannot share 2 key heads"),
        (["scaling", "--value", "3"], "--value needs one --by"),
        (["train", "--shape", "tiny", "--peer", "peft-f32", "--peer-python", "gone"], "run `make peers`"),
        (["merge", "--shape", "tiny", "--repeats", "1", "--type", "nope"], "unknown type 'nope'"),
        (["synth", "--model", "nope"], "no model nope in"),
    ],
)
def test_a_mistake_is_a_sentence(arguments: list[str], sentence: str, models: Path) -> None:
    folder = [] if arguments[0] in ("gemm", "attention") else ["--models", str(models)]
    result = CliRunner().invoke(cli, ["bench", *arguments, *folder])
    assert result.exit_code == 2
    assert sentence in result.stderr


def test_an_installed_package_says_where_the_benchmarks_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PACKAGE", tmp_path / "cpuft")
    for arguments in (["--help"], ["train", "--shape", "tiny"]):
        result = CliRunner().invoke(cli, ["bench", *arguments])
        assert result.exit_code == 2
        assert result.stderr.startswith("Error: the benchmarks are not part of the package")
        assert "from a checkout" in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_bench_is_found_from_any_folder(tmp_path: Path) -> None:
    """As from the command that pip installs, which does not know the checkout's folder."""
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from cpuft.cli.main import cli; cli(['bench', '--help'])"
    )
    (tmp_path / "cpuft").symlink_to(ROOT / "cpuft")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "scaling" in done.stdout


SCRIPTS = (
    *("train_throughput", "gemm", "attention", "memory", "plan"),
    *("scaling", "step_profile", "precision", "prefix", "merge", "synth_throughput"),
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_script_is_its_command(script: str) -> None:
    command: list[str | Path] = [sys.executable, ROOT / "benchmarks" / f"{script}.py", "--help"]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: cpuft bench ")
    assert "Examples:" in done.stdout
