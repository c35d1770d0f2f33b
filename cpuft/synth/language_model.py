"""A Generator as DSPy's language model, and a role as its program, asked in the very words that cpuft asks in."""

import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dspy
from dspy.lm15 import Message as Turn
from dspy.lm15 import Request, Response, TextPart, Usage

from cpuft.backends.generator import GREEDY, Generator, Sampling
from cpuft.chat.message import Message
from cpuft.errors import TooLongError
from cpuft.machine.files import write_text
from cpuft.roles import Role
from cpuft.roles.answer import as_yaml
from cpuft.synth.program import Program
from cpuft.synth.records import RoleRecord

ANSWER = "answer"  # the output field of a role's program: the whole document as YAML
PREDICTOR = "ask"  # its one predictor
SHORTENED = 6  # times that a question of DSPy's own is halved
PROPOSAL_TOKENS = 512  # that the model may write of a new prompt, or of what it makes of the data


class LanguageModel(dspy.LM):  # type: ignore[misc] # DSPy has no types
    """A Generator for DSPy: without DSPy's cache, whose keys know no model's digest, and without its retries.

    held: what answers are held to that bring no JSON Schema of their own: its schema or grammar.
    """

    def __init__(
        self,
        generator: Generator,
        name: str,
        *,
        seed: int,
        temperature: float = 0.0,
        max_tokens: int = PROPOSAL_TOKENS,
        held: Sampling = GREEDY,
    ) -> None:
        engine = _Engine(generator, name, held)
        super().__init__(
            name, engine=engine, cache=False, num_retries=0, temperature=temperature, max_tokens=max_tokens, seed=seed
        )

    @property
    def failure(self) -> Exception | None:
        """Why the generator failed, if it did: DSPy takes any failure for a bad answer and goes on."""
        failure: Exception | None = self.engine.failure
        return failure

    def stop(self, failure: Exception) -> None:
        """Asks nothing more, because of something that failed elsewhere."""
        self.engine.failure = failure

    def copy(self, **changes: Any) -> "LanguageModel":
        """See `dspy.LM.copy`. Another rollout has another seed: only DSPy's own cache would tell it apart."""
        rollout = changes.get("rollout_id")
        if rollout is not None:
            changes["seed"] = random.Random(f"{self.kwargs['seed']}:{rollout}").randrange(2**31)
        copied: LanguageModel = super().copy(**changes)
        return copied


class _Engine:
    """What DSPy asks instead of a provider's server; see `dspy.clients.engines.Engine`."""

    supports_response_schema = True
    supported_params = frozenset({"response_format", "temperature", "top_p", "max_tokens", "seed"})

    def __init__(self, generator: Generator, name: str, held: Sampling) -> None:
        self._generator, self._name, self._held = generator, name, held
        self.failure: Exception | None = None

    def complete(self, request: Request) -> Response:
        """One answer. What fails, but for a question that is too long, is kept in `failure`.

        A question of DSPy's own (about the data, for a new prompt) that is too long loses the middle of its longest
        turn until it fits; one of the role's is answered with nothing.
        """
        if self.failure is not None:
            raise self.failure
        config = request.config
        messages, own = _messages(request), config.response_format is not None
        sampling = Sampling(
            temperature=config.temperature or 0.0,
            top_p=1.0 if config.top_p is None else config.top_p,
            seed=config.seed or 0,
            max_tokens=config.max_tokens or PROPOSAL_TOKENS,
            schema=config.response_format.get("schema") if own else self._held.schema,
            grammar=None if own else self._held.grammar,
        )
        for _ in range(SHORTENED if own else 1):
            try:
                completion = self._generator.generate(messages, sampling)
            except TooLongError:
                messages = _shortened(messages)
            except Exception as error:
                self.failure = error
                raise
            else:
                n_in, n_out = completion.prompt_tokens, completion.tokens
                text = _as_object(completion.text, sampling.schema) if own and sampling.schema else completion.text
                return _response(self._name, text, Usage(n_in, n_out, total_tokens=n_in + n_out))
        nothing = json.dumps(dict.fromkeys(sampling.schema["properties"], "")) if own and sampling.schema else ""
        return _response(self._name, nothing, Usage(input_tokens=0, output_tokens=0, total_tokens=0))

    def close(self) -> None:
        """Nothing is open: the generator is its owner's."""


