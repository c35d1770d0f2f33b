"""What sets the models of each architecture apart in their files, for the benchmarks' models and the tests' alike."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """The facts of one architecture; what differs between its models is theirs to say.

    A period p means: of each p layers all but the last (window), or only the last (no rope).
    """

    interleaved: bool = False  # attn_q and attn_k have rotary pairs side by side: rows 0, h/2, 1, h/2 + 1, ...
    fused: bool = False  # attn_qkv for attn_q, attn_k and attn_v; ffn_up holds the gate's rows, then its own
    head_norms: bool = False  # each head's queries and keys are normed before they are turned
    post_norms: bool = False  # what attention and MLP add to the residual stream is normed, too
    shifted_norms: bool = False  # transformers keeps each norm's weights less 1
    window_period: int = 0  # which layers see only a window; 0: none, whatever the file says
    no_rope_period: int = 0  # which layers turn nothing; 0: none
    wide_scale_layers: int = 0  # a model of so many layers divides scores by sqrt(n_embd / n_head), not sqrt(head_size)
    unwritten: tuple[str, ...] = ()  # what the converter leaves to be inferred: keys without the architecture's prefix


HEAD_SIZE_KEYS = ("attention.key_length", "attention.value_length")

ARCHITECTURES = {
    "llama": Architecture(interleaved=True),
    "qwen2": Architecture(),
    "qwen3": Architecture(head_norms=True, unwritten=("rope.dimension_count", "vocab_size")),
    "smollm3": Architecture(interleaved=True, no_rope_period=4, unwritten=HEAD_SIZE_KEYS),
    "phi3": Architecture(fused=True, unwritten=(*HEAD_SIZE_KEYS, "vocab_size")),
    "gemma2": Architecture(
        post_norms=True,
        shifted_norms=True,
        window_period=2,
        wide_scale_layers=46,  # the 27B model
        unwritten=("rope.freq_base", "rope.dimension_count", "vocab_size"),
    ),
    "gemma3": Architecture(
        head_norms=True,
        post_norms=True,
        shifted_norms=True,
        window_period=6,
        wide_scale_layers=62,  # the 27B model
        unwritten=("rope.dimension_count", "vocab_size"),
    ),
}


class Block:
    """The tensors of one layer, given the sizes that a subclass has."""

    architecture: str
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    head_size: int

    @property
    def facts(self) -> Architecture:
        """Those of the architecture."""
        return ARCHITECTURES[self.architecture]

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(outputs, inputs) of each linear layer, in the order of the C ABI."""
        n_q, n_kv = self.n_head * self.head_size, self.n_head_kv * self.head_size
        if self.facts.fused:
            return {
                "attn_qkv": (n_q + 2 * n_kv, self.n_embd),
                "attn_output": (self.n_embd, n_q),
                "ffn_up": (2 * self.n_ff, self.n_embd),
                "ffn_down": (self.n_embd, self.n_ff),
            }
        return {
            "attn_q": (n_q, self.n_embd),
            "attn_k": (n_kv, self.n_embd),
            "attn_v": (n_kv, self.n_embd),
            "attn_output": (self.n_embd, n_q),
            "ffn_gate": (self.n_ff, self.n_embd),
            "ffn_up": (self.n_ff, self.n_embd),
            "ffn_down": (self.n_embd, self.n_ff),
        }

    @property
    def norms(self) -> dict[str, int]:
        """The size of each norm."""
        sizes = {"attn_norm": self.n_embd, "ffn_norm": self.n_embd}
        if self.facts.head_norms:
            sizes |= {"attn_q_norm": self.head_size, "attn_k_norm": self.head_size}
        if self.facts.post_norms:
            sizes |= {"post_attention_norm": self.n_embd, "post_ffw_norm": self.n_embd}
        return sizes
