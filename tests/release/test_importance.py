"""Proves that importance matrices hold mean squares of inputs, and quantize to the bytes that llama-quantize writes."""

import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import pytest

from cpuft import toolchain
from cpuft.adapters.adapter import write_adapter
from cpuft.engine import Engine
from cpuft.errors import ConfigError, ModelError
from cpuft.gguf.mixture import file_types, mixture
from cpuft.gguf.reader import read_gguf
from cpuft.release import merge as merge_module
from cpuft.release.importance import compute_imatrix, read_imatrix
from cpuft.release.merge import merge
from tests.gguf.tiny import FloatArray, random_adapter, write_tiny_model
from tests.progress import Heard
from tests.release.importance_text import write_text

CONTEXT = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("imatrix")


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    """Wide enough for super-blocks of 256."""
    return write_tiny_model(folder / "base.gguf", n_embd=256, n_ff=256)


@pytest.fixture(scope="module")
def adapter(model: Path, folder: Path) -> Path:
    write_adapter(folder / "adapter.gguf", random_adapter(model, rank=4), alpha=8, architecture="llama")
    return folder / "adapter.gguf"


@pytest.fixture(scope="module")
def matrix(model: Path, folder: Path) -> Path:
    heard = Heard()
    text = write_text(folder / "text.txt")
    compute_imatrix(model, text, folder / "imatrix.gguf", context=CONTEXT, threads=1, progress=heard)
    assert heard.steps[-1][1] == read_imatrix(folder / "imatrix.gguf").n_chunks > 2
    return folder / "imatrix.gguf"


def stored(path: Path) -> dict[str, tuple[str, bytes]]:
    """Tensor name -> (type, bytes)."""
    file, data = read_gguf(path), path.read_bytes()
    return {name: (t.type.name, data[t.offset : t.offset + t.size]) for name, t in file.tensors.items()}


def llama_quantize(*arguments: str | Path) -> None:
    subprocess.run([toolchain.locate().tool("llama-quantize"), *arguments], check=True, capture_output=True)