def _messages(request: Request) -> list[Message]:
    system = request.system if isinstance(request.system, str) else "".join(part.text for part in request.system or ())
    turns: list[Message] = [{"role": turn.role, "content": turn.text or ""} for turn in request.messages]
    return [{"role": "system", "content": system}, *turns] if system else turns


def _as_object(text: str, schema: Mapping[str, Any]) -> str:
    """An answer to a question of DSPy's own: as it is where it begins as the object that was asked for.

    A server that passes over the schema answers in words; these are then what the one field should hold.
    """
    names = list(schema["properties"])
    return text if text.lstrip().startswith("{") or len(names) != 1 else json.dumps({names[0]: text.strip()})


def _shortened(messages: Sequence[Message]) -> list[Message]:
    """The conversation without the middle half of its longest turn."""
    longest = max(range(len(messages)), key=lambda i: len(messages[i]["content"]))
    text = messages[longest]["content"]
    quarter = len(text) // 4
    cut = {**messages[longest], "content": f"{text[:quarter]}\n…\n{text[len(text) - quarter :]}"}
    return [*messages[:longest], cut, *messages[longest + 1 :]]


def _response(name: str, text: str, usage: Usage) -> Response:
    # DSPy counts an empty text as an error of its own; a blank is an answer without content.
    message = Turn.assistant([TextPart(text or "\n")])
    return Response(id=None, model=name, message=message, finish_reason="stop", usage=usage)


class _RoleAdapter(dspy.Adapter):  # type: ignore[misc]
    """Writes a role's question as `Program.messages` does, so that what is optimized is what is asked later.

    as_json: for answers that are held to JSON.
    """

    def __init__(self, role: Role, as_json: bool) -> None:
        super().__init__()
        self._role, self._as_json = role, as_json

    def format(
        self, signature: type[dspy.Signature], demos: Sequence[Mapping[str, Any]], inputs: Mapping[str, Any]
    ) -> list[Message]:
        """The conversation."""
        shown = tuple(
            RoleRecord({name: str(demo[name]) for name in self._role.sources}, demo[ANSWER]) for demo in demos
        )
        return Program(signature.instructions, shown).messages(self._role, inputs, as_json=self._as_json)

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        """The answer, whatever it is: what it is worth is the metric's to say."""
        return {ANSWER: as_yaml(completion)}


class RoleProgram(dspy.Module):  # type: ignore[misc]
    """Asks a model as a role: the fields that the role is asked, to one document of YAML."""

    def __init__(self, role: Role, program: Program, *, as_json: bool = False) -> None:
        super().__init__()
        fields = {name: (str, dspy.InputField()) for name in role.sources}
        signature = dspy.Signature(
            {**fields, ANSWER: (str, dspy.OutputField(desc="one YAML document"))}, program.prompt
        )
        predictor = dspy.Predict(signature)
        predictor.demos = [dspy.Example(**demo.inputs, **{ANSWER: demo.answer}) for demo in program.demos]
        setattr(self, PREDICTOR, predictor)
        self._adapter = _RoleAdapter(role, as_json)

    def forward(self, **inputs: str) -> dspy.Prediction:
        """The prediction, whose `answer` is the document."""
        with dspy.context(adapter=self._adapter):
            return getattr(self, PREDICTOR)(**inputs)

    @property
    def program(self) -> Program:
        """What the program asks in, without DSPy."""
        predictor = getattr(self, PREDICTOR)
        names = predictor.signature.input_fields
        demos = (RoleRecord({name: str(demo[name]) for name in names}, demo[ANSWER]) for demo in predictor.demos)
        return Program(predictor.signature.instructions, tuple(demos))


def write_program(path: Path, role: Role, program: Program) -> None:
    """Writes a program as DSPy does, whole or not at all: `read_program` reads it, and so does `RoleProgram.load`."""
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "program.json"  # DSPy tells the form by the name
        RoleProgram(role, program).save(written)
        text = written.read_text(encoding="utf-8")
    write_text(path, text)
