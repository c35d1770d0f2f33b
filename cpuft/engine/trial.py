"""One step of training on a tiny model with each kernel table, each in a process of its own that may die of it.

`toolchain.proof` runs this as a program: python -m cpuft.engine.trial LIBRARY MODEL ISA…
For each ISA it prints a line of JSON: isa, status (negative for a signal), said, and the step's loss and grad_norm.
"""

import json
import os
import sys
from pathlib import Path

N_TOKENS = 64


def main() -> None:
    """Tries each table in a child of this process, so that Python and its packages start once."""
    library, model, *isas = sys.argv[1:]
    os.environ["CPUFT_LIBRARY"] = library
    import cpuft.engine  # noqa: F401 - before the fork

    for isa in isas:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            _report(Path(model), isa, writer)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            said = pipe.read()
        _, status = os.waitpid(child, 0)
        figures = json.loads(said) if said.startswith("{") else {"said": said}
        print(json.dumps({"isa": isa, "status": os.waitstatus_to_exitcode(status), "said": "", **figures}), flush=True)


def _report(model: Path, isa: str, writer: int) -> None:
    """In the child: writes the figures, or the sentence of what went wrong, and ends."""
    from cpuft.errors import CpuftError

    try:
        said, status = json.dumps(step(model, isa)), 0
    except CpuftError as error:
        said, status = f"Error: {error}", 1
    os.write(writer, said.encode())
    os._exit(status)


def step(model: Path, isa: str) -> dict[str, float]:
    """The loss of a text's first tokens and the length of its gradient, which one step of AdamW is then made of."""
    import numpy as np

    from cpuft.engine import Batch, Engine
    from cpuft.toolchain.proof import TEXT

    with Engine(model, threads=2, isa=isa) as engine:
        tokens = np.array(engine.tokenize(TEXT * 4)[:N_TOKENS], np.int32)
        supervised = np.ones(len(tokens), np.uint8)
        engine.adapter_init(rank=4, alpha=8.0)
        loss, count = engine.forward_backward(Batch(tokens, supervised, np.array([len(tokens)], np.int64)))
        return {"loss": loss / count, "grad_norm": engine.step(step=1, learning_rate=1e-3)}


if __name__ == "__main__":
    main()
