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
};

struct LinearWeights {
    Matrix weight;                 // (n_out, n_in), quantized, in the mapping
    std::vector<float> bias;       // [n_out] or empty
    std::vector<float> row_scale;  // [n_out] or empty: what weight.row_scale points to
};

struct LayerWeights {
    std::vector<float> attn_norm;                             // [C]
    std::vector<float> ffn_norm;                              // [C]
    std::array<LinearWeights, CPUFT_TARGET_COUNT> linears{};  // by cpuft_target
};

// What a cpuft_target is called in tensor names: "attn_q", ... "ffn_down".
extern const std::array<const char*, CPUFT_TARGET_COUNT> kTargetNames;

struct Model {
    // Throws InputError for a file that cannot be trained, naming what is wrong with it.
    explicit Model(const std::string& path);

    GgufFile file;
    const Architecture& architecture;
    Dimensions dims{};
    float norm_epsilon = 0.0f;
    RopeFacts rope{};
    Matrix embedding;  // (V, C)
    Matrix head;       // (V, C): the embedding again where the head is tied
    bool tied_head = false;
    std::vector<float> head_row_scale;  // [V] or empty
    std::vector<float> output_norm;     // [C]
    std::vector<LayerWeights> layers;
    int64_t n_params = 0;

    // Whether weights of linear layers are stored in blocks of few bits.
    bool is_quantized() const;

    // Fills in the row scales of all matrices that int8 products read: one pass over the weights.
    void measure_rows(Compute& compute);

    // The JSON object of cpuft_describe, less what belongs to the machine.
    std::string describe() const;
};

}  // namespace cpuft
