// The fast kernels, written once over GCC/Clang vector types and compiled once for each instruction set: a file such as
// avx512.cpp includes this header under its own compiler flags and instantiates it with its register width and tile.
//
// Everything here has internal linkage on purpose: the same inline function compiled under two sets of flags and merged
// by the linker would crash the older CPU.
#pragma once

#include <cstdint>
#include <cstring>

#include "bf16.h"
#include "byte_rows.h"
#include "dropout_hash.h"
#include "kernels.h"

namespace cpuft {
namespace {

// A register of kWidth floats.
template <int kBytes>
struct Simd {
    typedef float Float __attribute__((vector_size(kBytes)));
    typedef uint32_t Uint __attribute__((vector_size(kBytes)));
    static constexpr int kWidth = kBytes / 4;

    static Float load(const float* p) {
        Float v;
        std::memcpy(&v, p, sizeof v);
        return v;
    }
    static void store(float* p, Float v) { std::memcpy(p, &v, sizeof v); }
    static Float set(float x) { return x - Float{}; }
    static Float load_some(const float* p, int64_t n, float fill) {
        float lanes[kWidth];
        for (int i = 0; i < kWidth; ++i) lanes[i] = i < n ? p[i] : fill;
        return load(lanes);
    }
    static void store_some(float* p, Float v, int64_t n) {
        float lanes[kWidth];
        store(lanes, v);
        for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
    }
    // Where a comparison fails, for NaN too, the second operand is taken.
    static Float larger(Float a, Float b) { return a > b ? a : b; }
    static Float smaller(Float a, Float b) { return a < b ? a : b; }

    // exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln 2 / 2; the Taylor polynomial of degree 7 leaves a relative error
    // below 2e-8 on that interval, less than float32's own rounding. Below -87 (smallest normal number) the result is 0.
    static Float exp(Float x) {
        const Float bounded = smaller(set(88.0f), larger(set(-87.0f), x));  // in this order NaN stays NaN
        // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits of the sum, ready to become an exponent.
        const Float magic = set(12582912.0f);
        const Float rounded = bounded * 1.44269504f + magic;
        const Float n = rounded - magic;
        const Float r = (bounded - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 = 0.693359375 - 2.12194440e-4
        Float p = set(1.0f / 5040.0f);
        p = p * r + 1.0f / 720.0f;
        p = p * r + 1.0f / 120.0f;
        p = p * r + 1.0f / 24.0f;
        p = p * r + 1.0f / 6.0f;
        p = p * r + 0.5f;
        p = p * r + 1.0f;
        p = p * r + 1.0f;
        Uint bits;
        std::memcpy(&bits, &rounded, sizeof bits);
        bits = (bits + 127u) << 23;
        Float scale;
        std::memcpy(&scale, &bits, sizeof scale);
        return x < -87.0f ? Float{} : p * scale;
    }
    static Float sigmoid(Float z) { return 1.0f / (1.0f + exp(-z)); }

    // tanh(|x|) = 1 - 2 / (exp(2 |x|) + 1) would cancel near 0: below 0.3, where the next term is less than 3e-9 of the sum,
    // its Taylor polynomial is taken.
    static Float tanh(Float x) {
        const Float square = x * x, magnitude = x < 0.0f ? -x : x;
        Float p = set(-1382.0f / 155925.0f);
        p = p * square + 62.0f / 2835.0f;
        p = p * square - 17.0f / 315.0f;
        p = p * square + 2.0f / 15.0f;
        p = p * square - 1.0f / 3.0f;
        p = p * square + 1.0f;
        const Float far = 1.0f - 2.0f / (exp(2.0f * magnitude) + 1.0f);
        return magnitude < 0.3f ? p * x : (x < 0.0f ? -far : far);
    }
};

// ---- Across the lanes of a register ------------------------------------------------------------------------------------

// Lane i of the result is lane i + by of v.
template <int kBytes>
[[gnu::always_inline]] inline typename Simd<kBytes>::Float rotated(typename Simd<kBytes>::Float v, int by) {
    typename Simd<kBytes>::Uint from;
    for (int lane = 0; lane < Simd<kBytes>::kWidth; ++lane)
        from[lane] = static_cast<uint32_t>((lane + by) % Simd<kBytes>::kWidth);
    return __builtin_shuffle(v, from);
}

template <int kBytes>
float sum_of(typename Simd<kBytes>::Float v) {
#pragma GCC unroll 4
    for (int by = Simd<kBytes>::kWidth / 2; by > 0; by /= 2) v += rotated<kBytes>(v, by);
    return v[0];
}

template <int kBytes>
float largest_of(typename Simd<kBytes>::Float v) {
#pragma GCC unroll 4
    for (int by = Simd<kBytes>::kWidth / 2; by > 0; by /= 2) v = Simd<kBytes>::larger(v, rotated<kBytes>(v, by));
    return v[0];
}

// ---- Transposing ------------------------------------------------------------------------------------------------------

// Transposes kWidth registers of kWidth 32-bit values. Stage s exchanges, between rows i and i + s, the values whose column
// has bit s unlike their row; after log2(kWidth) stages row and column have changed places.
template <int kBytes>
[[gnu::always_inline]] inline void transpose(typename Simd<kBytes>::Uint (&rows)[Simd<kBytes>::kWidth]) {
    using Uint = typename Simd<kBytes>::Uint;
    constexpr int kWidth = Simd<kBytes>::kWidth;
#pragma GCC unroll 4
    for (int s = 1; s < kWidth; s *= 2) {
        Uint upper, lower;  // where each value comes from: below kWidth from the first row, else from the second
        for (int j = 0; j < kWidth; ++j) {
            upper[j] = static_cast<uint32_t>((j & s) == 0 ? j : j - s + kWidth);
            lower[j] = static_cast<uint32_t>((j & s) == 0 ? j + s : j + kWidth);
        }
#pragma GCC unroll 16
        for (int i = 0; i < kWidth; ++i) {
            if ((i & s) != 0) continue;
            const Uint first = rows[i], second = rows[i + s];
            rows[i] = __builtin_shuffle(first, second, upper);
            rows[i + s] = __builtin_shuffle(first, second, lower);
        }
    }
}

// ---- Packing: the formats of kernels.h for float32 -----------------------------------------------------------------

// Stores squares transposed to `step` values a row; lanes past `step` are overwritten by the row that follows, but for
// the last row, which must not touch the panel behind it.
template <int kBytes>
void store_columns(const typename Simd<kBytes>::Uint (&square)[Simd<kBytes>::kWidth], int step, void* out) {
    constexpr int kWidth = Simd<kBytes>::kWidth;
    char* target = static_cast<char*>(out);
    for (int i = 0; i < kWidth - 1; ++i) std::memcpy(target + 4 * i * step, &square[i], kBytes);
    std::memcpy(target + 4 * (kWidth - 1) * step, &square[kWidth - 1], static_cast<size_t>(4 * step));
}

template <int kBytes, int kMr>
void pack_a_f32(const float* source, int64_t row_stride, int64_t column_stride, const float*, int m, int64_t k,
                void* panel) {
    using S = Simd<kBytes>;
    static_assert(kMr <= S::kWidth);
    float* out = static_cast<float*>(panel);
    if (m == kMr && row_stride == 1) {  // a transposed operand: its panels are runs of the source
        for (int64_t p = 0; p < k; ++p) std::memcpy(out + p * kMr, source + p * column_stride, kMr * sizeof(float));
        return;
    }
    int64_t done = 0;  // depth that whole squares have covered
    if (m == kMr && column_stride == 1) {
        for (; done + S::kWidth <= k; done += S::kWidth) {
            typename S::Uint square[S::kWidth] = {};
            for (int i = 0; i < kMr; ++i) std::memcpy(&square[i], source + i * row_stride + done, kBytes);
            transpose<kBytes>(square);
            store_columns<kBytes>(square, kMr, out + done * kMr);
        }
    }
    for (int64_t p = done; p < k; ++p) {
        for (int i = 0; i < kMr; ++i) out[p * kMr + i] = i < m ? source[i * row_stride + p * column_stride] : 0.0f;
    }
}

template <int kNr>
void pack_b_f32(const float* source, int64_t stride, const float*, int64_t k0, int64_t k, int n, void* block) {
    float* out = static_cast<float*>(block) + k0 * kNr;
    for (int64_t p = 0; p < k; ++p, out += kNr) {
        if (n == kNr) {
            std::memcpy(out, source + p * stride, kNr * sizeof(float));
        } else {
            for (int j = 0; j < kNr; ++j) out[j] = j < n ? source[p * stride + j] : 0.0f;
        }
    }
}

template <int kBytes, int kNr>
void pack_b_transposed_f32(const float* source, int64_t stride, int64_t k, int n, void* panel) {
    using S = Simd<kBytes>;
    float* out = static_cast<float*>(panel);
    int64_t done = 0;  // depth that whole squares have covered
    if (n == kNr) {
        for (; done + S::kWidth <= k; done += S::kWidth) {
            for (int j = 0; j < kNr; j += S::kWidth) {
                typename S::Uint square[S::kWidth];
                for (int i = 0; i < S::kWidth; ++i) std::memcpy(&square[i], source + (j + i) * stride + done, kBytes);
                transpose<kBytes>(square);
                for (int i = 0; i < S::kWidth; ++i) std::memcpy(out + (done + i) * kNr + j, &square[i], kBytes);
            }
        }
    }
    for (int64_t p = done; p < k; ++p) {
        for (int j = 0; j < kNr; ++j) out[p * kNr + j] = j < n ? source[j * stride + p] : 0.0f;
    }
}

// ---- The float32 register tile ---------------------------------------------------------------------------------------

// Writes kMr x kVectors accumulators to C; an edge tile goes through a full one beside it. Inlined always: as a call it
// would send all accumulators through memory.
template <int kBytes, int kMr, int kVectors>
[[gnu::always_inline]] inline void store_tile(const typename Simd<kBytes>::Float (&sums)[kMr][kVectors], float* c,
                                              int64_t c_stride, int m, int n, bool accumulate) {
    using S = Simd<kBytes>;
    constexpr int kNr = kVectors * S::kWidth;
    if (m == kMr && n == kNr) {
#pragma GCC unroll 16
        for (int i = 0; i < kMr; ++i) {
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v) {
                float* target = c + i * c_stride + v * S::kWidth;
                S::store(target, accumulate ? S::load(target) + sums[i][v] : sums[i][v]);
            }
        }
        return;
    }
    float edge[kMr * kNr];
#pragma GCC unroll 16
    for (int i = 0; i < kMr; ++i) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) S::store(edge + i * kNr + v * S::kWidth, sums[i][v]);
    }
    for (int i = 0; i < m; ++i) {
        for (int j = 0; j < n; ++j) {
            float& target = c[i * c_stride + j];
            target = accumulate ? target + edge[i * kNr + j] : edge[i * kNr + j];
        }
    }
}

