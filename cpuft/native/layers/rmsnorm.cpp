#include "rmsnorm.h"

#include <algorithm>
#include <cmath>

namespace cpuft {

namespace {

float inverse_rms(const RowKernels& rows, const float* x_t, float epsilon, int64_t C) {
    return 1.0f / std::sqrt(rows.dot(x_t, x_t, C) / static_cast<float>(C) + epsilon);
}

}  // namespace

void rmsnorm_forward(Compute& compute, const float* x, const float* weight, float epsilon, int64_t T, int64_t C,
                     float* y) {
    const Stopwatch::Lap lap(compute.stopwatch, Part::kRmsnorm);
    const RowKernels& rows = compute.kernels.rows;
    compute.for_rows(T, [&](int64_t t, int) {
        rows.multiply(inverse_rms(rows, x + t * C, epsilon, C), x + t * C, weight, y + t * C, C);
    });
}

void rmsnorm_add(Compute& compute, const float* x, const float* weight, float epsilon, int64_t T, int64_t C, float* y) {
    const Stopwatch::Lap lap(compute.stopwatch, Part::kRmsnorm);
    const RowKernels& rows = compute.kernels.rows;
    compute.for_rows(T, [&](int64_t t, int thread) {
        float* normed = compute.scratch[static_cast<size_t>(thread)].values.reserve(C);
        rows.multiply(inverse_rms(rows, x + t * C, epsilon, C), x + t * C, weight, normed, C);
        rows.axpy(1.0f, normed, y + t * C, C);
    });
}

// dx = r (w dy) - x r^3 / C sum(w dy x)
void rmsnorm_backward(Compute& compute, const float* x, const float* weight, float epsilon, const float* dy, int64_t T,
                      int64_t C, bool accumulate, float* dx) {
    const Stopwatch::Lap lap(compute.stopwatch, Part::kRmsnorm);
    const RowKernels& rows = compute.kernels.rows;
    compute.for_rows(T, [&](int64_t t, int thread) {
        const float* x_t = x + t * C;
        float* g = compute.scratch[static_cast<size_t>(thread)].values.reserve(C);  // w dy
        rows.multiply(1.0f, dy + t * C, weight, g, C);
        const float r = inverse_rms(rows, x_t, epsilon, C);
        const float projection = rows.dot(g, x_t, C) * r * r * r / static_cast<float>(C);
        if (!accumulate) std::fill_n(dx + t * C, C, 0.0f);
        rows.axpy(r, g, dx + t * C, C);
        rows.axpy(-projection, x_t, dx + t * C, C);
    });
}

}  // namespace cpuft
