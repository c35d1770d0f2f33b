"""What the fuzzers test, each with the whole inputs that it spoils."""

import datetime
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import safetensors.numpy

from cpuft import toolchain
from cpuft.adapters.adapter import check_base, read_adapter, write_adapter
from cpuft.adapters.description import describe_adapter
from cpuft.adapters.peft import read_peft
from cpuft.chat.template import ChatTemplate, chat_template_of
from cpuft.data.records import Chat, read_records
from cpuft.errors import ExampleError
from cpuft.gguf.description import describe_model
from cpuft.gguf.reader import read_gguf
from tests.adapters.peft_folders import header, module_pair, write_folder
from tests.engine.probe import probe
from tests.engine.random_model import ModelSpec, write_model, write_small_model
from tests.fuzz.campaign import Target, sentence_of
from tests.fuzz.gguf_parts import Parts
from tests.fuzz.mutation import changed, damaged
from tests.gguf.tiny import random_adapter, write_tiny_model

DAY = datetime.date(2026, 1, 31)
CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "Be terse."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Again?"},
    {"role": "assistant", "content": "Yes."},
]
CALL = {
    "id": "abcdefghi",
    "type": "function",
    "function": {"name": "weather", "arguments": {"place": "Köln", "n": [1]}},
}
CALLING = [CHAT[1], {"role": "assistant", "content": "", "tool_calls": [CALL]}, CHAT[2]]


class GgufTarget(Target):
    """Spoils GGUF files, by their bytes and by their parts."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.path = folder / "spoilt.gguf"
        files = self.whole(folder)
        self._bytes = [path.read_bytes() for path in files]
        self._parts = [Parts.of(path) for path in files]

    def whole(self, folder: Path) -> list[Path]:
        """The files that it begins with, written to `folder`."""
        raise NotImplementedError

    def spoilt(self, chance: random.Random) -> bytes:
        """Three in four by their parts."""
        i = chance.randrange(len(self._parts))
        if chance.random() < 0.75:
            return self._parts[i].spoilt(chance).together()
        whole, parts = self._bytes[i], self._parts[i]
        return damaged(whole, 4, len(whole) - len(parts.data), chance)


class EngineOpens(GgufTarget):
    """The engine opens, tokenizes and trains a step, in a process that may die of it."""

    batch = 100

    def whole(self, folder: Path) -> list[Path]:
        """Models of each architecture, and of vocabularies of a few tokens."""
        names = ("llama", "qwen2", "qwen3", "phi3", "gemma2", "gemma3", "smollm3")
        tiny = ModelSpec("", n_layer=1, n_embd=48, n_ff=64, n_head=3, n_head_kv=1, head_size=16, seed=46)
        specs = {name: replace(tiny, architecture=name) for name in names}
        paths = [write_model(folder / f"{name}.gguf", spec) for name, spec in specs.items()]
        for name in ("llama", "qwen2"):
            for n in (1, 2, 8, 12):
                paths.append(write_small_model(folder / f"{name}-{n}.gguf", specs[name], n, {}))
        return paths

    def judge(self, inputs: Sequence[bytes]) -> list[str]:
        """Each by what became of its file."""
        paths = [self.folder / f"{i}.gguf" for i in range(len(inputs))]
        for path, data in zip(paths, inputs, strict=True):
            path.write_bytes(data)
        outcomes = []
        for outcome in probe(paths):
            if outcome.error in ("ModelError", "ResourceError"):
                outcomes.append(sentence_of(outcome.error, outcome.message))
            elif outcome.error:
                outcomes.append(f"{outcome.error}: {outcome.message.replace(str(outcome.path), 'FILE')[-400:]}")
            else:
                outcomes.append("")
        return outcomes

    def use(self, data: bytes) -> None:
        """Of a single file."""
        self.path.write_bytes(data)
        probe([self.path])


class ReaderReads(GgufTarget):
    """The GGUF reader, and what is asked of a header."""

    def whole(self, folder: Path) -> list[Path]:
        """A model, with a template."""
        return [write_tiny_model(folder / "tiny.gguf", n_layer=1)]

    def use(self, data: bytes) -> None:
        """Describes it and asks for all values."""
        self.path.write_bytes(data)
        describe_model(self.path)
        file = read_gguf(self.path)
        for field in file.fields.values():
            _ = field.value
        with self.path.open("rb") as stream:
            for tensor in file.tensors.values():
                file.read_rows(stream, tensor, 0, 1)
        if (template := chat_template_of(file, DAY)) is not None:
            template.render(CHAT)


class GgufAdapterReads(GgufTarget):
    """The reader of LoRA adapters in GGUF."""

    def whole(self, folder: Path) -> list[Path]:
        """Adapters of rank 1 and 4."""
        self.base = write_tiny_model(folder / "base.gguf", n_layer=1)
        paths = []
        for rank in (1, 4):
            paths.append(folder / f"{rank}.gguf")
            write_adapter(paths[-1], random_adapter(self.base, rank=rank), alpha=8, architecture="llama")
        return paths

    def use(self, data: bytes) -> None:
        """Describes it and holds it against its base."""
        self.path.write_bytes(data)
        describe_adapter(self.path)
        check_base(read_adapter(self.path), read_gguf(self.base), self.path)


class PeftAdapterReads(Target):
    """The reader of PEFT's folders. An input is the configuration, a zero byte, and the tensors."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.base = header("llama")
        pairs = module_pair("layers.0.self_attn.q_proj", (24, 18)) | module_pair("layers.1.mlp.down_proj", (18, 28))
        patterns = {"rank_pattern": {"down_proj": 3}, "alpha_pattern": {"q_proj": 5}, "use_rslora": True}
        self.path = write_folder(folder / "peft", pairs, **patterns)
        self._config = json.loads((self.path / "adapter_config.json").read_text())
        self._tensors = safetensors.numpy.save(pairs)

    def spoilt(self, chance: random.Random) -> bytes:
        """One of the two."""
        if chance.random() < 0.5:
            return json.dumps(changed(self._config, chance)).encode() + b"\0" + self._tensors
        length = int.from_bytes(self._tensors[:8], "little")
        if chance.random() < 0.5:
            tensors = damaged(self._tensors, 0, len(self._tensors), chance)
        else:
            document = json.dumps(changed(json.loads(self._tensors[8 : 8 + length]), chance)).encode()
            document += b" " * (-len(document) % 8)
            tensors = len(document).to_bytes(8, "little") + document + self._tensors[8 + length :]
        return json.dumps(self._config).encode() + b"\0" + tensors

    def use(self, data: bytes) -> None:
        """Reads it onto a base."""
        config, _, tensors = data.partition(b"\0")
        (self.path / "adapter_config.json").write_bytes(config)
        (self.path / "adapter_model.safetensors").write_bytes(tensors)
        read_peft(self.path).on(self.base)


