"""Text from files and models that nobody has vouched for, on its way to a terminal."""


def printable(text: str) -> str:
    """The text with every character replaced that could steer a terminal, such as an escape; lines and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
