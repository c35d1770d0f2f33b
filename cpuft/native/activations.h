// Activations: what a layer's backward pass reads, and how it is kept from the forward pass until then.
#pragma once

#include <array>
#include <cstdint>

#include "buffer.h"
#include "compute.h"
#include "cpuft.h"
#include "model.h"

namespace cpuft {

struct Activations {
    // The large arrays, in the order of `Wide`.
    enum Wide { kQ, kK, kV, kO, kMid, kGate, kUp, kWideCount };
    std::array<Buffer<float>, kWideCount> wide;  // q, o: [T, H, D]; k, v: [T, K, D], q and k after rope;
                                                 // mid: [T, C], the residual stream after attention; gate, up: [T, F]
    Buffer<float> lse;                           // [T, H]
    std::array<Buffer<float>, CPUFT_TARGET_COUNT> lora_u;  // [T, R] s A x of each adapted linear layer

    // The wide arrays as bfloat16, one after the other: half the memory between the passes.
    Buffer<uint16_t> narrow;

    float* q() { return wide[kQ].data(); }
    float* k() { return wide[kK].data(); }
    float* v() { return wide[kV].data(); }
    float* o() { return wide[kO].data(); }
    float* mid() { return wide[kMid].data(); }
    float* gate() { return wide[kGate].data(); }
    float* up() { return wide[kUp].data(); }
};

// Makes room for T tokens in the wide arrays.
void reserve_wide(const Dimensions& dims, int64_t T, Activations& activations);

// Copies the wide arrays of T tokens to bfloat16, or back.
void narrow_activations(Compute& compute, const Dimensions& dims, int64_t T, Activations& activations);
void widen_activations(Compute& compute, const Dimensions& dims, int64_t T, Activations& activations);

}  // namespace cpuft