class RecordsRead(Target):
    """Datasets of JSON lines, and the texts that templates make of their conversations."""

    SEEDS: ClassVar = (
        {"messages": CHAT},
        {"messages": CALLING, "tools": [{"type": "function", "function": {"name": "weather", "parameters": {}}}]},
        {"prompt": "a", "completion": "b"},
        {"text": "a"},
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.path = folder / "train.jsonl"
        self._templates = [_template(source) for source in template_sources()[:6]]

    def spoilt(self, chance: random.Random) -> bytes:
        """A line or two."""
        lines = [json.dumps(changed(chance.choice(self.SEEDS), chance)).encode() for _ in range(chance.choice([1, 2]))]
        data = b"\n".join(lines)
        return damaged(data, 0, len(data), chance) if chance.random() < 0.3 else data

    def use(self, data: bytes) -> None:
        """Reads all lines, and renders what can be."""
        self.path.write_bytes(data)
        for _, record in read_records(self.path):
            if isinstance(record, Chat):
                for template in self._templates:
                    try:
                        template.render(record.messages, tools=record.tools)
                    except ExampleError:
                        continue


class TemplatesRender(Target):
    """Chat templates of real models, spoilt."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._sources = [source.encode() for source in template_sources()]

    def spoilt(self, chance: random.Random) -> bytes:
        """Pieces of templates are repeated, removed and exchanged."""
        source = chance.choice(self._sources)
        if chance.random() < 0.3:
            other = chance.choice(self._sources)
            source = source[: chance.randrange(len(source))] + other[chance.randrange(len(other)) :]
        return damaged(source, 0, len(source), chance)

    def use(self, data: bytes) -> None:
        """Compiles it and renders a conversation."""
        template = _template(data.decode(errors="replace"))
        template.render(CHAT, answer=True)
        template.render(CALLING, tools=[])


def template_sources() -> list[str]:
    """The chat templates that come with llama.cpp."""
    folder = toolchain.locate().source / "models" / "templates"
    return [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja"))]


def _template(source: str) -> ChatTemplate:
    return ChatTemplate(source, Path("m.gguf"), bos_token="<s>", eos_token="</s>", date=DAY)


TARGETS: Mapping[str, Callable[[Path], Target]] = {
    "engine": EngineOpens,
    "gguf-reader": ReaderReads,
    "gguf-adapter": GgufAdapterReads,
    "peft-adapter": PeftAdapterReads,
    "records": RecordsRead,
    "templates": TemplatesRender,
}
