// Activations: what a layer's backward pass reads, and how it is kept from the forward pass until then: as the forward pass
// used it, bit by bit. It may be rounded before, but not queries, keys and what attention gives: the backward pass makes
// probabilities again as exp(q . k - lse), and takes sum_j p_ij dp_ij to be o_i . do_i. Where keys have a common part of
// some hundreds, as Qwen2.5's biases give them, either being off by a rounding adds that part to the gradient many times.
#pragma once

#include <array>

#include "ablation.h"
#include "buffer.h"
#include "model.h"
#include "stored_rows.h"

namespace cpuft {

// N tokens go on behind attention: all T, but in the last layer only those that predict a target.
struct Activations {
    StoredRows x;         // [T, C] the residual stream before the layer, as its norm sees it
    StoredRows q, k;      // [T, H, D], [T, K, D], exact: after rope, or before their norms where they have them
    StoredRows v;         // [T, K, D]
    Buffer<float> lse;    // [T, H]
    StoredRows o;         // [N, H, D], exact
    StoredRows attn_out;  // [N, C] what attention's output layer gives, where a post norm follows
    StoredRows mid;       // [N, C] the residual stream behind attention, as the MLP's norm sees it
    StoredRows gate, up;  // [N, F]
    StoredRows mlp_out;   // [N, C] what the MLP gives, where a post norm follows
    std::array<Buffer<float>, kLinearCount> lora_u;  // [T or N, R] s A x of each adapted linear layer
};

// How activations are stored that may be rounded: the MLP's two, most of all, and the others.
struct ActivationStorage {
    Storage mlp, other;
};

// int8 rounds the MLP's product to bytes on its way into ffn_down anyway, and takes its gradient from as good a rounding.
inline ActivationStorage activation_storage(Precision precision) {
    if (knob("mlp") == 32) return {Storage::kF32, knob("other") == 32 ? Storage::kF32 : Storage::kBf16};
    if (knob("mlp") == 16) return {Storage::kBf16, knob("other") == 32 ? Storage::kF32 : Storage::kBf16};
    switch (precision) {
        case Precision::kF32:
            return {Storage::kF32, Storage::kF32};
        case Precision::kBf16:
            return {Storage::kBf16, Storage::kBf16};
        case Precision::kInt8:
            return {Storage::kBytes, Storage::kBf16};
    }
    return {};
}

}  // namespace cpuft
