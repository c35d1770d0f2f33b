#include "activations.h"

#include <numeric>

namespace cpuft {

namespace {

// Values of each wide array for one token.
std::array<int64_t, Activations::kWideCount> widths(const Dimensions& d) {
    return {d.H * d.D, d.K * d.D, d.K * d.D, d.H * d.D, d.C, d.F, d.F};
}

}  // namespace

void reserve_wide(const Dimensions& dims, int64_t T, Activations& activations) {
    for (size_t i = 0; i < Activations::kWideCount; ++i) activations.wide[i].reserve(T * widths(dims)[i]);
}

void narrow_activations(Compute& compute, const Dimensions& dims, int64_t T, Activations& activations) {
    const auto width = widths(dims);
    uint16_t* target = activations.narrow.reserve(T * std::accumulate(width.begin(), width.end(), int64_t{0}));
    for (size_t i = 0; i < Activations::kWideCount; target += T * width[i++]) {
        const float* wide = activations.wide[i].data();
        compute.for_rows(T, [&](int64_t t, int) {
            compute.kernels.rows.narrow(wide + t * width[i], target + t * width[i], width[i]);
        });
    }
}

void widen_activations(Compute& compute, const Dimensions& dims, int64_t T, Activations& activations) {
    const auto width = widths(dims);
    const uint16_t* source = activations.narrow.data();
    for (size_t i = 0; i < Activations::kWideCount; source += T * width[i++]) {
        float* wide = activations.wide[i].data();
        compute.for_rows(T, [&](int64_t t, int) {
            compute.kernels.rows.widen(source + t * width[i], wide + t * width[i], width[i]);
        });
    }
}

}  // namespace cpuft
