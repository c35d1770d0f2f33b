// Model: the base weights of one GGUF file, found by name and checked against its metadata.
//
// Dimension letters, used everywhere in the engine:
//   T tokens of a pass   C n_embd   F n_ff   H query heads   K key/value heads   D head size   V vocabulary   R rank
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "architecture.h"
#include "compute.h"
#include "cpuft.h"
#include "gguf_file.h"

namespace cpuft {

struct Dimensions {
    int64_t n_layer, C, F, H, K, D, V;
    int64_t n_ctx_train;
};

struct RopeFacts {
    RopePairs pairs;
    int64_t n_rotated;           // how many of a head's D values are rotated
    float base;                  // theta
    float position_scale;        // linear scaling: positions are multiplied by it
    std::vector<float> factors;  // [n_rotated / 2] divisors of the frequencies (Llama 3.1), or empty
    // LongRoPE (Ding et al. 2024, arXiv:2402.13753): other divisors in sequences of more than n_short tokens, and what the
    // rotated values are multiplied with in all.
    std::vector<float> long_factors;
    int64_t n_short = INT64_MAX;
    float magnitude = 1.0f;
};

struct LinearWeights {
    Matrix weight;                 // (n_out, n_in), quantized, in the mapping
    std::vector<float> bias;       // [n_out] or empty
    std::vector<float> row_scale;  // [n_out] or empty: what weight.row_scale points to
};

// The linear layers of a layer, by cpuft_target: q, k, v, output; gate, up, down. Fused tensors are seen as their parts.
constexpr size_t kLinearCount = CPUFT_TARGET_FFN_DOWN + 1;
constexpr int kNoRope = -1;

struct Layer {
    std::vector<float> attn_norm, ffn_norm;            // [C] before attention and MLP
    std::vector<float> attn_post_norm, ffn_post_norm;  // [C] behind them, or empty
    std::vector<float> q_norm, k_norm;                 // [D] of each head, or empty
    std::array<LinearWeights, kLinearCount> linears{};
    int64_t window = 0;  // keys that a query sees, as in AttentionShape
    int rope = 0;        // which of Model::ropes, or kNoRope
};

// What a cpuft_target is called: "attn_q", ... "ffn_gate_up"; and its tensor, which may have another name.
struct TargetName {
    const char *target, *tensor;
};
extern const std::array<TargetName, CPUFT_TARGET_COUNT> kTargetNames;

struct Model {
    // Throws InputError for a file that cannot be trained, naming what is wrong with it.
    explicit Model(const std::string& path);

    GgufFile file;
    const Architecture& architecture;
    Dimensions dims{};
    float norm_epsilon = 0.0f;
    float embedding_scale = 1.0f;
    float score_scale = 0.0f;                  // of attention, before its cap
    float score_cap = 0.0f, logit_cap = 0.0f;  // 0: none
    std::vector<RopeFacts> ropes;              // of most layers; where it differs, of layers with a window
    Matrix embedding;                          // (V, C)
    Matrix head;                               // (V, C): the embedding again where the head is tied
    bool tied_head = false;
    std::vector<float> head_row_scale;  // [V] or empty
    std::vector<float> output_norm;     // [C]
    std::vector<Layer> layers;
    bool fused_qkv = false;
    int64_t n_params = 0;

    // The linear layers whose rows a target's tensor holds, from the first row on; none where the model lacks it.
    std::vector<cpuft_target> parts(cpuft_target target) const;
    // All targets that it has.
    std::vector<cpuft_target> targets() const;
    // The linear layers of a set of targets; both: OR of (1 << cpuft_target).
    uint32_t linears(uint32_t targets) const;

    // Whether weights of linear layers are stored in blocks of few bits.
    bool is_quantized() const;

    // Fills in the row scales of all matrices that int8 products read: one pass over the weights.
    void measure_rows(Compute& compute);

    // The JSON object of cpuft_describe, less what belongs to the machine.
    std::string describe() const;
};

}  // namespace cpuft
