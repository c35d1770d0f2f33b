"""Make everything in cpuft/demo: the examples of the BA task and the tiny base model.

    python scripts/make_demo_base.py examples
    python scripts/make_demo_base.py base --work DIR --quantizer llama-quantize

`base` needs PyTorch and SentencePiece and about forty minutes of two cores; it keeps its tokenizer and its checkpoints
in DIR and continues from them. `llama-quantize` is the one that `cpuft build` compiles. All text is made by
scripts/demo_base from a fixed seed; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SEED = 1
TOKENIZER_CONVERSATIONS = 20_000
THREADS = 2  # fixed, because the order of the sums, and so the weights, depends on it


def make_examples(folder: Path) -> None:
    """Writes train.jsonl, val.jsonl and test.jsonl; the bundled base model's vocabulary lends pieces of words."""
    from cpuft import demo
    from cpuft.gguf.reader import read_gguf
    from cpuft.roles import find_role
    from scripts.demo_base import examples
    from scripts.demo_base.lexicon import fragments_of

    fragments = fragments_of(read_gguf(demo.BASE_MODEL).get("tokenizer.ggml.tokens"))
    for name, rows in examples.make_examples(find_role("ba").short_prompt, fragments, SEED).items():
        examples.write_jsonl(folder / f"{name}.jsonl", rows)
        print(f"{name}.jsonl: {len(rows)} examples")


def make_base(folder: Path, work: Path, quantizer: Path) -> None:
    """Trains the tokenizer and the network, writes base-f32.gguf into `work` and base-q8_0.gguf into `folder`."""
    import torch

    from scripts.demo_base import export, network, pretrain, tokenizer

    torch.set_num_threads(THREADS)
    work.mkdir(parents=True, exist_ok=True)
    shape, pieces = network.Shape(), work / "tokenizer.model"
    if not pieces.exists():
        tokenizer.train_tokenizer(pieces, n_vocab=shape.n_vocab, seed=SEED, conversations=TOKENIZER_CONVERSATIONS)
    chat = tokenizer.ChatTokenizer(pieces)
    parameters = pretrain.pretrain(chat, shape, pretrain.Schedule(), SEED, work / "checkpoint.pt", print)
    full = work / "base-f32.gguf"
    export.write_gguf(full, parameters, shape, chat)
    export.quantize(full, folder / "base-q8_0.gguf", quantizer)
    print(f"base-q8_0.gguf: {(folder / 'base-q8_0.gguf').stat().st_size / 1e6:.1f} MB")


def main() -> None:
    """Parses the command line and make what it asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("examples", "base"))
    parser.add_argument("--output", type=Path, default=ROOT / "cpuft" / "demo", help="folder of the results")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "demo_base", help="folder of the checkpoints")
    parser.add_argument("--quantizer", type=Path, help="llama.cpp's llama-quantize; needed for base")
    arguments = parser.parse_args()
    if arguments.what == "examples":
        make_examples(arguments.output)
    elif arguments.quantizer is None:
        parser.error("base needs --quantizer, the path of llama-quantize")
    else:
        make_base(arguments.output, arguments.work, arguments.quantizer)


if __name__ == "__main__":
    main()
