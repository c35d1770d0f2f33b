// The fast kernels, written once over GCC/Clang vector types and compiled once for each instruction set: a file such as
// avx512.cpp includes this header under its own compiler flags and instantiates it with its register width and tile.
//
// Everything here has internal linkage on purpose: the same inline function compiled under two sets of flags and merged
// by the linker would crash the older CPU.
#pragma once

#include <cstdint>
#include <cstring>

#include "bf16.h"
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

// Lane i of the result is lane places[i] of two registers laid end to end. The places are known when this is compiled.
template <int kBytes, class Vector>
[[gnu::always_inline]] inline Vector picked(Vector first, Vector second, typename Simd<kBytes>::Uint places) {
#ifdef __clang__  // has no __builtin_shuffle
    constexpr uint32_t kWidth = Simd<kBytes>::kWidth;
    Vector values;
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kWidth; ++i)
        values[i] = places[i] < kWidth ? first[places[i]] : second[places[i] - kWidth];
    return values;
#else
    return __builtin_shuffle(first, second, places);
#endif
}

// Lane i of the result is lane i + by of v.
template <int kBytes>
[[gnu::always_inline]] inline typename Simd<kBytes>::Float rotated(typename Simd<kBytes>::Float v, int by) {
    typename Simd<kBytes>::Uint from;
    for (int lane = 0; lane < Simd<kBytes>::kWidth; ++lane)
        from[lane] = static_cast<uint32_t>((lane + by) % Simd<kBytes>::kWidth);
    return picked<kBytes>(v, v, from);
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
            rows[i] = picked<kBytes>(first, second, upper);
            rows[i + s] = picked<kBytes>(first, second, lower);
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
