// Activations: what a layer's backward pass reads, and how it is kept from the forward pass until then.
#pragma once

#include <array>

#include "buffer.h"
#include "model.h"
#include "stored_rows.h"

namespace cpuft {

// N tokens go on behind attention: all T, but in the last layer only those that predict a target.
struct Activations {
    StoredRows x;         // [T, C] the residual stream before the layer
    StoredRows q, k, v;   // [T, H, D], [T, K, D] twice; q and k after rope, or before their norms where they have them
    Buffer<float> lse;    // [T, H]
    StoredRows o;         // [N, H, D]
    StoredRows attn_out;  // [N, C] what attention gives, before its post norm where it has one
    StoredRows mid;       // [N, C] the residual stream behind attention
    StoredRows gate, up;  // [N, F]
    StoredRows mlp_out;   // [N, C] what the MLP gives, before its post norm where it has one
    std::array<Buffer<float>, kLinearCount> lora_u;  // [T or N, R] s A x of each adapted linear layer
};

// How activations are stored: the MLP's two, three quarters of all, and the others.
struct ActivationStorage {
    Storage mlp, other;
};

// int8 rounds the MLP's product to bytes on its way into ffn_down anyway, and takes its gradient from as good a rounding.
inline ActivationStorage activation_storage(Precision precision) {
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
