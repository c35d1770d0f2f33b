"""Makes the golden fixtures of tests/golden; needs a Python that has torch, transformers and peft.

Usage: python scripts/make_golden.py [NAME ...]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.engine import golden
from tests.engine.torch_oracle import expect


def main() -> None:
    """Makes the named fixtures, or all."""
    for name in sys.argv[1:] or golden.CASES:
        case = golden.CASES[name]
        expected = expect(case)
        golden.save(name, case, expected)
        losses = " ".join(f"{loss:.4f}" for loss in expected.step_losses)
        print(f"{name}: loss {expected.loss:.6f} over {expected.n_supervised} tokens; steps {losses}")


if __name__ == "__main__":
    main()
