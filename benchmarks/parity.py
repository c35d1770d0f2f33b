"""How far the engine is from transformers + PEFT in float32: a table of the golden cases and kernel tables.

Loss and ten AdamW steps as relative differences, gradients as the worst tensor's relative L2 distance and cosine.

In the deep case float32 is also computed on base weights that are off by some thousandths: how far that takes the
gradient is how far rounding may.

Usage: python benchmarks/parity.py [--json] [CASE ...]
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.engine import golden
from tests.engine.comparison import ISAS, batch, cosine, distance, gradients, open_case, step
from tests.engine.random_model import weights, write_model

DEEP_CASE = "gemma2-27b"
DISTURBANCES = (1e-3, 2e-3, 4e-3)  # relative, of each weight


def disturbed(path: Path, case: golden.Case, size: float) -> Path:
    """The case's model with every base weight off by a normal share of itself of this size."""
    generator = np.random.Generator(np.random.PCG64(1))
    tensors = {
        name: (values * (1.0 + size * generator.standard_normal(values.shape))).astype(np.float32)
        for name, values in weights(case.model)
    }
    return write_model(path, case.model, tensors)


def compare(name: str, model: Path, isa: str, precision: str) -> dict[str, Any]:
    """One row of the table."""
    case, expected = golden.CASES[name], golden.load(name)
    with open_case(model, case, isa=isa, precision=precision) as engine:
        loss, _ = engine.forward_backward(batch(case.examples()))
        got = gradients(engine)
        engine.zero_gradients()
        differences = []
        for number, wanted in enumerate(expected.step_losses, 1):
            step_loss, n_supervised = engine.forward_backward(batch(case.step_examples(number)))
            differences.append(abs(step_loss / n_supervised / wanted - 1))
            step(engine, number, case.optimizer)
    return {
        "case": name,
        "isa": isa,
        "precision": precision,
        "loss": abs(loss / expected.loss - 1),
        "gradient": max(distance(got[tensor], wanted) for tensor, wanted in expected.gradients.items()),
        "cosine": min(cosine(got[tensor], wanted) for tensor, wanted in expected.gradients.items()),
        "ten_steps": max(differences),
    }


def main() -> None:
    """Prints a row for each case and kernel table, in float32, and in bfloat16 and int8 where there is one."""
    if "--json" not in sys.argv:
        print("| case | kernels | loss | worst gradient | worst 1 - cosine | ten steps |\n|---|---|---|---|---|---|")
    kernels = [(isa, "f32") for isa in ISAS] + [("avx512bf16", "bf16")] * ("avx512bf16" in ISAS)
    kernels += [(isa, "int8") for isa in ("avxvnni", "avx512vnni") if isa in ISAS]
    names = [argument for argument in sys.argv[1:] if argument != "--json"] or list(golden.CASES)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            case = golden.CASES[name]
            model = write_model(Path(folder) / f"{name}.gguf", case.model)
            arms = [(model, isa, precision, precision) for isa, precision in kernels]
            for size in DISTURBANCES if name == DEEP_CASE else ():
                other = disturbed(Path(folder) / f"{name}-{size}.gguf", case, size)
                arms.append((other, ISAS[-1], "f32", f"f32, weights off by {size:g}"))
            for path, isa, precision, label in arms:
                row = compare(name, path, isa, precision)
                if "--json" in sys.argv:
                    print(json.dumps(row | {"label": label}))
                    continue
                numbers = (row["loss"], row["gradient"], 1 - row["cosine"], row["ten_steps"])
                print(f"| {name} | {isa} {label} | {' | '.join(f'{number:.1e}' for number in numbers)} |")


if __name__ == "__main__":
    main()
