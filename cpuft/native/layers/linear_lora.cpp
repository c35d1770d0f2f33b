#include "linear_lora.h"
#include "../ablation.h"

#include <algorithm>

namespace cpuft {

namespace {

// out = dropout(x), row by row; values are scaled by 1 / (1 - p) so that expectations stay.
void apply_dropout(Compute& compute, const Dropout& dropout, const float* x, int64_t T, int64_t n, float* out) {
    const Stopwatch::Lap lap(compute.stopwatch, Part::kAdapterElementwise);
    const auto threshold = static_cast<uint32_t>(static_cast<double>(dropout.probability) * 4294967296.0);
    const float factor = 1.0f / (1.0f - dropout.probability);
    compute.for_rows(T, [&](int64_t t, int) {
        const uint64_t key = (dropout.row_keys[t] ^ dropout.salt) * 0x9E3779B97F4A7C15u;
        compute.kernels.rows.dropout(x + t * n, key, threshold, factor, out + t * n, n);
    });
}

// dst (n_out, R) += src (R, n_out) transposed
void add_transposed(Compute& compute, const float* src, int64_t R, int64_t n_out, float* dst) {
    const Stopwatch::Lap lap(compute.stopwatch, Part::kAdapterElementwise);
    compute.for_rows(n_out, [&](int64_t o, int) {
        for (int64_t r = 0; r < R; ++r) dst[o * R + r] += src[r * n_out + o];
    });
}

void scale_rows(Compute& compute, float factor, int64_t T, int64_t n, float* x) {
    const Stopwatch::Lap lap(compute.stopwatch, Part::kAdapterElementwise);
    compute.for_rows(T, [&](int64_t t, int) { compute.kernels.rows.scale(factor, x + t * n, n); });
}

// c (T, R) = factor * (x W^T or x W), W one of the adapter's matrices. packed is x for products with base weights; where
// the adapter's products have the same kernel it serves them, too.
void narrow_product(Compute& compute, float factor, const float* x, const PackedRows& packed, const Matrix& w,
                    bool transposed, float* c) {
    const int64_t T = packed.m(), R = transposed ? w.rows : w.cols;
    if (&packed.kernel() != &compute.gemm || knob("fwd") == 32 || knob("bwd") == 32) {
        multiply_narrow(compute, compute.gemm, x, T, packed.k(), w, transposed, c);
    } else if (transposed) {
        multiply_transposed(compute, {{packed, w}}, nullptr, false, c);
    } else {
        multiply(compute, {{packed, w}}, false, c);
    }
    scale_rows(compute, factor, T, R, c);
}

}  // namespace

void LinearInput::set(Compute& compute, const float* values, int64_t T, int64_t n_in) {
    const Stopwatch::Lap lap(compute.stopwatch, Part::kBaseProducts);
    x = values;
    if (knob("fwd") == 32) {
        const int64_t block = static_cast<int64_t>(knob("ax"));
        if (block == 0) return packed.pack_rows(compute, compute.exact_gemm, values, T, n_in);
        static Buffer<float> copy;
        float* y = copy.reserve(T * n_in);
        compute.for_rows(T, [&](int64_t t, int) {
            std::copy_n(values + t * n_in, n_in, y + t * n_in);
            if (t == 0 && knob("first")) return;
            float* row = y + t * n_in;
            fake_sparse(row, n_in, block, static_cast<int>(knob("ox")), knob("lx", 127));
        });
        return packed.pack_rows(compute, compute.exact_gemm, y, T, n_in);
    }
    packed.pack_rows(compute, compute.weight_gemm, values, T, n_in);
}

void linear_lora_forward(Compute& compute, const LinearWeights& weights, const Lora* lora, const Dropout& dropout,
                         const LinearInput& input, LinearWorkspace& workspace, bool accumulate, float* u, float* y) {
    Stopwatch::Lap lap(compute.stopwatch, Part::kBaseProducts);
    const int64_t T = input.packed.m(), n_in = input.packed.k(), n_out = weights.weight.rows;
    const float* bias = weights.bias.empty() ? nullptr : weights.bias.data();
    if (lora == nullptr) {
        if (y != nullptr) multiply_transposed(compute, {{input.packed, weights.weight}}, bias, accumulate, y);
        return;
    }
    lap.next(Part::kAdapterProducts);
    const Matrix a = float_matrix(lora->a, lora->rank, n_in), b = float_matrix(lora->b, n_out, lora->rank);
    if (dropout.active()) {
        float* dropped = workspace.dropped.reserve(T * n_in);
        apply_dropout(compute, dropout, input.x, T, n_in, dropped);
        multiply_narrow(compute, compute.gemm, dropped, T, n_in, a, true, u);
        scale_rows(compute, lora->scale, T, lora->rank, u);
    } else {
        narrow_product(compute, lora->scale, input.x, input.packed, a, true, u);
    }
    if (y == nullptr) return;
    workspace.packed_u.pack_rows(compute, compute.gemm, u, T, lora->rank);
    lap.next(Part::kBaseProducts);
    multiply_transposed(compute, {{input.packed, weights.weight}, {workspace.packed_u, b}}, bias, accumulate, y);
}

// With u = s A x:  du = s B^T dy,  dB += dy u^T,  dA += du x^T,  dx += W^T dy + A^T du  (x after dropout)
void linear_lora_backward_input(Compute& compute, const LinearWeights& weights, const Lora* lora,
                                const Dropout& dropout, int64_t T, const float* u, const float* dy,
                                LinearWorkspace& workspace, bool accumulate, float* dx) {
    Stopwatch::Lap lap(compute.stopwatch, Part::kBaseProducts);
    const int64_t n_in = weights.weight.cols, n_out = weights.weight.rows;
    const PackedRows& packed_dy = workspace.packed_dy;
    if (knob("bwd") == 32) {
        const int64_t block = static_cast<int64_t>(knob("ay"));
        const float* from = dy;
        if (block != 0) {
            static Buffer<float> copy;
            float* y = copy.reserve(T * n_out);
            const float* rs = weights.weight.row_scale;
            const bool fold = rs != nullptr && !knob("nofold");
            compute.for_rows(T, [&](int64_t t, int) {
                if (t == 0 && knob("first")) { std::copy_n(dy, n_out, y); return; }
                for (int64_t j = 0; j < n_out; ++j) y[t * n_out + j] = dy[t * n_out + j] * (fold ? rs[j] : 1.0f);
                fake_sparse(y + t * n_out, n_out, block, static_cast<int>(knob("oy")), knob("ly", 127));
                for (int64_t j = 0; j < n_out; ++j)
                    if (fold) y[t * n_out + j] = rs[j] > 0 ? y[t * n_out + j] / rs[j] : 0.0f;
            });
            from = y;
        }
        workspace.packed_dy.pack_rows(compute, compute.exact_gemm, from, T, n_out);
    } else
    workspace.packed_dy.pack_rows(compute, compute.weight_gemm, dy, T, n_out, weights.weight.row_scale);
    if (lora == nullptr) {
        if (dx != nullptr) multiply(compute, {{packed_dy, weights.weight}}, accumulate, dx);
        return;
    }
    lap.next(Part::kAdapterProducts);
    const int64_t R = lora->rank;
    const Matrix a = float_matrix(lora->a, R, n_in), b = float_matrix(lora->b, n_out, R);
    float* du = workspace.du.reserve(T * R);
    narrow_product(compute, lora->scale, dy, packed_dy, b, false, du);

    PackedRows& columns = workspace.packed_columns;
    float* db = workspace.db.reserve(R * n_out);
    columns.pack(compute, compute.gemm, u, 1, R, R, T);  // u^T
    multiply(compute, {{columns, float_matrix(dy, T, n_out)}}, false, db);
    add_transposed(compute, db, R, n_out, lora->db);

    if (dx == nullptr) return;
    workspace.packed_u.pack_rows(compute, compute.gemm, du, T, R);
    lap.next(Part::kBaseProducts);
    if (!dropout.active()) {
        multiply(compute, {{packed_dy, weights.weight}, {workspace.packed_u, a}}, accumulate, dx);
        return;
    }
    multiply(compute, {{packed_dy, weights.weight}}, accumulate, dx);
    lap.next(Part::kAdapterProducts);
    float* dropped = workspace.dropped.reserve(T * n_in);
    multiply(compute, {{workspace.packed_u, a}}, false, dropped);
    apply_dropout(compute, dropout, dropped, T, n_in, dropped);
    lap.next(Part::kAdapterElementwise);
    compute.for_rows(T,
                     [&](int64_t t, int) { compute.kernels.rows.axpy(1.0f, dropped + t * n_in, dx + t * n_in, n_in); });
}

void linear_lora_backward_a(Compute& compute, const Lora& lora, const Dropout& dropout, const float* x, int64_t T,
                            int64_t n_in, LinearWorkspace& workspace) {
    const Stopwatch::Lap lap(compute.stopwatch, Part::kAdapterProducts);
    const float* input = x;
    if (dropout.active()) {
        float* dropped = workspace.dropped.reserve(T * n_in);
        apply_dropout(compute, dropout, x, T, n_in, dropped);
        input = dropped;
    }
    const float* du = workspace.du.data();
    workspace.packed_columns.pack(compute, compute.gemm, du, 1, lora.rank, lora.rank, T);  // du^T
    multiply(compute, {{workspace.packed_columns, float_matrix(input, T, n_in)}}, true, lora.da);
}

void linear_lora_backward(Compute& compute, const LinearWeights& weights, const Lora* lora, const Dropout& dropout,
                          const float* x, int64_t T, const float* u, const float* dy, LinearWorkspace& workspace,
                          bool accumulate, float* dx) {
    linear_lora_backward_input(compute, weights, lora, dropout, T, u, dy, workspace, accumulate, dx);
    if (lora != nullptr) linear_lora_backward_a(compute, *lora, dropout, x, T, weights.weight.cols, workspace);
}

}  // namespace cpuft
