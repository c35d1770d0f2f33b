"""How examples are grouped, and which activations are kept, changes neither losses nor gradients nor steps."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from cpuft.data import examples as data
from cpuft.data.batches import passes
from cpuft.engine import Engine

from .comparison import batch, distance, open_case, run, set_adapter, step
from .golden import CASES, Example
from .random_model import ModelSpec

ModelOf = Callable[[ModelSpec], Path]

# Sums of the same float32 terms in another order: each of some hundred tokens' terms is rounded once more.
REORDERED = 2e-5


def test_a_pack_is_the_sum_of_its_examples(case_name: str, model_of: ModelOf) -> None:
    case = CASES[case_name]
    with open_case(model_of(case.model), case) as engine:
        together = run(engine, case.examples())
        alone = [run(engine, [example]) for example in case.examples()]
    assert together[0] == pytest.approx(sum(loss for loss, _ in alone), rel=1e-6)
    assert distance(together[1], np.sum([gradient.astype(np.float64) for _, gradient in alone], axis=0)) < REORDERED


def test_gradients_accumulate_over_passes(model_of: ModelOf) -> None:
    case = CASES["llama-rope-freqs"]
    with open_case(model_of(case.model), case) as engine:
        _, together = run(engine, case.examples())
        for example in case.examples():
            engine.forward_backward(batch([example]))
        assert distance(engine.gradients, together) < REORDERED


def test_an_example_does_not_see_its_neighbours(model_of: ModelOf) -> None:
    case = CASES["llama-mistral"]
    first, second, third = case.examples()
    other = Example((first.tokens + 1) % case.model.n_vocab, first.supervised)
    silent = Example(first.tokens, np.zeros_like(first.supervised))
    with open_case(model_of(case.model), case) as engine:
        alone = run(engine, [second, third])[0]
        for neighbour in (first, other):
            with_neighbour = run(engine, [neighbour, second, third])[0] - run(engine, [neighbour])[0]
            assert with_neighbour == pytest.approx(alone, rel=1e-5)
        # An unsupervised neighbour adds nothing at all.
        loss, gradient = run(engine, [silent, second, third])
        assert loss == pytest.approx(alone, rel=1e-6)
        assert distance(gradient, run(engine, [second, third])[1]) < REORDERED


@pytest.mark.parametrize("name", ["qwen2", "gemma2"])
def test_logits_of_a_pack(name: str, model_of: ModelOf) -> None:
    """The logits agree with the loss, and those of a pack with those of its examples."""
    case = CASES[name]
    examples = case.examples()
    with open_case(model_of(case.model), case) as engine:
        packed = engine.logits(batch(examples).tokens, batch(examples).lengths)
        assert packed.shape == (sum(case.lengths), case.model.n_vocab)
        loss, start = 0.0, 0
        for example in examples:
            n = len(example.tokens)
            rows = packed[start : start + n].astype(np.float64)
            alone = engine.logits(example.tokens, np.array([n], np.int64))
            assert distance(rows, alone) < REORDERED
            log_sum = np.log(np.exp(rows - rows.max(1, keepdims=True)).sum(1)) + rows.max(1)
            losses = log_sum[:-1] - rows[np.arange(n - 1), example.tokens[1:]]
            loss += float(losses[example.supervised[1:] == 1].sum())
            start += n
        assert engine.forward(batch(examples))[0] == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("precision", ["f32", None])
@pytest.mark.parametrize("name", ["gemma2", "llama-mistral"])
def test_some_rows_have_the_logits_that_all_give(name: str, precision: str | None, model_of: ModelOf) -> None:
    """To the bit."""
    case = CASES[name]
    tokens = case.examples()[0].tokens
    lengths = np.array([tokens.size], np.int64)
    with Engine(model_of(case.model), threads=2, precision=precision) as engine:
        whole, hidden = engine.logits(tokens, lengths), engine.forward_hidden(tokens, lengths)
        for rows in (slice(0, 1), slice(3, 20), slice(7, None, 4)):
            assert engine.logits_of(hidden[rows]).tobytes() == whole[rows].tobytes()


def test_recomputing_gives_the_gradients_of_keeping(case_name: str, model_of: ModelOf) -> None:
    case = CASES[case_name]
    keys = range(len(case.lengths))
    with open_case(model_of(case.model), case, dropout=0.1) as engine:
        kept = [run(engine, case.examples()), run(engine, case.examples(), keys)]
        engine.set_activations("recompute")
        recomputed = [run(engine, case.examples()), run(engine, case.examples(), keys)]
    for (kept_loss, kept_gradient), (loss, gradient) in zip(kept, recomputed, strict=True):
        assert loss == kept_loss
        assert gradient.tobytes() == kept_gradient.tobytes()  # the same arithmetic twice, not only close


@pytest.mark.parametrize("target", ["attn_q", "attn_output", "ffn_gate", "ffn_down"])
def test_recomputing_for_one_target(target: str, model_of: ModelOf) -> None:
    """The norms behind attention and MLP need what these give, whether that is adapted or not."""
    case = CASES["gemma2"]
    results = []
    with open_case(model_of(case.model), case) as engine:
        engine.adapter_init(rank=case.rank, alpha=case.alpha, targets=[target])
        set_adapter(engine, case.adapter())
        policies: tuple[Literal["keep", "recompute"], ...] = ("keep", "recompute")
        for policy in policies:
            engine.set_activations(policy)
            loss, gradient = run(engine, case.examples())
            results.append((loss, gradient.tobytes()))
    assert results[0] == results[1]


def test_regrouping_gives_the_same_step(model_of: ModelOf) -> None:
    """Four examples in one pass, in two, in four: the mean is over tokens, not over passes."""
    case = CASES["llama-rope-freqs"]
    examples = case.examples()
    results = []
    for groups in ([examples], [examples[:1], examples[1:]], [[example] for example in reversed(examples)]):
        with open_case(model_of(case.model), case) as engine:
            for group in groups:
                engine.forward_backward(batch(group))
            norm = step(engine, 1, case.optimizer)
            first, second = engine.optimizer_state.view(np.float32).reshape(2, -1).copy()
            results.append((norm, engine.gradients.copy(), first, second))
    for norm, gradient, first, second in results:
        assert norm == pytest.approx(results[0][0], rel=REORDERED)
        assert not gradient.any()
        assert distance(first, results[0][2]) < REORDERED
        assert distance(second, results[0][3]) < 2 * REORDERED


def test_the_step_is_adamw(model_of: ModelOf) -> None:
    """Against the formula of Loshchilov & Hutter in float64, clipped and not, over three steps."""
    case = CASES["llama-tied"]
    settings = case.optimizer
    for max_grad_norm in (0.0, 0.5, 1e9):
        with open_case(model_of(case.model), case) as engine:
            parameters = engine.parameters.astype(np.float64)
            first, second = np.zeros_like(parameters), np.zeros_like(parameters)
            for number in (1, 2, 3):
                _, n_supervised = engine.forward_backward(batch(case.step_examples(number)))
                mean = engine.gradients.astype(np.float64) / n_supervised
                norm = float(np.linalg.norm(mean))
                clipped = mean * min(1.0, max_grad_norm / norm) if max_grad_norm else mean
                first = settings.beta1 * first + (1 - settings.beta1) * clipped
                second = settings.beta2 * second + (1 - settings.beta2) * clipped**2
                update = first / (1 - settings.beta1**number)
                update /= np.sqrt(second / (1 - settings.beta2**number)) + settings.epsilon
                parameters -= settings.learning_rate * (settings.weight_decay * parameters + update)
                got = engine.step(
                    step=number,
                    learning_rate=settings.learning_rate,
                    beta1=settings.beta1,
                    beta2=settings.beta2,
                    epsilon=settings.epsilon,
                    weight_decay=settings.weight_decay,
                    max_grad_norm=max_grad_norm,
                )
                assert got == pytest.approx(norm, rel=1e-5)
                assert distance(engine.parameters, parameters) < 1e-6
                parameters = engine.parameters.astype(np.float64)  # the next step starts from float32 again


def with_prefix(n_vocab: int, n_prefix: int, lengths: tuple[int, ...]) -> list[Example]:
    """Examples that begin with the same n_prefix tokens, none of them supervised."""
    rng = np.random.default_rng(5)
    prefix = rng.integers(0, n_vocab, n_prefix)
    return [
        Example(
            np.concatenate([prefix, rng.integers(0, n_vocab, length)]).astype(np.int32),
            np.concatenate([np.zeros(n_prefix + 2), rng.random(length - 2) < 0.6]).astype(np.uint8),
        )
        for length in lengths
    ]


@pytest.mark.parametrize("activations", ["keep", "recompute"])
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_a_shared_prefix_is_computed_once_and_changes_nothing(
    case_name: str, activations: Literal["keep", "recompute"], precision: str, model_of: ModelOf
) -> None:
    """Losses have the same bytes; gradients are sums of the same terms in another order."""
    case = CASES[case_name]
    examples = with_prefix(case.model.n_vocab, 140, (30, 5, 41))
    with open_case(model_of(case.model), case, precision=precision) as engine:
        engine.set_activations(activations)
        loss, together = run(engine, examples)
        needed = sum(int(example.supervised.nonzero()[0][-1]) for example in examples)
        assert engine.pass_tokens == needed - 2 * 128
        alone = [run(engine, [example]) for example in examples]
        assert engine.forward(batch(examples))[0] == pytest.approx(loss, rel=1e-12)
    assert loss == pytest.approx(sum(one for one, _ in alone), rel=1e-12)
    wanted = np.sum([gradient.astype(np.float64) for _, gradient in alone], axis=0)
    # Where bfloat16 is multiplied, the gradients of the prefix are rounded by 2^-9 as a sum and not one by one.
    assert distance(together, wanted) < (REORDERED if precision == "f32" else 2.0**-8)


def test_dropout_keeps_prefixes_apart(model_of: ModelOf) -> None:
    """Each example has masks of its own, in its prefix too."""
    case = CASES["qwen2"]
    examples = with_prefix(case.model.n_vocab, 80, (20, 30))
    with open_case(model_of(case.model), case, dropout=0.3) as engine:
        engine.forward_backward(batch(examples, [1, 2]))
        together = engine.gradients.copy()
        engine.zero_gradients()
        for key, example in enumerate(examples, 1):
            engine.forward_backward(batch([example], [key]))
        assert distance(engine.gradients, together.astype(np.float64)) < REORDERED


def test_passes_keep_to_their_tokens_where_they_share_a_prefix(model_of: ModelOf) -> None:
    """What all examples share counts once when passes are made; the engine computes no more than that."""
    case = CASES["qwen2"]
    pairs = [*with_prefix(case.model.n_vocab, 140, (30, 5, 41)), *with_prefix(case.model.n_vocab, 140, (60, 12))]
    examples = [data.Example(pair.tokens, pair.supervised, "test") for pair in pairs]
    with open_case(model_of(case.model), case) as engine:
        block, indices = int(engine.facts["prefix_block"]), np.arange(len(examples))
        for most, n_passes, n_apart in ((300, 2, 4), (500, 1, 2), (2000, 1, 1)):
            batches = passes(examples, indices, most, prefix_block=block)
            assert (len(batches), len(passes(examples, indices, most))) == (n_passes, n_apart)
            for made in batches:
                engine.forward(made)
                assert engine.pass_tokens <= most
