"""Proves that merged files equal llama-quantize's, hold base + B A, keep metadata, and are written whole or not."""

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import numpy as np
import pytest

from cpuft import toolchain
from cpuft.adapters.adapter import read_adapter, write_adapter
from cpuft.errors import AdapterError, ConfigError, ModelError
from cpuft.gguf.description import describe_model
from cpuft.gguf.reader import read_gguf
from cpuft.release.merge import merge
from tests.gguf.tiny import FloatArray, random_adapter, write_tiny_model
from tests.release.llama_cpp_logits import logits

PROMPT = [1, 70, 71, 72, 73]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("merge")


@pytest.fixture(scope="module")
def small(folder: Path) -> Path:
    """Two layers, F32."""
    return write_tiny_model(folder / "small.gguf")


@pytest.fixture(scope="module")
def deep(folder: Path) -> Path:
    """Wide enough for super-blocks of 256 and deep enough for llama.cpp to mix types over the layers; F16."""
    return write_tiny_model(folder / "deep.gguf", n_layer=8, n_embd=256, n_ff=512, half=True)


def adapter_file(model: Path, path: Path, *, zero: bool = False) -> Path:
    tensors = random_adapter(model, rank=4)
    if zero:
        tensors = {name: np.zeros_like(v) if name.endswith("lora_b") else v for name, v in tensors.items()}
    write_adapter(path, tensors, alpha=8, architecture="llama")
    return path


def stored(path: Path) -> dict[str, tuple[str, bytes]]:
    """Tensor name -> (type, bytes), read by the gguf package."""
    return {t.name: (t.tensor_type.name, t.data.tobytes()) for t in gguf.GGUFReader(path).tensors}


