#include "gated_mlp.h"

namespace cpuft {

void gated_mlp_forward(Compute& compute, const float* gate, const float* up, int64_t T, int64_t F, float* m) {
    const Stopwatch::Lap lap(compute.stopwatch, Part::kGatedMlp);
    compute.for_rows(
        T, [&](int64_t t, int) { compute.kernels.rows.silu_multiply(gate + t * F, up + t * F, m + t * F, F); });
}

void gated_mlp_backward(Compute& compute, const float* gate, const float* up, const float* dm, int64_t T, int64_t F,
                        float* dgate, float* dup) {
    const Stopwatch::Lap lap(compute.stopwatch, Part::kGatedMlp);
    compute.for_rows(T, [&](int64_t t, int) {
        compute.kernels.rows.silu_multiply_backward(gate + t * F, up + t * F, dm + t * F, dgate + t * F, dup + t * F,
                                                    F);
    });
}

}  // namespace cpuft