def test_importance_is_the_mean_square_of_the_input(model: Path, matrix: Path, folder: Path) -> None:
    """Of the first layer's queries that is the normalized embedding, which numpy can compute."""
    found = read_imatrix(matrix)
    with Engine(model) as engine:
        tokens = engine.tokenize((folder / "text.txt").read_text(), add_special=True)[: found.n_chunks * CONTEXT]
    reader = gguf.GGUFReader(model)
    embedding = next(t.data for t in reader.tensors if t.name == "token_embd.weight").astype(np.float64)[tokens]
    normalized = embedding / np.sqrt((embedding**2).mean(axis=1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(found.values["blk.0.attn_q.weight"], (normalized**2).mean(axis=0), rtol=1e-4)
    assert found.dataset == "text.txt"
    assert found.of(read_gguf(model).tensors["token_embd.weight"]) is None


@pytest.mark.parametrize("file_type", ["q4_0", "q4_k_m", "q2_k_s", "iq2_xxs"])
def test_merge_equals_llama_quantize(file_type: str, model: Path, adapter: Path, matrix: Path, tmp_path: Path) -> None:
    merge(model, tmp_path / "f32.gguf", adapter_path=adapter, file_type="f32")
    llama_quantize("--imatrix", matrix, tmp_path / "f32.gguf", tmp_path / "theirs.gguf", file_type)
    ours = tmp_path / "ours.gguf"
    merge(model, ours, adapter_path=adapter, file_type=file_type, imatrix=read_imatrix(matrix))
    assert stored(ours) == stored(tmp_path / "theirs.gguf")
    mine, theirs = read_gguf(ours), read_gguf(tmp_path / "theirs.gguf")
    for key in ("general.file_type", "quantize.imatrix.entries_count", "quantize.imatrix.chunks_count"):
        assert mine.fields[key] == theirs.fields[key]
    assert mine.get("quantize.imatrix.file") == "imatrix.gguf"
    assert mine.get("quantize.imatrix.dataset") == "text.txt"


def test_the_matrix_changes_the_bytes(model: Path, matrix: Path, tmp_path: Path) -> None:
    merge(model, tmp_path / "with.gguf", file_type="q4_0", imatrix=read_imatrix(matrix))
    merge(model, tmp_path / "without.gguf", file_type="q4_0")
    assert stored(tmp_path / "with.gguf") != stored(tmp_path / "without.gguf")


def test_the_older_format_equals_llama_quantize(model: Path, matrix: Path, tmp_path: Path) -> None:
    old = tmp_path / "imatrix.dat"
    tool = toolchain.locate().tool("llama-imatrix")
    command = [str(tool), "-m", str(model), "--in-file", str(matrix), "--output-format", "dat", "-o", str(old)]
    subprocess.run(command, check=True, capture_output=True)
    llama_quantize("--imatrix", old, model, tmp_path / "theirs.gguf", "q4_0")
    merge(model, tmp_path / "ours.gguf", file_type="q4_0", imatrix=read_imatrix(old))
    assert stored(tmp_path / "ours.gguf") == stored(tmp_path / "theirs.gguf")
    assert read_imatrix(old).dataset == "text.txt"


COMPUTE = """
import sys
from pathlib import Path
from cpuft.release.importance import compute_imatrix
children = Path("/proc/thread-self/children")
def progress(*told):
    print(children.read_text(), flush=True)
model, text, output = map(Path, sys.argv[1:])
compute_imatrix(model, text, output, context=64, threads=1, progress=progress)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_llama_imatrix_dies_with_its_owner(model: Path, tmp_path: Path) -> None:
    text = write_text(tmp_path / "text.txt", 40_000)
    command = [sys.executable, "-c", COMPUTE, str(model), str(text), str(tmp_path / "imatrix.gguf")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        child = Path("/proc", owner.stdout.readline().strip(), "cmdline")
        assert b"llama-imatrix" in child.read_bytes()  # it has begun
        owner.kill()
    deadline = time.monotonic() + 5
    while child.exists() and child.read_bytes():  # a zombie that nobody has waited for has no command line
        assert time.monotonic() < deadline, "llama-imatrix outlived its owner"
        time.sleep(0.02)
    assert not (tmp_path / "imatrix.gguf").exists()


FULL_DISK = """
import sys
from pathlib import Path
from cpuft.errors import ResourceError
from cpuft.release.importance import compute_imatrix
model, text, output = map(Path, sys.argv[1:])
try:
    compute_imatrix(model, text, output, context=64, threads=1)
except ResourceError as error:
    print(error)
print("left:", len(list(output.parent.iterdir())))
"""


def test_a_full_disk_leaves_no_half_matrix(model: Path, folder: Path, tmp_path: Path) -> None:
    """llama-imatrix itself says nothing of it. On a real file system of 8 KB, mounted in a namespace of its own."""
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=8k cpuft-test '{tmp_path}'"
    if subprocess.run([*namespace, mount], capture_output=True, check=False).returncode != 0:
        pytest.skip("this system does not let an ordinary user mount a file system")
    text = write_text(folder / "text.txt")
    script = f"{mount} && exec '{sys.executable}' -c '{FULL_DISK}' '{model}' '{text}' '{tmp_path}/imatrix.gguf'"
    result = subprocess.run([*namespace, script], capture_output=True, text=True, check=True)
    assert "imatrix.gguf: llama-imatrix wrote no whole file (0.0 MB are free on that disk): free some" in result.stdout
    assert "left: 0" in result.stdout


def write_expert_model(path: Path, experts: int = 3) -> Path:
    """A layer's expert weights alone: enough for llama-quantize, which does not run the model."""
    writer = gguf.GGUFWriter(path, "llama")
    for add, value in (
        (writer.add_context_length, 64),
        (writer.add_embedding_length, 256),
        (writer.add_block_count, 1),
        (writer.add_feed_forward_length, 32),
        (writer.add_head_count, 4),
        (writer.add_vocab_size, 8),
        (writer.add_expert_count, experts),
        (writer.add_expert_used_count, 1),
    ):
        add(value)
    writer.add_layer_norm_rms_eps(1e-5)
    values = np.random.default_rng(0).standard_normal((experts, 32, 256)).astype(np.float32)
    writer.add_tensor("blk.0.ffn_gate_exps.weight", values)
    return finished(writer, path)


def write_matrix(path: Path, sums: FloatArray, counts: list[float], name: str = "blk.0.ffn_gate_exps.weight") -> Path:
    writer = gguf.GGUFWriter(path, "")
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", ["text.txt"])
    writer.add_uint32("imatrix.chunk_count", 4)
    writer.add_uint32("imatrix.chunk_size", 512)
    writer.add_tensor(name + ".in_sum2", sums)
    writer.add_tensor(name + ".counts", np.asarray(counts, np.float32)[:, None])
    return finished(writer, path)


def finished(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_each_expert_is_weighed_with_its_own_importance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In chunks of 20 rows of experts of 32, so that chunks begin and end inside of them. One expert was never used."""
    monkeypatch.setattr(merge_module, "CHUNK_VALUES", 20 * 256)
    model = write_expert_model(tmp_path / "experts.gguf")
    sums = np.random.default_rng(1).random((3, 256)).astype(np.float32) ** 4
    matrix = write_matrix(tmp_path / "imatrix.gguf", sums, [7, 0, 3])
    assert (read_imatrix(matrix).values["blk.0.ffn_gate_exps.weight"][256:512] == 1).all()
    llama_quantize("--imatrix", matrix, model, tmp_path / "theirs.gguf", "q4_k_m")
    merge(model, tmp_path / "ours.gguf", file_type="q4_k_m", imatrix=read_imatrix(matrix))
    assert stored(tmp_path / "ours.gguf") == stored(tmp_path / "theirs.gguf")


def test_every_type_of_llama_quantize_has_a_mixture(model: Path, matrix: Path) -> None:
    types = file_types()
    assert {"q2_0", "q4_k", "tq1_0", "mxfp4_moe", "iq1_s", "bf16"} <= types.keys()
    base = read_gguf(model)
    for name in types:
        found = mixture(base, name, matrix)
        assert found.types.keys() == base.tensors.keys()
        assert not found.needs_importance


def test_the_youngest_type_equals_llama_quantize(model: Path, tmp_path: Path) -> None:
    """Q2_0, which the gguf package does not know yet."""
    llama_quantize(model, tmp_path / "theirs.gguf", "q2_0")
    merge(model, tmp_path / "ours.gguf", file_type="q2_0")
    assert stored(tmp_path / "ours.gguf") == stored(tmp_path / "theirs.gguf")


def test_a_type_that_needs_a_matrix_is_refused_without(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"iq2_xs needs an importance matrix for blk\.0\..*: give --imatrix"):
        merge(model, tmp_path / "out.gguf", file_type="iq2_xs")
    sums = np.ones((1, 256), np.float32)
    little = read_imatrix(write_matrix(tmp_path / "little.gguf", sums, [1], "blk.0.attn_q.weight"))
    for name in ("iq2_xs", "q2_k_s"):
        with pytest.raises(ConfigError, match=rf"says nothing of blk\.0\.attn_k\.weight, which {name} cannot be made"):
            merge(model, tmp_path / "out.gguf", file_type=name, imatrix=little)
    assert not (tmp_path / "out.gguf").exists()


def test_what_a_file_says_of_the_embedding_is_ignored_where_it_misfits(model: Path, tmp_path: Path) -> None:
    odd = write_matrix(tmp_path / "odd.gguf", np.ones((1, 32), np.float32), [1], "token_embd.weight")
    assert read_imatrix(odd).of(read_gguf(model).tensors["token_embd.weight"]) is None


def test_damaged_and_foreign_files_are_refused(model: Path, matrix: Path, tmp_path: Path) -> None:
    wide = write_matrix(tmp_path / "wide.gguf", np.ones((1, 512), np.float32), [1], "blk.0.attn_q.weight")
    with pytest.raises(ModelError, match=r"blk\.0\.attn_q\.weight has 512 values, expected 256: .* another model"):
        merge(model, tmp_path / "out.gguf", file_type="q4_0", imatrix=read_imatrix(wide))
    negative = write_matrix(tmp_path / "negative.gguf", -np.ones((1, 256), np.float32), [1])
    text, old = tmp_path / "text", tmp_path / "old.dat"
    text.write_text("no matrix")
    old.write_bytes(b"\x02\0\0\0\x05\0\0\0blk.0\x01\0\0\0\xff\xff\xff\x7f")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(matrix.read_bytes()[:-100])
    faults = {negative: "no mean square can have", text: "not an importance matrix", old: "a damaged one"}
    faults |= {cut: "truncated or damaged", model: "not an importance matrix", tmp_path / "none": "cannot read"}
    for path, fault in faults.items():
        with pytest.raises(ModelError, match=fault):
            read_imatrix(path)
