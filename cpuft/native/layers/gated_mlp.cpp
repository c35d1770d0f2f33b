#include "gated_mlp.h"

namespace cpuft {

void gated_mlp_forward(Compute& compute, Gate kind, Storage storage, float* gate, float* up, int64_t T, int64_t F,
                       StoredRows* kept_gate, StoredRows* kept_up, float* m) {
    const Stopwatch::Lap lap(compute.stopwatch, Part::kGatedMlp);
    const RowKernels& rows = compute.kernels.rows;
    const auto multiply = kind == Gate::kGelu ? rows.gelu_multiply : rows.silu_multiply;
    compute.for_rows(T, [&](int64_t t, int) {
        float *gate_t = gate + t * F, *up_t = up + t * F;
        if (kept_gate != nullptr) kept_gate->set_row(rows, t, gate_t);
        if (kept_up != nullptr) kept_up->set_row(rows, t, up_t);
        if (m == nullptr) return;
        multiply(round_row(rows, storage, gate_t, F, gate_t), round_row(rows, storage, up_t, F, up_t), m + t * F, F);
    });
}

void gated_mlp_backward(Compute& compute, Gate kind, const StoredRows& gate, const StoredRows& up, const float* dm,
                        float* dgate, float* dup, float* m) {
    const Stopwatch::Lap lap(compute.stopwatch, Part::kGatedMlp);
    const RowKernels& rows = compute.kernels.rows;
    const int64_t F = gate.n();
    const auto backward = kind == Gate::kGelu ? rows.gelu_multiply_backward : rows.silu_multiply_backward;
    compute.for_rows(gate.T(), [&](int64_t t, int thread) {
        float* values = compute.scratch[static_cast<size_t>(thread)].values.reserve(2 * F);
        const float *gate_t = gate.row(rows, t, values), *up_t = up.row(rows, t, values + F);
        float* m_t = m == nullptr ? nullptr : m + t * F;
        backward(gate_t, up_t, dm + t * F, dgate + t * F, dup + t * F, m_t, F);
    });
}

}  // namespace cpuft
