// The loops over rows of RowKernels (kernels.h), written once over the vector types of simd.h. Internal linkage, as there.
#pragma once

#include "byte_rows.h"
#include "dropout_hash.h"
#include "simd.h"

namespace cpuft {
namespace {

template <int kBytes>
struct Rows {
    using S = Simd<kBytes>;
    using Float = typename S::Float;
    static constexpr int kWidth = S::kWidth;

    // Four sums hide the latency of a fused multiply-add.
    static float dot(const float* x, const float* y, int64_t n) {
        Float sums[4] = {};
        int64_t i = 0;
        for (; i + 4 * kWidth <= n; i += 4 * kWidth) {
            for (int s = 0; s < 4; ++s) sums[s] += S::load(x + i + s * kWidth) * S::load(y + i + s * kWidth);
        }
        for (; i < n; i += kWidth) {
            const int64_t left = n - i;
            sums[0] += S::load_some(x + i, left, 0.0f) * S::load_some(y + i, left, 0.0f);
        }
        return sum_of<kBytes>((sums[0] + sums[1]) + (sums[2] + sums[3]));
    }

    static float maximum(const float* x, int64_t n) {
        Float largest = S::set(-__builtin_inff());
        int64_t i = 0;
        for (; i + kWidth <= n; i += kWidth) largest = S::larger(largest, S::load(x + i));
        float result = largest_of<kBytes>(largest);
        for (; i < n; ++i) result = x[i] > result ? x[i] : result;
        return result;
    }

    // The bits of magnitudes are ordered as the magnitudes are, with infinity and NaN above all others.
    static float largest_magnitude(const float* x, int64_t n) {
        constexpr uint32_t kMagnitude = 0x7FFFFFFFu;
        typename S::Uint largest = {};
        int64_t i = 0;
        for (; i + kWidth <= n; i += kWidth) {
            typename S::Uint bits;
            std::memcpy(&bits, x + i, sizeof bits);
            bits &= kMagnitude;
            largest = bits > largest ? bits : largest;
        }
        uint32_t result = 0;
        for (int lane = 0; lane < kWidth; ++lane) result = largest[lane] > result ? largest[lane] : result;
        for (; i < n; ++i) {
            uint32_t bits;
            std::memcpy(&bits, x + i, sizeof bits);
            bits &= kMagnitude;
            result = bits > result ? bits : result;
        }
        float value;
        std::memcpy(&value, &result, sizeof value);
        return value;
    }

    static void larger_of(float factor, const float* x, float* maxima, int64_t n) {
        for (int64_t i = 0; i < n; ++i) maxima[i] = factor * x[i] > maxima[i] ? factor * x[i] : maxima[i];
    }

    static void exp_add(float factor, const float* shifts, float* x, float* sums, int64_t n) {
        for (int64_t i = 0; i < n; i += kWidth) {
            const int64_t left = n - i;
            if (left >= kWidth) {
                const Float e = S::exp(S::load(x + i) * factor - S::load(shifts + i));
                S::store(x + i, e);
                S::store(sums + i, S::load(sums + i) + e);
            } else {
                // Loaded before anything is computed, so that product and difference become one operation as above: a
                // row's bytes must not depend on how many rows there are.
                const Float values = S::load_some(x + i, left, 0.0f), shift = S::load_some(shifts + i, left, 0.0f);
                const Float e = S::exp(values * factor - shift);
                S::store_some(x + i, e, left);
                S::store_some(sums + i, S::load_some(sums + i, left, 0.0f) + e, left);
            }
        }
    }

    static float exp_sum(float* x, float factor, float shift, int64_t n) {
        Float sum = {};
        int64_t i = 0;
        for (; i + kWidth <= n; i += kWidth) {
            const Float e = S::exp(S::load(x + i) * factor - shift);
            S::store(x + i, e);
            sum += e;
        }
        if (i < n) {
            const Float e = S::exp(S::load_some(x + i, n - i, 0.0f) * factor - shift);
            S::store_some(x + i, e, n - i);
            sum += S::load_some(x + i, n - i, 0.0f);
        }
        return sum_of<kBytes>(sum);
    }

    static void soft_cap(float factor, float cap, float* x, float* slope, int64_t n) {
        const float inner = factor / cap;
        for (int64_t i = 0; i < n; i += kWidth) {
            const int64_t left = n - i;
            const bool whole = left >= kWidth;
            const Float t = S::tanh((whole ? S::load(x + i) : S::load_some(x + i, left, 0.0f)) * inner);
            if (whole) {
                S::store(x + i, t * cap);
                if (slope != nullptr) S::store(slope + i, 1.0f - t * t);
            } else {
                S::store_some(x + i, t * cap, left);
                if (slope != nullptr) S::store_some(slope + i, 1.0f - t * t, left);
            }
        }
    }