// kRows x kUsed accumulators stay in registers for all of k; each step broadcasts kRows values of A against kUsed registers
// of B. kMr and kVectors are the widths of the packed panels, of which an edge tile uses a part.
template <int kBytes, int kMr, int kVectors, int kRows, int kUsed>
void part_of_tile_f32(int64_t k, const void* a, const void* b, float* c, int64_t c_stride, int m, int n,
                      bool accumulate) {
    using S = Simd<kBytes>;
    const float* pa = static_cast<const float*>(a);
    const float* pb = static_cast<const float*>(b);
    typename S::Float sums[kRows][kUsed] = {};
    for (int64_t p = 0; p < k; ++p, pa += kMr, pb += kVectors * S::kWidth) {
        typename S::Float columns[kUsed];
#pragma GCC unroll 4
        for (int v = 0; v < kUsed; ++v) columns[v] = S::load(pb + v * S::kWidth);
#pragma GCC unroll 16
        for (int i = 0; i < kRows; ++i) {
            const typename S::Float row = S::set(pa[i]);
#pragma GCC unroll 4
            for (int v = 0; v < kUsed; ++v) sums[i][v] += row * columns[v];
        }
    }
    store_tile<kBytes, kRows, kUsed>(sums, c, c_stride, m, n, accumulate);
}

// Few rows or columns, such as a LoRA's 16, are worth a smaller tile: the whole one would multiply mostly zeros. So are half
// the rows, which is what 64, a block of attention, leaves behind whole tiles. How a value is summed does not depend on the
// choice.
template <int kBytes, int kMr, int kVectors>
void tile_f32(int64_t k, const void* a, const void* b, float* c, int64_t c_stride, int m, int n, bool accumulate) {
    static_assert(kVectors == 2);
    constexpr int kFew = 2, kHalf = kMr / 2 + 1;
    if (n <= Simd<kBytes>::kWidth) {
        part_of_tile_f32<kBytes, kMr, kVectors, kMr, 1>(k, a, b, c, c_stride, m, n, accumulate);
    } else if (m <= kFew) {
        part_of_tile_f32<kBytes, kMr, kVectors, kFew, kVectors>(k, a, b, c, c_stride, m, n, accumulate);
    } else if (m <= kHalf) {
        part_of_tile_f32<kBytes, kMr, kVectors, kHalf, kVectors>(k, a, b, c, c_stride, m, n, accumulate);
    } else {
        part_of_tile_f32<kBytes, kMr, kVectors, kMr, kVectors>(k, a, b, c, c_stride, m, n, accumulate);
    }
}

