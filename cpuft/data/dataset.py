"""A dataset file as the tokens of a model, checked as a whole before anything is trained."""

import datetime
from dataclasses import dataclass
from pathlib import Path

from cpuft.chat.alignment import AlignedTokenizer, Tokenizer
from cpuft.chat.template import chat_template_of, special_token
from cpuft.data.examples import Example, Formatter
from cpuft.data.records import Record, read_records
from cpuft.errors import DatasetError, ExampleError
from cpuft.gguf.reader import Gguf

MOST_FAULTS = 20  # shown; the rest is counted


@dataclass(frozen=True)
class Dataset:
    """The examples of a file in its order."""

    path: Path
    examples: list[Example]
    n_truncated: int

    @property
    def size(self) -> str:
        """How many examples and tokens there are, in words."""
        n_tokens = sum(example.tokens.size for example in self.examples)
        n_supervised = sum(example.n_supervised for example in self.examples)
        return f"{len(self.examples)} examples, {n_tokens:,} tokens, {n_supervised:,} of them in answers"


def formatter_of(model: Gguf, tokenizer: Tokenizer, date: datetime.date) -> Formatter:
    """The formatter for a model: its tokenizer and the chat template in its file. Raises ModelError."""
    bos, eos = special_token(model, "bos"), special_token(model, "eos")
    return Formatter(AlignedTokenizer(tokenizer, bos_token=bos, eos_token=eos), chat_template_of(model, date))


def load_dataset(path: Path, formatter: Formatter, *, max_length: int, limit: str, truncate: bool) -> Dataset:
    """Reads and tokenizes a file.

    max_length: how many tokens an example may have; `limit` names what sets it. A longer one is refused, or cut at its
                end where `truncate` is set.
    Raises DatasetError, which lists the faults of all examples by file:line.
    """
    examples: list[Example] = []
    faults: list[str] = []
    n_truncated = 0
    for line, record in read_records(path):
        source = f"{path}:{line}"
        try:
            written = _written(record, formatter, source)
            fitting = [_fit(example, max_length, limit, truncate) for example in written]
        except ExampleError as fault:
            faults.append(f"{source}: {fault}")
            continue
        n_truncated += sum(example.tokens.size > max_length for example in written)
        examples += fitting
    if faults:
        raise DatasetError(_list_examples(path, faults))
    return Dataset(path, examples, n_truncated)


def _written(record: Record | ExampleError, formatter: Formatter, source: str) -> list[Example]:
    if isinstance(record, ExampleError):
        raise record
    return formatter.examples(record, source)


def _fit(example: Example, max_length: int, limit: str, truncate: bool) -> Example:
    length = example.tokens.size
    if length <= max_length:
        return example
    if not truncate:
        raise ExampleError(f"{length} tokens, expected at most {max_length} ({limit}): shorten it, or give --truncate")
    cut = Example(example.tokens[:max_length], example.supervised[:max_length], example.source)
    if not cut.n_supervised:
        raise ExampleError(f"{length} tokens, the first {max_length} ({limit}) without an answer: shorten its prompt")
    return cut


def _list_examples(path: Path, faults: list[str]) -> str:
    if len(faults) == 1:
        return faults[0]
    more = len(faults) - MOST_FAULTS
    shown = faults[:MOST_FAULTS] + ([f"and {more} more"] if more > 0 else [])
    return "\n  ".join([f"{path}: {len(faults)} examples cannot be used:", *shown])
