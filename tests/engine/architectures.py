"""What sets the models of each architecture apart, as far as a file shows it or transformers needs to be told."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """The facts of one architecture; what differs between its models is a ModelSpec's.

    A period p with a fact of layers means: of each p layers all but the last (window), or only the last (no rope).
    """

    tokenizer: str  # a key of random_model.TOKENIZERS
    interleaved: bool = False  # attn_q and attn_k have rotary pairs side by side: rows 0, h/2, 1, h/2 + 1, ...
    fused: bool = False  # attn_qkv for attn_q, attn_k and attn_v; ffn_up holds the gate's rows, then its own
    head_norms: bool = False  # each head's queries and keys are normed before they are turned
    post_norms: bool = False  # what attention and MLP add to the residual stream is normed, too
    shifted_norms: bool = False  # transformers keeps each norm's weights less 1
    window_period: int = 0  # which layers see only ModelSpec.window tokens; 0: none, whatever the file says
    no_rope_period: int = 0  # which layers turn nothing; 0: none
    wide_scale_layers: int = 0  # a model of so many layers divides scores by sqrt(n_embd / n_head), not sqrt(head_size)
    unwritten: tuple[str, ...] = ()  # what the converter leaves to be inferred: keys without the architecture's prefix


HEAD_SIZE_KEYS = ("attention.key_length", "attention.value_length")

ARCHITECTURES = {
    "llama": Architecture("sentencepiece", interleaved=True),
    "qwen2": Architecture("bpe"),
    "qwen3": Architecture("bpe", head_norms=True, unwritten=("rope.dimension_count", "vocab_size")),
    "smollm3": Architecture("bpe", interleaved=True, no_rope_period=4, unwritten=HEAD_SIZE_KEYS),
    "phi3": Architecture("sentencepiece", fused=True, unwritten=(*HEAD_SIZE_KEYS, "vocab_size")),
    "gemma2": Architecture(
        "gemma",
        post_norms=True,
        shifted_norms=True,
        window_period=2,
        wide_scale_layers=46,  # the 27B model
        unwritten=("rope.freq_base", "rope.dimension_count", "vocab_size"),
    ),
    "gemma3": Architecture(
        "gemma",
        head_norms=True,
        post_norms=True,
        shifted_norms=True,
        window_period=6,
        wide_scale_layers=62,  # the 27B model
        unwritten=("rope.dimension_count", "vocab_size"),
    ),
}