// ---- Rows --------------------------------------------------------------------------------------------------------------

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

    static void silu_multiply(const float* gate, const float* up, float* out, int64_t n) {
        int64_t i = 0;
        for (; i + kWidth <= n; i += kWidth) {
            const Float z = S::load(gate + i);
            S::store(out + i, z * S::sigmoid(z) * S::load(up + i));
        }
        if (i < n) {
            const Float z = S::load_some(gate + i, n - i, 0.0f);
            S::store_some(out + i, z * S::sigmoid(z) * S::load_some(up + i, n - i, 0.0f), n - i);
        }
    }

    // silu'(z) = s (1 + z (1 - s)), s = sigmoid(z)
    static void silu_multiply_backward(const float* gate, const float* up, const float* dout, float* dgate, float* dup,
                                       float* out, int64_t n) {
        for (int64_t i = 0; i < n; i += kWidth) {
            const int64_t left = n - i;
            const bool whole = left >= kWidth;
            const Float z = whole ? S::load(gate + i) : S::load_some(gate + i, left, 0.0f);
            const Float u = whole ? S::load(up + i) : S::load_some(up + i, left, 0.0f);
            const Float d = whole ? S::load(dout + i) : S::load_some(dout + i, left, 0.0f);
            const Float s = S::sigmoid(z);
            const Float dz = d * u * s * (1.0f + z * (1.0f - s));
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

    // gelu(z) = z s, s = sigmoid(2 g), g = sqrt(2 / pi) (z + 0.044715 z^3): the same as with (1 + tanh(g)) / 2, and exact to
    // the last digits far below 0, where that cancels.
    static void gelu_multiply(const float* gate, const float* up, float* out, int64_t n) {
        for (int64_t i = 0; i < n; i += kWidth) {
            const int64_t left = n - i;
            const bool whole = left >= kWidth;
            const Float z = whole ? S::load(gate + i) : S::load_some(gate + i, left, 0.0f);
            const Float u = whole ? S::load(up + i) : S::load_some(up + i, left, 0.0f);
            const Float m = z * S::sigmoid(gelu_argument(z)) * u;
            if (whole) {
                S::store(out + i, m);
            } else {
                S::store_some(out + i, m, left);
            }
        }
    }

    // gelu'(z) = s + z s (1 - s) 2 g'(z)
    static void gelu_multiply_backward(const float* gate, const float* up, const float* dout, float* dgate, float* dup,
                                       float* out, int64_t n) {
        for (int64_t i = 0; i < n; i += kWidth) {
            const int64_t left = n - i;
            const bool whole = left >= kWidth;
            const Float z = whole ? S::load(gate + i) : S::load_some(gate + i, left, 0.0f);
            const Float u = whole ? S::load(up + i) : S::load_some(up + i, left, 0.0f);
            const Float d = whole ? S::load(dout + i) : S::load_some(dout + i, left, 0.0f);
            const Float s = S::sigmoid(gelu_argument(z));
            const Float slope = kGeluFactor * (1.0f + 3.0f * kGeluCubic * z * z);
            const Float dz = d * u * s * (1.0f + z * (1.0f - s) * slope);
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

    static constexpr float kGeluFactor = 1.5957691216f, kGeluCubic = 0.044715f;  // 2 sqrt(2 / pi)
    static Float gelu_argument(Float z) { return kGeluFactor * (z + kGeluCubic * z * z * z); }

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
                silu_multiply,
                silu_multiply_backward,
                gelu_multiply,
                gelu_multiply_backward,
                narrow,
                widen,
                to_bytes,
                from_bytes,
                dropout};
    }
};

template <int kBytes, int kMr, int kVectors>
constexpr GemmKernel f32_kernel(const char* name) {
    constexpr int kNr = kVectors * Simd<kBytes>::kWidth;
    return {name,
            kMr,
            kNr,
            1,
            sizeof(float),
            0,
            0,
            pack_a_f32<kBytes, kMr>,
            pack_b_f32<kNr>,
            pack_b_transposed_f32<kBytes, kNr>,
            tile_f32<kBytes, kMr, kVectors>,
            nullptr};
}

}  // namespace
}  // namespace cpuft
