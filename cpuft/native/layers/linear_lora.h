// A frozen linear layer with an optional LoRA beside it (Hu et al. 2021, arXiv:2106.09685):
//   y = W x + b + s B u,   u = A dropout(x),   s = alpha / rank
// W is (n_out, n_in) in any ggml type and gets no gradient; A is (R, n_in), B is (n_out, R), float32.
#pragma once

#include "../gemm.h"
#include "../model.h"

namespace cpuft {

struct Lora {
    const float *a = nullptr, *b = nullptr;
    float *da = nullptr, *db = nullptr;
    int64_t rank = 0;
    float scale = 0.0f;
    uint64_t dropout_salt = 0;  // tells the A matrices of an adapter apart
};

// Dropout on the input of A. The mask of token t depends on row_keys[t] and salt, nothing else.
struct Dropout {
    const uint64_t* row_keys = nullptr;  // [T], or null for no dropout
    float probability = 0.0f;
    uint64_t salt = 0;  // the Lora's dropout_salt

    bool active() const { return row_keys != nullptr && probability > 0.0f; }
};

// A layer's input x: [T, n_in], packed once for the layers that share it (q, k, v; gate, up).
struct LinearInput {
    void set(Compute& compute, const float* values, int64_t T, int64_t n_in);

    const float* x = nullptr;
    PackedRows packed;  // for products with base weights
};

// Buffers that one linear layer at a time uses.
struct LinearWorkspace {
    Buffer<float> dropped;      // [T, n_in] dropout(x), or the gradient of it
    Buffer<float> du;           // [T, R]
    Buffer<float> db;           // [R, n_out] this pass's gradient of B, transposed
    PackedRows packed_dy;       // for the product with base weights
    PackedRows packed_u;        // u or du
    PackedRows packed_columns;  // the same, transposed
};

// y: [T, n_out] out, or null where only u is wanted; u: [T, R] out, s A dropout(x), kept for the backward pass. lora may be
// null. With accumulate, y += instead.
void linear_lora_forward(Compute& compute, const LinearWeights& weights, const Lora* lora, const Dropout& dropout,
                         const LinearInput& input, LinearWorkspace& workspace, bool accumulate, float* u, float* y);

// dy: [T, n_out]. Adds to lora's db, leaves du in the workspace for da. dx: [T, n_in] (+)=, or null where nobody needs it.
void linear_lora_backward_input(Compute& compute, const LinearWeights& weights, const Lora* lora,
                                const Dropout& dropout, int64_t T, const float* u, const float* dy,
                                LinearWorkspace& workspace, bool accumulate, float* dx);
// Adds to lora's da what dx did not need: x, [T, n_in]. No other layer may have used the workspace between.
void linear_lora_backward_a(Compute& compute, const Lora& lora, const Dropout& dropout, const float* x, int64_t T,
                            int64_t n_in, LinearWorkspace& workspace);
// Both.
void linear_lora_backward(Compute& compute, const LinearWeights& weights, const Lora* lora, const Dropout& dropout,
                          const float* x, int64_t T, const float* u, const float* dy, LinearWorkspace& workspace,
                          bool accumulate, float* dx);

}  // namespace cpuft
