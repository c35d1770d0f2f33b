"""Proves that a dataset is checked as a whole, with all faults together and a policy for examples that are too long."""

import json
from pathlib import Path

import pytest

from cpuft.data.dataset import MOST_FAULTS, Dataset, load_dataset
from cpuft.errors import DatasetError
from tests.data.vocabulary import formatter, supervised_texts

LONG = "one two three four five six seven eight nine ten"


def load(path: Path, lines: list[str], *, max_length: int = 64, truncate: bool = False) -> Dataset:
    path.write_text("\n".join(lines))
    written, _ = formatter("llama-bpe", "meta-llama-Llama-3.2-3B-Instruct")
    return load_dataset(path, written, max_length=max_length, limit="training.max_seq_length", truncate=truncate)


def chat(user: str, assistant: str) -> str:
    return json.dumps({"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]})


def test_completions_and_texts_are_written_as_they_stand(tmp_path: Path) -> None:
    lines = ['{"prompt": "Q: 1+1\\nA:", "completion": " 2"}', '{"text": "Once upon"}']
    _, tokenizer = formatter("llama-bpe")
    completion, text = load(tmp_path / "d.jsonl", lines).examples
    assert supervised_texts(completion, tokenizer) == [" 2<|end_of_text|>"]
    assert supervised_texts(text, tokenizer) == ["Once upon<|end_of_text|>"]
    assert [completion.source, text.source] == [f"{tmp_path}/d.jsonl:1", f"{tmp_path}/d.jsonl:2"]
    assert completion.tokens[0] == text.tokens[0] == 128000  # <|begin_of_text|>, which this model's metadata ask for
    assert text.supervised.tolist() == [0, 1, 1, 1]


def test_all_faults_are_shown_together(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        load(tmp_path / "d.jsonl", ["{", '{"text": "fine"}', '{"text": 3}', chat("a", LONG * 9)])
    first, *faults = str(caught.value).split("\n  ")
    assert first == f"{tmp_path}/d.jsonl: 3 examples cannot be used:"
    assert [fault.split(":")[1] for fault in faults] == ["1", "3", "4"]
    assert "expected at most 64 (training.max_seq_length): shorten it, or give --truncate" in faults[2]


def test_many_faults_are_counted(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=f"{MOST_FAULTS + 5} examples cannot be used") as caught:
        load(tmp_path / "d.jsonl", ["{"] * (MOST_FAULTS + 5))
    assert str(caught.value).endswith("\n  and 5 more")
    assert str(caught.value).count("not valid JSON") == MOST_FAULTS


def test_one_fault_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"d\.jsonl:2: text: found a number, expected a text$"):
        load(tmp_path / "d.jsonl", ['{"text": "a"}', '{"text": 3}'])


def test_truncation_cuts_the_end(tmp_path: Path) -> None:
    whole = load(tmp_path / "d.jsonl", [chat("a", LONG * 9)], max_length=10_000).examples[0]
    dataset = load(tmp_path / "d.jsonl", [chat("a", LONG * 9), chat("a", "b")], truncate=True)
    assert dataset.n_truncated == 1
    assert dataset.examples[0].tokens.tolist() == whole.tokens[:64].tolist()
    assert dataset.examples[0].supervised.tolist() == whole.supervised[:64].tolist()


def test_truncation_that_leaves_no_answer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"d\.jsonl:1: \d+ tokens, the first 64 .* without an answer"):
        load(tmp_path / "d.jsonl", [chat(LONG * 9, "b")], truncate=True)


def test_a_conversation_for_a_model_without_a_template(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(chat("a", "b"))
    written, _ = formatter("llama-bpe")
    with pytest.raises(DatasetError, match="the model has no chat template"):
        load_dataset(path, written, max_length=64, limit="x", truncate=False)
