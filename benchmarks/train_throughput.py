"""Training speed and memory on random weights in the exact shape of a public model, beside a peer in the same run."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.engine_side import Settings, run_engine
from benchmarks.fresh_process import HERE, ROOT, figures_of
from benchmarks.options import (
    activations_option,
    json_option,
    kernel_options,
    model_options,
    repeats_option,
    tokens_option,
)
from benchmarks.peak import measure_peak
from benchmarks.report import Row, print_row, rates
from benchmarks.shapes import SHAPES, model_file

PEER_PYTHON = ROOT / ".venv-peers" / "bin" / "python"  # has torch, transformers and peft: `make peers`
PEERS = {"peft-bf16": "bfloat16", "peft-f32": "float32", "none": ""}
# What holds PyTorch's own kernels, oneDNN and MKL, which multiplies float32, to an instruction set.
PEER_ISAS = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
}


@click.command("train")
@model_options(default_shape=None)
@tokens_option
@click.option("--peer", type=click.Choice(list(PEERS)), default="none", show_default=True, help="Whom to compare with.")
@click.option(
    "--peer-python",
    type=click.Path(dir_okay=False, path_type=Path),
    default=PEER_PYTHON,
    help="Its Python; that of `make peers` by default.",
)
@click.option("--peer-checkpointing", is_flag=True, help="The peer recomputes its activations.")
@click.option("--peer-isa", type=click.Choice(list(PEER_ISAS)), help="Hold the peer to an instruction set.")
@kernel_options()
@activations_option
@repeats_option
@json_option
def main(as_json: bool, peer: str, peer_python: Path, **options: Any) -> None:
    """Training speed and memory on random weights in the shape of a public model, beside a peer in the same run.

    Optimizer steps over one sequence of --tokens tokens, all supervised, LoRA rank 16 on the seven linear layers,
    AdamW. tok_s is that of the median step, with the slowest and the fastest beside it. Each side runs in a process of
    its own. mfu: useful operations a second over the peak that a register-only loop reaches in the same run.

    \b
    Examples:
      cpuft bench train --shape qwen2.5-0.5b --tokens 512 --peer peft-bf16 --json
      cpuft bench train --shape qwen2.5-0.5b --isa avx2 --peer peft-f32 --peer-isa avx2
      cpuft bench train --shape qwen2.5-3b --precision int8 --activations recompute
    """
    if peer != "none" and not peer_python.exists():
        raise click.UsageError(f"--peer needs torch, transformers and peft in {peer_python}: run `make peers`")
    print_row("train", compare(peer=peer, peer_python=peer_python, **options), as_json)


def compare(
    *,
    shape: str,
    base_type: str,
    tokens: int,
    models: Path,
    peer: str,
    peer_python: Path,
    peer_checkpointing: bool,
    peer_isa: str | None,
    **options: Any,
) -> Row:
    """Both sides' figures; options: further fields of Settings."""
    settings = Settings(str(model_file(models, shape, base_type)), tokens, **options)
    ours = run_engine(settings)
    speed = rates(tokens, ours["seconds"], "tok_s")
    peak = measure_peak(ours["isa"], ours["precision"], ours["n_threads"])
    useful = SHAPES[shape].operations(tokens, settings.rank) * speed["tok_s"]
    row = {
        "shape": shape,
        "base_type": base_type,
        "tokens": tokens,
        "isa": ours["isa"],
        "precision": ours["precision"],
        "threads": ours["n_threads"],
        "activations": settings.activations,
        "repeats": settings.repeats,
        **speed,
        "peak_rss_mb": ours["peak_rss_mb"],
        "mfu": round(useful / peak, 4) if peak else None,
        "peak_gflops": round(peak / 1e9, 1) if peak else None,
    }
    if peer == "none":
        return row | {"peer": None, "peer_tok_s": None, "peer_peak_rss_mb": None, "ratio": None}
    theirs = run_peer(peer_python, shape, peer, settings, checkpointing=peer_checkpointing, isa=peer_isa)
    peer_speed = rates(tokens, theirs["seconds"], "peer_tok_s")
    return row | {
        "peer": peer,
        "peer_isa": peer_isa,
        "peer_checkpointing": peer_checkpointing,
        "peer_threads": theirs["n_threads"],
        **peer_speed,
        "peer_peak_rss_mb": theirs["peak_rss_mb"],
        "ratio": round(speed["tok_s"] / peer_speed["peer_tok_s"], 3),
    }


def run_peer(
    python: Path, shape: str, peer: str, ours: Settings, *, checkpointing: bool, isa: str | None
) -> dict[str, Any]:
    """Measures transformers + PEFT on the same work, in their own Python: n_threads, seconds, peak_rss_mb."""
    settings = {
        **asdict(SHAPES[shape]),
        "dtype": PEERS[peer],
        "tokens": ours.tokens,
        "repeats": ours.repeats,
        "threads": ours.threads,
        "rank": ours.rank,
        "checkpointing": checkpointing,
    }
    command: list[str | Path] = [python, HERE / "peers" / "peft_lora.py", json.dumps(settings)]
    return figures_of(command, PEER_ISAS[isa] if isa else None)


if __name__ == "__main__":
    from cpuft.cli.main import cli

    cli(["bench", "train", *sys.argv[1:]], prog_name="cpuft")
