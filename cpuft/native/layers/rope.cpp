#include "rope.h"

#include <cmath>

namespace cpuft {

namespace {

// direction: 1 turns forward, -1 back.
void rotate(Compute& compute, const RopeTable& table, const int32_t* positions, float direction, int64_t T,
            int64_t n_heads, int64_t D, float* x) {
    const Stopwatch::Lap lap(compute.stopwatch, Part::kRope);
    const int64_t n_pairs = table.facts().n_rotated / 2;
    const bool adjacent = table.facts().pairs == RopePairs::kAdjacent;
    const int64_t step = adjacent ? 2 : 1, partner = adjacent ? 1 : n_pairs;
    compute.for_rows(T, [&](int64_t t, int) {
        const float *cosines = table.cosines(positions[t]), *sines = table.sines(positions[t]);
        for (int64_t h = 0; h < n_heads; ++h) {
            float* x_th = x + (t * n_heads + h) * D;
            for (int64_t i = 0; i < n_pairs; ++i) {
                float &first = x_th[i * step], &second = x_th[i * step + partner];
                const float c = cosines[i], s = direction * sines[i], a = first, b = second;
                first = a * c - b * s;
                second = a * s + b * c;
            }
        }
    });
}

}  // namespace

void RopeTable::grow(int64_t n_rows) {
    const int64_t n_pairs = facts_.n_rotated / 2;
    const auto magnitude = static_cast<double>(facts_.magnitude);
    for (int64_t row = static_cast<int64_t>(cosines_.size()) / n_pairs; row < n_rows; ++row) {
        const bool is_long = row >= facts_.n_short;
        const int64_t position = is_long ? row - facts_.n_short : row;
        const std::vector<float>& factors = is_long ? facts_.long_factors : facts_.factors;
        for (int64_t i = 0; i < n_pairs; ++i) {
            const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(facts_.n_rotated);
            double angle = static_cast<double>(position) * static_cast<double>(facts_.position_scale) *
                           std::pow(static_cast<double>(facts_.base), exponent);
            if (!factors.empty()) angle /= static_cast<double>(factors[static_cast<size_t>(i)]);
            cosines_.push_back(static_cast<float>(magnitude * std::cos(angle)));
            sines_.push_back(static_cast<float>(magnitude * std::sin(angle)));
        }
    }
}

void rope_forward(Compute& compute, const RopeTable& table, const int32_t* positions, int64_t T, int64_t n_heads,
                  int64_t D, float* x) {
    rotate(compute, table, positions, 1.0f, T, n_heads, D, x);
}

void rope_backward(Compute& compute, const RopeTable& table, const int32_t* positions, int64_t T, int64_t n_heads,
                   int64_t D, float* dx) {
    rotate(compute, table, positions, -1.0f, T, n_heads, D, dx);
}

}  // namespace cpuft
