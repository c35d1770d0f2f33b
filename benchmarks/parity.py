"""How far the engine is from transformers + PEFT in float32: a table of the golden cases and kernel tables.

Loss and ten AdamW steps as relative differences, gradients as the worst tensor's relative L2 distance and cosine.

Usage: python benchmarks/parity.py [--json]
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.engine import golden
from tests.engine.comparison import ISAS, batch, cosine, distance, gradients, open_case, step
from tests.engine.random_model import write_model


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
    """Print a row for each case and kernel table, in float32, and in bfloat16 and int8 where there is one."""
    if "--json" not in sys.argv:
        print("| case | kernels | loss | worst gradient | worst 1 - cosine | ten steps |\n|---|---|---|---|---|---|")
    kernels = [(isa, "f32") for isa in ISAS] + [("avx512bf16", "bf16")] * ("avx512bf16" in ISAS)
    kernels += [(isa, "int8") for isa in ("avxvnni", "avx512vnni") if isa in ISAS]
    with tempfile.TemporaryDirectory() as folder:
        for name, case in golden.CASES.items():
            model = write_model(Path(folder) / f"{name}.gguf", case.model)
            for isa, precision in kernels:
                row = compare(name, model, isa, precision)
                if "--json" in sys.argv:
                    print(json.dumps(row))
                    continue
                numbers = (row["loss"], row["gradient"], 1 - row["cosine"], row["ten_steps"])
                print(f"| {name} | {isa} {precision} | {' | '.join(f'{number:.1e}' for number in numbers)} |")


if __name__ == "__main__":
    main()
