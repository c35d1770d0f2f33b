#include "linear_lora.h"

#include <algorithm>

namespace cpuft {

namespace {

// out = dropout(x), row by row; values are scaled by 1 / (1 - p) so that expectations stay.
void apply_dropout(Compute& compute, const Dropout& dropout, const float* x, int64_t T, int64_t n, float* out) {
    const auto threshold = static_cast<uint32_t>(static_cast<double>(dropout.probability) * 4294967296.0);
    const float factor = 1.0f / (1.0f - dropout.probability);
    compute.for_rows(T, [&](int64_t t, int) {
        const uint64_t key = (dropout.row_keys[t] ^ dropout.salt) * 0x9E3779B97F4A7C15u;
        compute.kernels.rows.dropout(x + t * n, key, threshold, factor, out + t * n, n);
    });
}

// dst (n_out, R) += src (R, n_out) transposed
void add_transposed(Compute& compute, const float* src, int64_t R, int64_t n_out, float* dst) {
    compute.for_rows(n_out, [&](int64_t o, int) {
        for (int64_t r = 0; r < R; ++r) dst[o * R + r] += src[r * n_out + o];
    });
}

void scale_rows(Compute& compute, float factor, int64_t T, int64_t n, float* x) {
    compute.for_rows(T, [&](int64_t t, int) { compute.kernels.rows.scale(factor, x + t * n, n); });
}

// y = W x + b, or y += W x + b
void linear_forward(Compute& compute, const LinearWeights& weights, const LinearInput& input, bool accumulate,
                    float* y) {
    const float* bias = weights.bias.empty() ? nullptr : weights.bias.data();
    const int64_t n_out = weights.weight.rows;
    if (accumulate && bias != nullptr) {
        compute.for_rows(input.T(),
                         [&](int64_t t, int) { compute.kernels.rows.axpy(1.0f, bias, y + t * n_out, n_out); });
        bias = nullptr;
    }
    multiply_transposed(compute, input.for_weights(), weights.weight, bias, accumulate, y);
}

}  // namespace

void LinearInput::set(Compute& compute, const float* x, int64_t T, int64_t n_in) {
    x_ = x;
    for_weights_.pack_rows(compute, compute.weight_gemm, x, T, n_in);
    has_for_adapter_ = false;
}

const PackedRows& LinearInput::for_adapter(Compute& compute) {
    if (&compute.gemm == &compute.weight_gemm) return for_weights_;
    if (!has_for_adapter_) for_adapter_.pack_rows(compute, compute.gemm, x_, T(), n_in());
    has_for_adapter_ = true;
    return for_adapter_;
}

void linear_lora_forward(Compute& compute, const LinearWeights& weights, const Lora* lora, const Dropout& dropout,
                         LinearInput& input, LinearWorkspace& workspace, bool accumulate, float* u, float* y) {
    const int64_t T = input.T(), n_in = input.n_in(), n_out = weights.weight.rows;
    if (y != nullptr) linear_forward(compute, weights, input, accumulate, y);
    if (lora == nullptr) return;
    const PackedRows* x = nullptr;
    if (dropout.active()) {
        float* dropped = workspace.dropped.reserve(T * n_in);
        apply_dropout(compute, dropout, input.x(), T, n_in, dropped);
        workspace.packed_input.pack_rows(compute, compute.gemm, dropped, T, n_in);
        x = &workspace.packed_input;
    } else {
        x = &input.for_adapter(compute);
    }
    multiply_transposed(compute, *x, float_matrix(lora->a, lora->rank, n_in), nullptr, false, u);
    scale_rows(compute, lora->scale, T, lora->rank, u);  // u = s A x from here on
    if (y == nullptr) return;
    workspace.packed_narrow.pack_rows(compute, compute.gemm, u, T, lora->rank);
    multiply_transposed(compute, workspace.packed_narrow, float_matrix(lora->b, n_out, lora->rank), nullptr, true, y);
}

// With u = s A x:  du = s B^T dy,  dB += dy u^T,  dA += du x^T,  dx += W^T dy + A^T du  (x after dropout)
void linear_lora_backward(Compute& compute, const LinearWeights& weights, const Lora* lora, const Dropout& dropout,
                          const float* x, int64_t T, const float* u, const float* dy, LinearWorkspace& workspace,
                          bool accumulate, float* dx) {
    const int64_t n_in = weights.weight.cols, n_out = weights.weight.rows;
    const bool same_kernel = &compute.gemm == &compute.weight_gemm;
    if (lora != nullptr || same_kernel) workspace.packed_dy.pack_rows(compute, compute.gemm, dy, T, n_out);
    if (dx != nullptr) {
        PackedRows& packed = same_kernel ? workspace.packed_dy : workspace.weight_dy;
        if (!same_kernel) packed.pack_rows(compute, compute.weight_gemm, dy, T, n_out, weights.weight.row_scale);
        multiply(compute, packed, weights.weight, accumulate, dx);
    }
    if (lora == nullptr) return;

    const int64_t R = lora->rank;
    float* du = workspace.du.reserve(T * R);
    multiply(compute, workspace.packed_dy, float_matrix(lora->b, n_out, R), false, du);
    scale_rows(compute, lora->scale, T, R, du);

    float* db = workspace.db.reserve(R * n_out);
    workspace.packed_narrow.pack(compute, compute.gemm, u, 1, R, R, T);  // u^T
    multiply(compute, workspace.packed_narrow, float_matrix(dy, T, n_out), false, db);
    add_transposed(compute, db, R, n_out, lora->db);

    const float* input = x;
    if (dropout.active()) {
        float* dropped = workspace.dropped.reserve(T * n_in);
        apply_dropout(compute, dropout, x, T, n_in, dropped);
        input = dropped;
    }
    workspace.packed_narrow.pack(compute, compute.gemm, du, 1, R, R, T);  // du^T
    multiply(compute, workspace.packed_narrow, float_matrix(input, T, n_in), true, lora->da);

    if (dx == nullptr) return;
    workspace.packed_narrow.pack_rows(compute, compute.gemm, du, T, R);
    const Matrix a = float_matrix(lora->a, R, n_in);
    if (dropout.active()) {
        float* dropped = workspace.dropped.data();
        multiply(compute, workspace.packed_narrow, a, false, dropped);
        apply_dropout(compute, dropout, dropped, T, n_in, dropped);
        compute.for_rows(
            T, [&](int64_t t, int) { compute.kernels.rows.axpy(1.0f, dropped + t * n_in, dx + t * n_in, n_in); });
    } else {
        multiply(compute, workspace.packed_narrow, a, true, dx);
    }
}

}  // namespace cpuft
