#include "gated_mlp.h"

namespace cpuft {

namespace {

// Calls row(t, gate_t, up_t) with the rows of both arrays in float32.
template <class Row>
void for_stored_rows(Compute& compute, const StoredRows& gate, const StoredRows& up, Row row) {
    const RowKernels& rows = compute.kernels.rows;
    const int64_t F = gate.n();
    compute.for_rows(gate.T(), [&](int64_t t, int thread) {
        float* values = compute.scratch[static_cast<size_t>(thread)].values.reserve(2 * F);
        row(t, gate.row(rows, t, values), up.row(rows, t, values + F));
    });
}

}  // namespace

void gated_mlp_forward(Compute& compute, const float* gate, const float* up, int64_t T, int64_t F,
                       StoredRows* kept_gate, StoredRows* kept_up, float* m) {
    const Stopwatch::Lap lap(compute.stopwatch, Part::kGatedMlp);
    const RowKernels& rows = compute.kernels.rows;
    compute.for_rows(T, [&](int64_t t, int) {
        if (kept_gate != nullptr) kept_gate->set_row(rows, t, gate + t * F);
        if (kept_up != nullptr) kept_up->set_row(rows, t, up + t * F);
        if (m != nullptr) rows.silu_multiply(gate + t * F, up + t * F, m + t * F, F);
    });
}

void gated_mlp_forward(Compute& compute, const StoredRows& gate, const StoredRows& up, float* m) {
    const Stopwatch::Lap lap(compute.stopwatch, Part::kGatedMlp);
    const int64_t F = gate.n();
    for_stored_rows(compute, gate, up, [&](int64_t t, const float* gate_t, const float* up_t) {
        compute.kernels.rows.silu_multiply(gate_t, up_t, m + t * F, F);
    });
}

void gated_mlp_backward(Compute& compute, const StoredRows& gate, const StoredRows& up, const float* dm, float* dgate,
                        float* dup) {
    const Stopwatch::Lap lap(compute.stopwatch, Part::kGatedMlp);
    const int64_t F = gate.n();
    for_stored_rows(compute, gate, up, [&](int64_t t, const float* gate_t, const float* up_t) {
        compute.kernels.rows.silu_multiply_backward(gate_t, up_t, dm + t * F, dgate + t * F, dup + t * F, F);
    });
}

}  // namespace cpuft
