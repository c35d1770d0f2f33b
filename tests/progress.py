"""A progress that tests hand in: it writes down what it is told."""


class Heard:
    """What was told, in its order: (what, done, total)."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, float, float]] = []

    def __call__(self, what: str, done: float, total: float, unit: str = "B", /, **facts: str) -> None:
        """Writes a step down."""
        self.steps.append((what, done, total))
