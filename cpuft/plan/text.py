"""A plan in words."""

from cpuft.plan.plan import Plan

PARTS = {
    "process": "Python, libraries, tokenizer, data",
    "base": "base model, memory-mapped",
    "adapter": "adapter",
    "gradients": "its gradients",
    "optimizer": "optimizer's state",
    "activations": "activations of a pass",
    "workspace": "working arrays of a layer and the head",
    "threads": "scratch memory of the threads",
}


def plan_text(plan: Plan) -> str:
    """A readable page: memory by part, time, disk."""
    run, fitted = plan.run, plan.fitted
    chosen = f"tokens_per_pass: {plan.chosen['tokens_per_pass']}, activations: {plan.chosen['activations']}"
    lines = [
        f"{run['steps']} steps over {run['examples']} examples: {run['tokens']:,} tokens in {run['passes']} passes",
        chosen,
        "",
        "Memory",
        *(_row(PARTS[name], n_bytes) for name, n_bytes in fitted.memory.parts.items()),
        _row("at the peak, with a margin", fitted.memory.total),
        _row("available", fitted.limit.n_bytes) + f"  ({fitted.limit.source})",
    ]
    if plan.times is None:
        lines.append(f"It does not fit: {fitted.refusal()}")
    else:
        lines += ["", "Time", *_time_rows(plan)]
    lines += ["", "Disk", *(_row(name.replace("_", " "), n_bytes) for name, n_bytes in plan.disk.items())]
    return "\n".join([*lines, *(f"Note: {note}" for note in plan.notes)])


def _time_rows(plan: Plan) -> list[str]:
    times = plan.times
    assert times is not None
    parts = {**vars(times), "all, unless it stops early": times.total}
    rows = [f"  {name.replace('_', ' '):<40} {_duration(seconds):>12}" for name, seconds in parts.items() if seconds]
    return [*rows, f"  {'speed in training':<40} {plan.run['tokens'] / times.training:>6,.0f} tokens/s"]


def _row(name: str, n_bytes: int) -> str:
    return f"  {name:<40} {n_bytes / 1e6:>9,.1f} MB"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min {rest:02} s"
