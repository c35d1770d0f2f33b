#include "architecture.h"

#include "error.h"

namespace cpuft {

namespace {

// Biases, the fused tensor attn_qkv and factors of RoPE's frequencies are no facts here: any file may have the tensors.
constexpr Architecture qwen3() {
    Architecture a{"qwen3", RopePairs::kHalves};
    a.qk_norms = true;
    return a;
}

constexpr Architecture gemma2() {
    Architecture a{"gemma2", RopePairs::kHalves};
    a.post_norms = true;
    a.scaled_embedding = true;
    a.gate = Gate::kGelu;
    a.window_period = 2;
    a.window = 4096;
    a.score_cap = 50.0f;
    a.logit_cap = 30.0f;
    a.layers_of_widest = 46;  // 27B
    return a;
}

constexpr Architecture gemma3() {
    Architecture a{"gemma3", RopePairs::kHalves};
    a.qk_norms = true;
    a.post_norms = true;
    a.scaled_embedding = true;
    a.gate = Gate::kGelu;
    a.window_period = 6;
    a.window_rope_base = 10000.0f;
    a.logit_cap = 0.0f;
    a.layers_of_widest = 62;  // 27B
    return a;
}

constexpr Architecture phi3() {
    Architecture a{"phi3", RopePairs::kHalves};
    a.fused_gate_up = true;
    return a;
}

constexpr Architecture smollm3() {
    Architecture a{"smollm3", RopePairs::kAdjacent};
    a.rope_skips = 4;
    return a;
}

constexpr Architecture kArchitectures[] = {
    {"llama", RopePairs::kAdjacent},  // Llama 2, 3, 3.1, 3.2; Mistral; TinyLlama; SmolLM2
    {"qwen2", RopePairs::kHalves},    // Qwen 2, 2.5
    qwen3(),
    gemma2(),
    gemma3(),  // text; the vision tower is in a file of its own
    phi3(),    // Phi 3, 3.5, Phi-4
    smollm3(),
};

}  // namespace

const Architecture& find_architecture(const std::string& name, const std::string& path) {
    if (name == "clip")
        refuse("%s holds a multimodal model's projector; give the file with its text model instead", path.c_str());
    std::string known;
    for (const Architecture& architecture : kArchitectures) {
        if (name == architecture.name) return architecture;
        known += (known.empty() ? "" : ", ") + std::string(architecture.name);
    }
    refuse("%s has architecture \"%s\", which is not supported; cpuft trains %s", path.c_str(), printable(name).c_str(),
           known.c_str());
}

}  // namespace cpuft
