// The gate of a gated MLP (Shazeer 2020, arXiv:2002.05202): m = silu(gate) * up with silu(z) = z sigmoid(z) (SwiGLU), or
// m = gelu(gate) * up with the tanh form of GELU (GEGLU).
// The three linear layers around it are linear_lora's.
#pragma once

#include "../architecture.h"
#include "../compute.h"
#include "../stored_rows.h"

namespace cpuft {

// gate, up, m: [T, F]; m may be the same array as one of them, or null. gate and up are rounded in place as `storage` has
// it, then kept in kept_gate and kept_up, which have room for them, unless these are null: in the same pass over memory.
void gated_mlp_forward(Compute& compute, Gate kind, Storage storage, float* gate, float* up, int64_t T, int64_t F,
                       StoredRows* kept_gate, StoredRows* kept_up, float* m);
// dgate, dup from dm, and m again unless it is null; dm may be the same array as one of them.
void gated_mlp_backward(Compute& compute, Gate kind, const StoredRows& gate, const StoredRows& up, const float* dm,
                        float* dgate, float* dup, float* m);

}  // namespace cpuft
