"""A model answers concepts as a role; every answer is on the disk before the next is waited for."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cpuft.backends.generator import PARALLEL, Generator, Request, Sampling, generate_all
from cpuft.chat.message import Completion
from cpuft.errors import ConfigError, CpuftError, TooLongError
from cpuft.machine.progress import Progress, silent
from cpuft.roles import Role
from cpuft.roles.answer import as_yaml
from cpuft.roles.yaml_grammar import held_to
from cpuft.synth.concepts import Concept
from cpuft.synth.program import Program
from cpuft.synth.records import Appender, RoleRecord, read_records

SAMPLING = Sampling(temperature=0.7, top_p=0.95)


@dataclass(frozen=True)
class Generated:
    """What a run of generation did.

    kept: lines that were there before; failed: answers that did not come. error: why the model itself failed, if it
    did; it may answer another time.
    """

    made: int
    kept: int
    failed: tuple[str, ...]
    error: CpuftError | None = None


def generate_records(
    role: Role,
    generator: Generator,
    concepts: Sequence[Concept],
    output: Path,
    *,
    model: str,
    program: Program | None = None,
    constrained: bool = True,
    sampling: Sampling = SAMPLING,
    seed: int = 0,
    n_parallel: int = PARALLEL,
    progress: Progress = silent,
) -> Generated:
    """Appends an example for each concept to `output`, and goes on where it stopped before.

    model:       what answers, noted with each example: a digest tells one file from another.
    program:     how it is asked; None takes the role's prompt for models that have not been tuned.
    constrained: holds the model to the role's schema, where the backend can.
    """
    if len(role.sources) > 1:
        raise ConfigError(
            f"the role {role.name} is asked {' and '.join(role.sources)}, which other roles answer: a list of concepts "
            "cannot ask it"
        )
    error: CpuftError | None = None
    appender, failed = Appender(output, role), list[str]()
    known = {record.asked for record in read_records(output, role)} if output.stat().st_size else set()
    first = next(iter(role.sources))
    left = [concept for concept in concepts if concept.text not in known]
    program = program or Program(role.prompt)
    held = held_to(role.schema, generator, sampling) if constrained else sampling
    requests = [_request(role, {first: c.text}, program, held, seed) for c in left]
    made = 0
    try:
        for number, answer in generate_all(generator, requests, n_parallel):
            concept = left[number]
            if isinstance(answer, Completion) and answer.text.strip():
                facts = {"domain": concept.domain, "group": concept.group, "model": model, "prompt": program.digest}
                appender.add(_record(role, {first: concept.text}, answer, requests[number], facts))
                made += 1
            else:
                # An empty answer is none: no reader of examples takes one.
                why = "the answer is empty" if isinstance(answer, Completion) else answer
                error = answer if isinstance(answer, CpuftError) and not isinstance(answer, TooLongError) else error
                failed.append(f"{concept.text}: {why}")
            progress("examples", made + len(failed), len(left), "example")
    finally:
        appender.close()
    return Generated(made, len(concepts) - len(left), tuple(failed), error)


def _request(role: Role, inputs: dict[str, str], program: Program, sampling: Sampling, seed: int) -> Request:
    """A question whose seed depends on the question, so that a run which goes on asks as one that never stopped."""
    messages = program.messages(role, inputs, as_json=sampling.schema is not None)
    own = random.Random(f"{seed}\n{messages[-1]['content']}").randrange(2**31)
    return Request(messages, replace(sampling, seed=own))


def _record(
    role: Role, inputs: dict[str, str], answer: Completion, request: Request, facts: Mapping[str, object]
) -> RoleRecord:
    text = as_yaml(answer.text)
    score = round(role.metric(text, inputs).total, 4)
    own = {"score": score, "finished": answer.finished, "tokens": answer.tokens, "seed": request.sampling.seed}
    return RoleRecord(inputs, text, {**own, **facts})