    static void softmax_backward(const float* p, float delta, float factor, float* dp, int64_t n) {
        for (int64_t i = 0; i < n; ++i) dp[i] = factor * p[i] * (dp[i] - delta);
    }

    static void axpy(float factor, const float* x, float* y, int64_t n) {
        for (int64_t i = 0; i < n; ++i) y[i] += factor * x[i];
    }

    static void scale(float factor, float* x, int64_t n) {
        for (int64_t i = 0; i < n; ++i) x[i] *= factor;
    }

    static void multiply(float factor, const float* x, const float* weight, float* y, int64_t n) {
        for (int64_t i = 0; i < n; ++i) y[i] = factor * x[i] * weight[i];
    }

    // The gates of a gated MLP are z s with s = sigmoid(argument(z)); slope is the argument's derivative.
    struct Silu {
        static Float argument(Float z) { return z; }
        static Float slope(Float) { return S::set(1.0f); }
    };
    // gelu(z) = z (1 + tanh(g)) / 2, g = sqrt(2 / pi) (z + 0.044715 z^3): the same as with sigmoid(2 g), which is exact to the
    // last digits far below 0, where the first form cancels.
    struct Gelu {
        static constexpr float kFactor = 1.5957691216f, kCubic = 0.044715f;  // 2 sqrt(2 / pi)
        static Float argument(Float z) { return kFactor * (z + kCubic * z * z * z); }
        static Float slope(Float z) { return kFactor * (1.0f + 3.0f * kCubic * z * z); }
    };

    template <class Gate>
    static void gate_multiply(const float* gate, const float* up, float* out, int64_t n) {
        for (int64_t i = 0; i < n; i += kWidth) {
            const int64_t left = n - i;
            const bool whole = left >= kWidth;
            const Float z = whole ? S::load(gate + i) : S::load_some(gate + i, left, 0.0f);
            const Float u = whole ? S::load(up + i) : S::load_some(up + i, left, 0.0f);
            const Float m = z * S::sigmoid(Gate::argument(z)) * u;
            if (whole) {
                S::store(out + i, m);
            } else {
                S::store_some(out + i, m, left);
            }
        }
    }

    // (z s)' = s + z s (1 - s) slope
    template <class Gate>
    static void gate_multiply_backward(const float* gate, const float* up, const float* dout, float* dgate, float* dup,
                                       float* out, int64_t n) {
        for (int64_t i = 0; i < n; i += kWidth) {
            const int64_t left = n - i;
            const bool whole = left >= kWidth;
            const Float z = whole ? S::load(gate + i) : S::load_some(gate + i, left, 0.0f);
            const Float u = whole ? S::load(up + i) : S::load_some(up + i, left, 0.0f);
            const Float d = whole ? S::load(dout + i) : S::load_some(dout + i, left, 0.0f);
            const Float s = S::sigmoid(Gate::argument(z));
            const Float dz = d * u * s * (1.0f + z * (1.0f - s) * Gate::slope(z));
            const Float du = d * z * s, product = z * s * u;
            if (whole) {
                S::store(dgate + i, dz);
                S::store(dup + i, du);
                if (out != nullptr) S::store(out + i, product);
            } else {
                S::store_some(dgate + i, dz, left);
                S::store_some(dup + i, du, left);
                if (out != nullptr) S::store_some(out + i, product, left);
            }
        }
    }

    static void dropout(const float* x, uint64_t key, uint32_t threshold, float factor, float* out, int64_t n) {
        const DropoutStream stream = dropout_stream(key);
        for (int64_t i = 0; i < n; ++i) {
            const float kept = dropout_hash(stream, static_cast<uint32_t>(i)) >= threshold ? factor : 0.0f;
            out[i] = x[i] * kept;
        }
    }

    static constexpr RowKernels table() {
        return {dot,
                maximum,
                largest_magnitude,
                larger_of,
                exp_add,
                exp_sum,
                soft_cap,
                softmax_backward,
                axpy,
                scale,
                multiply,
                gate_multiply<Silu>,
                gate_multiply_backward<Silu>,
                gate_multiply<Gelu>,
                gate_multiply_backward<Gelu>,
                narrow,
                widen,
                round_to_bf16,
                narrow_24,
                widen_24,
                round_to_24,
                to_bytes,
                from_bytes,
                round_to_bytes,
                dropout};
    }
};

}  // namespace
}  // namespace cpuft