def values(path: Path) -> dict[str, FloatArray]:
    return {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("file_type", ["q4_0", "q4_k_m", "q5_k_m", "q3_k_l", "q6_k", "q8_0", "iq4_xs", "f16", "f32"])
def test_equals_llama_quantize(file_type: str, deep: Path, tmp_path: Path) -> None:
    zero = adapter_file(deep, tmp_path / "zero.gguf", zero=True)
    report = merge(deep, tmp_path / "ours.gguf", adapter_path=zero, file_type=file_type)
    tool = toolchain.locate().tool("llama-quantize")
    subprocess.run([tool, deep, tmp_path / "theirs.gguf", file_type], check=True, capture_output=True)
    ours, theirs = stored(tmp_path / "ours.gguf"), stored(tmp_path / "theirs.gguf")
    assert {name: kind for name, (kind, _) in ours.items()} == {name: kind for name, (kind, _) in theirs.items()}
    assert ours == theirs
    assert read_gguf(report.output).get("general.file_type") == read_gguf(tmp_path / "theirs.gguf").get(
        "general.file_type"
    )


def test_shapes_that_no_super_block_divides_equal_llama_quantize(small: Path, tmp_path: Path) -> None:
    """Rows of 64 and 96 values: llama.cpp falls back to other types."""
    merge(small, tmp_path / "ours.gguf", file_type="q4_k_m")
    tool = toolchain.locate().tool("llama-quantize")
    subprocess.run([tool, small, tmp_path / "theirs.gguf", "q4_k_m"], check=True, capture_output=True)
    assert stored(tmp_path / "ours.gguf") == stored(tmp_path / "theirs.gguf")


def test_float_merge_is_base_plus_delta(small: Path, tmp_path: Path) -> None:
    adapter = read_adapter(adapter_file(small, tmp_path / "a.gguf"))
    report = merge(small, tmp_path / "merged.gguf", adapter_path=tmp_path / "a.gguf")
    assert (report.n_adapted, report.n_copied) == (14, len(stored(small)) - 14)
    before, after = values(small), values(tmp_path / "merged.gguf")
    for name, base in before.items():
        expected = base.astype(np.float64)
        if name in adapter.weights:
            a, b = adapter.pair(name)
            expected = expected + 2.0 * b.astype(np.float64) @ a
        # float32 rounding of the product (rank 4), of the sum and of the stored value
        np.testing.assert_allclose(after[name], expected, rtol=0, atol=8 * float(np.finfo(np.float32).eps))


def test_llama_cpp_answers_the_same_with_the_merged_file(small: Path, tmp_path: Path) -> None:
    adapter = adapter_file(small, tmp_path / "a.gguf")
    merge(small, tmp_path / "merged.gguf", adapter_path=adapter)
    with_adapter, merged = logits(small, PROMPT, adapter), logits(tmp_path / "merged.gguf", PROMPT)
    assert np.linalg.norm(merged - with_adapter) < 1e-3 * np.linalg.norm(with_adapter - logits(small, PROMPT))


def test_quantized_base_keeps_its_types(deep: Path, tmp_path: Path) -> None:
    base = merge(deep, tmp_path / "base.gguf", file_type="q4_k_m").output
    whole = adapter_file(deep, tmp_path / "whole.gguf")
    attention = {n: v for n, v in read_adapter(whole).tensors.items() if "attn_q" in n}
    write_adapter(tmp_path / "attention.gguf", attention, alpha=8, architecture="llama")
    merge(base, tmp_path / "merged.gguf", adapter_path=tmp_path / "attention.gguf", file_type="keep")
    before, after = stored(base), stored(tmp_path / "merged.gguf")
    assert {n: kind for n, (kind, _) in before.items()} == {n: kind for n, (kind, _) in after.items()}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {f"blk.{layer}.attn_q.weight" for layer in range(8)}


def test_zero_adapter_keeps_every_byte(deep: Path, tmp_path: Path) -> None:
    base = merge(deep, tmp_path / "base.gguf", file_type="q8_0").output
    zero = adapter_file(deep, tmp_path / "zero.gguf", zero=True)
    merge(base, tmp_path / "merged.gguf", adapter_path=zero)
    assert stored(base) == stored(tmp_path / "merged.gguf")
    merge(base, tmp_path / "copy.gguf")
    assert (tmp_path / "copy.gguf").read_bytes() == base.read_bytes()


def test_metadata_keep_bytes_and_order_and_note_every_merge(small: Path, tmp_path: Path) -> None:
    adapter = adapter_file(small, tmp_path / "a.gguf")
    first = merge(small, tmp_path / "first.gguf", adapter_path=adapter, file_type="q8_0").output
    second = merge(first, tmp_path / "second.gguf", adapter_path=adapter, file_type="q4_0").output
    base, merged = read_gguf(small), read_gguf(second)
    assert list(merged.fields)[: len(base.fields)] == list(base.fields)
    different = [key for key, field in base.fields.items() if merged.fields[key] != field]
    assert different == ["general.file_type"]
    notes = describe_model(second)["merges"]
    assert [note["base_name"] for note in notes] == ["tiny", "tiny"]
    assert [note["base_file_type"] for note in notes] == [0, 7]
    assert notes[0]["adapter_scale"] == 2.0
    assert len(notes[0]["adapter_sha256"]) == 64


def test_same_input_same_bytes(small: Path, tmp_path: Path) -> None:
    adapter = adapter_file(small, tmp_path / "a.gguf")
    for name, threads in (("one.gguf", 1), ("two.gguf", 2)):
        merge(small, tmp_path / name, adapter_path=adapter, file_type="q4_0", threads=threads)
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()


def test_a_device_stays_one_and_a_pipe_gets_every_byte(small: Path, tmp_path: Path) -> None:
    null, pipe = tmp_path / "null", tmp_path / "pipe"
    try:
        os.mknod(null, stat.S_IFCHR | 0o666, os.stat(os.devnull).st_rdev)
    except PermissionError:  # only root could do harm to it
        null = Path(os.devnull)
    os.mkfifo(pipe)
    merge(small, null)
    assert stat.S_ISCHR(null.stat().st_mode)
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit(pipe.read_bytes)
        merge(small, pipe)
        merge(small, tmp_path / "file.gguf")
        assert read.result() == (tmp_path / "file.gguf").read_bytes()


def test_refusals(small: Path, deep: Path, tmp_path: Path) -> None:
    adapter = adapter_file(small, tmp_path / "a.gguf")
    output = tmp_path / "out.gguf"
    with pytest.raises(ConfigError, match=r"unknown type 'q4_k_x', expected keep or one of .*q4_k_m"):
        merge(small, output, file_type="q4_k_x")
    with pytest.raises(ConfigError, match="iq2_xs needs an importance matrix"):
        merge(deep, output, file_type="iq2_xs")
    with pytest.raises(AdapterError, match="another base model"):
        merge(deep, output, adapter_path=adapter)
    with pytest.raises(ConfigError, match="output is also an input"):
        merge(small, small)
    with pytest.raises(ConfigError, match="output is also an input"):
        merge(small, adapter, adapter_path=adapter)
    with pytest.raises(ConfigError, match="no such folder"):
        merge(small, tmp_path / "nowhere" / "out.gguf")
    with pytest.raises(ConfigError, match="a folder, expected the name of a file"):
        merge(small, tmp_path)
    with pytest.raises(ModelError, match="expected a model"):
        merge(adapter, output)
    with pytest.raises(ModelError, match="only a vocabulary"):
        merge(toolchain.locate().source / "models" / "ggml-vocab-llama-spm.gguf", output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gguf"]


def test_infinite_weights_are_refused_and_leave_nothing(small: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    data = bytearray(small.read_bytes())
    offset = read_gguf(small).tensors["blk.1.attn_q.weight"].offset
    data[offset : offset + 4] = np.float32(np.inf).tobytes()
    broken.write_bytes(data)
    with pytest.raises(ModelError, match=r"blk\.1\.attn_q\.weight holds values that are not finite"):
        merge(broken, tmp_path / "out.gguf", file_type="f16")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.gguf"]


@pytest.mark.parametrize("file_type", ["f16", "q8_0", "q2_k"])
def test_weights_too_large_for_a_type_are_refused(file_type: str, deep: Path, tmp_path: Path) -> None:
    """Finite ones, which a half cannot hold: they would become infinite, or their block without a number."""
    large = merge(deep, tmp_path / "large.gguf", file_type="f32").output
    data = bytearray(large.read_bytes())
    offset = read_gguf(large).tensors["blk.1.ffn_down.weight"].offset
    data[offset : offset + 4] = np.float32(3e7).tobytes()
    large.write_bytes(data)
    with pytest.raises(ModelError, match=r"ffn_down\.weight: a value of 3e\+07 .* too large for .*: choose another"):
        merge(large, tmp_path / "out.gguf", file_type=file_type)
    assert [path.name for path in tmp_path.iterdir()] == ["large.gguf"]


FULL_DISK = """
import sys
from pathlib import Path
from cpuft.errors import ResourceError
from cpuft.release.merge import merge
output = Path(sys.argv[2]) / "merged.gguf"
try:
    merge(Path(sys.argv[1]), output)
except ResourceError as error:
    print(error)
print("left:", len(list(output.parent.iterdir())))
"""


def test_full_disk(small: Path, tmp_path: Path) -> None:
    """On a real file system of 128 KB, mounted in a namespace of its own."""
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=128k cpuft-test '{tmp_path}'"
    if subprocess.run([*namespace, mount], capture_output=True, check=False).returncode != 0:
        pytest.skip("this system does not let an ordinary user mount a file system")
    script = f"{mount} && exec '{sys.executable}' -c '{FULL_DISK}' '{small}' '{tmp_path}'"
    result = subprocess.run([*namespace, script], capture_output=True, text=True, check=True)
    assert "merged.gguf: the disk has 0.1 MB free and the merged model needs 0.4 MB: free some" in result.stdout
    assert "left: 0" in result.stdout


PEAK_MEMORY = """
import resource, sys
from pathlib import Path
from cpuft.release import merge
def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
merge.merge(Path(sys.argv[1]), Path(sys.argv[3]), file_type="q8_0")  # libraries and threads are in place
before = peak_mb()
merge.merge(Path(sys.argv[2]), Path(sys.argv[3]), file_type="q8_0")
print(peak_mb() - before)
"""


def test_memory_does_not_grow_with_the_model(small: Path, tmp_path: Path) -> None:
    """A model of 200 MB, of which one tensor alone takes 67 MB, is converted in chunks of 16 MB."""
    big = write_tiny_model(tmp_path / "big.gguf", n_layer=1, n_embd=1024, n_ff=16384)
    assert big.stat().st_size > 200e6
    command = [sys.executable, "-c", PEAK_MEMORY, str(small), str(big), str(tmp_path / "out.gguf")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(result.stdout) < 100
