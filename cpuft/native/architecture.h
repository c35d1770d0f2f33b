// The architectures that the engine knows: one row of facts each.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace cpuft {

// Which two values of a head a rotation of RoPE turns.
enum class RopePairs {
    kAdjacent,  // (2i, 2i + 1): Llama as GGUF stores it
    kHalves,    // (i, i + n/2): the "NeoX" order
};

// The activation of a gated MLP's gate.
enum class Gate { kSilu, kGelu };

// A default is what holds where the file's metadata do not say. Files are read as llama.cpp reads them, so that what is
// trained is what runs: it ignores the window of a phi3 file, for instance.
struct Architecture {
    const char* name;  // as in general.architecture, and the prefix of its metadata keys
    RopePairs rope_pairs;
    int64_t rope_skips = 0;         // each layer whose number, from 1, is a multiple of this has no RoPE; 0: none
    bool qk_norms = false;          // RMSNorm of each head of q and k, before RoPE
    bool post_norms = false;        // RMSNorm of what attention and MLP add to the residual stream
    bool scaled_embedding = false;  // the embedding is multiplied by sqrt(C)
    bool fused_gate_up = false;     // the tensor ffn_up holds the rows of gate, then those of up
    Gate gate = Gate::kSilu;

    // Sliding windows: of each window_period layers all but the last have one. 0: the architecture has none.
    int64_t window_period = 0;      // default
    int64_t window = 0;             // default; 0: none
    float window_rope_base = 0.0f;  // default of layers with a window; 0: the other layers' base and scaling

    // Soft caps (cap tanh(x / cap)) of attention's scores and of the logits. Defaults, 0 for none; nothing where the
    // architecture has none, whatever the file says.
    std::optional<float> score_cap = std::nullopt, logit_cap = std::nullopt;
    // Scores are divided by sqrt(D), but in the model with so many layers by sqrt(C / H).
    int64_t layers_of_widest = 0;
};

// Throws InputError for an unknown name, with the list of known ones; path is the file that names it.
const Architecture& find_architecture(const std::string& name, const std::string& path);

}  // namespace cpuft
