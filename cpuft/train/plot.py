"""The picture of a run's losses."""

import json

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cpuft.machine.files import atomic_write
from cpuft.train.run import RunFolder


def plot_losses(run: RunFolder) -> None:
    """Draws the losses in metrics.jsonl into loss.png."""
    lines = [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss (nats per token)")
    for key, label, style in (("loss", "training", "-"), ("val_loss", "validation", "o-")):
        points = [(line["step"], line[key]) for line in lines if key in line]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label)
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_write(run.plot) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)  # type: ignore[no-untyped-call]
