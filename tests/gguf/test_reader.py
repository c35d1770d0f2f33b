"""Proves that GGUF headers are read as the gguf package reads them, and that damaged files give one ModelError."""

import contextlib
import random
import struct
from pathlib import Path

import gguf
import pytest

from cpuft import toolchain
from cpuft.errors import ModelError
from cpuft.gguf import writer as gguf_writer
from cpuft.gguf.description import describe_model
from cpuft.gguf.reader import Field, read_gguf
from cpuft.release.merge import merge
from tests.gguf.tiny import CHAT_TEMPLATE, write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.mark.parametrize("vocabulary", [None, "ggml-vocab-llama-spm.gguf"])
def test_agrees_with_the_gguf_package(vocabulary: str | None, model: Path) -> None:
    path = model if vocabulary is None else toolchain.locate().source / "models" / vocabulary
    ours, theirs = read_gguf(path), gguf.GGUFReader(path)
    values = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert list(ours.fields) == list(values)
    assert {key: ours.get(key) for key in values} == values
    assert [(t.name, t.offset, t.size, int(t.type.id)) for t in ours.tensors.values()] == [
        (t.name, t.data_offset, t.n_bytes, int(t.tensor_type)) for t in theirs.tensors
    ]


def test_rows_are_the_stored_bytes(model: Path) -> None:
    ours, theirs = read_gguf(model), gguf.GGUFReader(model)
    with model.open("rb") as stream:
        for tensor, expected in zip(ours.tensors.values(), theirs.tensors, strict=True):
            parts = [ours.read_rows(stream, tensor, *chunk) for chunk in ours.row_chunks(tensor, 1000)]
            assert b"".join(part.tobytes() for part in parts) == expected.data.tobytes()


def test_description(model: Path) -> None:
    facts = describe_model(model)
    assert (facts["architecture"], facts["n_layer"], facts["n_embd"], facts["file_type"]) == ("llama", 2, 64, "f32")
    assert facts["chat_template"] == CHAT_TEMPLATE
    assert facts["n_vocab"] == len(read_gguf(model).get("tokenizer.ggml.tokens"))
    assert facts["file_bytes"] == model.stat().st_size
    assert sum(share["bytes"] for share in facts["types"].values()) == facts["weight_bytes"]


def test_every_truncation_is_one_sentence(model: Path, tmp_path: Path) -> None:
    whole = model.read_bytes()
    damaged = tmp_path / "damaged.gguf"
    header_end = read_gguf(model).tensors["token_embd.weight"].offset
    n_data = len(whole) - header_end
    for cut in [header_end * i // 30 for i in range(30)] + [len(whole) - 1 - n_data * i // 25 for i in range(25)]:
        damaged.write_bytes(whole[:cut])
        with pytest.raises(ModelError, match=r"damaged\.gguf: ") as caught:
            read_gguf(damaged)
        assert "\n" not in str(caught.value)


def test_flipped_header_bytes_never_crash(model: Path, tmp_path: Path) -> None:
    whole = model.read_bytes()
    header_end = read_gguf(model).tensors["token_embd.weight"].offset
    chance = random.Random(0)
    refused = 0
    for _ in range(400):
        mutant = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            mutant[chance.randrange(header_end)] = chance.randrange(256)
        path = tmp_path / "mutant.gguf"
        path.write_bytes(mutant)
        try:
            describe_model(path)
        except ModelError:
            refused += 1
    assert refused > 20  # most bytes are vocabulary text, where any value is legal


def test_metadata_of_wrong_types_never_crash(model: Path, tmp_path: Path) -> None:
    """Each entry in turn becomes a text, a whole number, and a list."""
    file = read_gguf(model)
    infos = [gguf_writer.TensorInfo(t.name, t.shape, t.type) for t in file.tensors.values()]
    numbers = Field("", 9, struct.pack("<IQ2I", 4, 2, 7, 8))
    for key in file.fields:
        for wrong in (gguf_writer.text(key, "seven"), gguf_writer.u32(key, 7), Field(key, numbers.type, numbers.raw)):
            path = tmp_path / "wrong.gguf"
            with path.open("wb") as stream:
                gguf_writer.write_header(stream, (file.fields | {key: wrong}).values(), infos)
                stream.write(bytes(sum(info.size + 32 for info in infos)))
            with contextlib.suppress(ModelError):
                describe_model(path)
                merge(path, tmp_path / "merged.gguf")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", "empty"),
        (b"GG", "not a GGUF"),
        (b"PK\x03\x04" + bytes(60), "not a GGUF"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(40), "big-endian byte order, .*`gguf-convert-endian FILE little`"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(40), "GGUF version 1, of the summer of 2023"),
        (b"GGUF" + struct.pack("<I", 4) + bytes(40), "GGUF version 4, expected 2 or 3"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "announces"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "announces"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 63) + bytes(40), "truncated"),
        (b"GGUF" + struct.pack("<IQQQsIIQQ", 3, 0, 1, 1, b"a", 9, 8, 2, 1 << 63) + bytes(40), "truncated"),
        (b"GGUF" + struct.pack("<IQQQsIIQQ", 3, 0, 1, 1, b"a", 9, 8, 2, 1000) + bytes(40), "truncated"),
    ],
)
def test_hostile_headers(header: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(header)
    with pytest.raises(ModelError, match=message):
        read_gguf(path)


def test_a_sentence_quotes_no_more_than_a_beginning(tmp_path: Path) -> None:
    path = tmp_path / "wordy.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 100_000) + 100_000 * b"\n" + struct.pack("<I", 99))
    with pytest.raises(ModelError, match="has type 99, which GGUF does not have") as caught:
        read_gguf(path)
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        read_gguf(tmp_path / "nothing.gguf")


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot read"):
        read_gguf(tmp_path)


def rewritten(model: Path, path: Path, *fields: Field, alignment: int = 32) -> Path:
    """The model's header with further entries, and zeros for data."""
    file = read_gguf(model)
    infos = [gguf_writer.TensorInfo(t.name, t.shape, t.type) for t in file.tensors.values()]
    entries = {field.key: field for field in (*file.fields.values(), *fields)}
    with path.open("wb") as stream:
        gguf_writer.write_header(stream, entries.values(), infos, alignment)
        stream.write(bytes(sum(info.size + alignment for info in infos)))
    return path


def test_a_part_of_a_split_model_says_so(model: Path, tmp_path: Path) -> None:
    count, number = Field("split.count", 2, struct.pack("<H", 3)), Field("split.no", 2, struct.pack("<H", 1))
    path = rewritten(model, tmp_path / "m-00002-of-00003.gguf", count, number)
    with pytest.raises(ModelError, match=r"part 2 of a model split into 3: join them with .*llama-gguf-split --merge"):
        read_gguf(path)
    whole = Field("split.count", 2, struct.pack("<H", 1))
    assert read_gguf(rewritten(model, tmp_path / "whole.gguf", whole, number)).tensors


@pytest.mark.parametrize("alignment", [1, 2, 4, 24])
def test_alignments_that_the_format_does_not_have(alignment: int, model: Path, tmp_path: Path) -> None:
    field = gguf_writer.u32("general.alignment", alignment)
    with pytest.raises(ModelError, match=rf"general\.alignment is {alignment}, expected a power of two from 8 on"):
        read_gguf(rewritten(model, tmp_path / "odd.gguf", field, alignment=alignment))
    eight = gguf_writer.u32("general.alignment", 8)
    assert read_gguf(rewritten(model, tmp_path / "even.gguf", eight, alignment=8)).alignment == 8
