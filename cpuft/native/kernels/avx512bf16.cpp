// AVX-512-BF16: vdpbf16ps multiplies 32 pairs of bfloat16 and adds them into 16 float32 sums, twice the rate of float32.
// Its tile is the one of avx512.cpp with pairs along k (kr = 2).
#include "int8_avx512.h"
#include "weights.h"

namespace cpuft {
namespace {

constexpr int kMr = 14;
constexpr int kVectors = 2;
constexpr int kNr = 16 * kVectors;

inline uint32_t bf16_pair(float first, float second) { return bf16_bits(first) | bf16_bits(second) << 16; }

// 32 values of a row as 16 pairs.
inline Simd<64>::Uint pairs_of(const float* row) {
    return (Simd<64>::Uint)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(row + 16), _mm512_loadu_ps(row));
}

// Pairs (even[j], odd[j]) of 16 columns. One conversion gives the 16 odd values above the 16 even ones; vpermw interleaves.
inline __m512i interleaved(__m512 even, __m512 odd) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
}

void pack_a(const float* source, int64_t row_stride, int64_t column_stride, const float*, int m, int64_t k,
            void* panel) {
    uint32_t* out = static_cast<uint32_t*>(panel);
    int64_t done = 0;  // depth that whole squares, or whole pairs of a transposed operand, have covered
    if (row_stride == 1) {
        const __mmask16 rows = static_cast<__mmask16>((1 << m) - 1), panel_rows = (1 << kMr) - 1;
        for (; done + 2 <= k; done += 2) {
            const float* even = source + done * column_stride;
            const __m512i pairs =
                interleaved(_mm512_maskz_loadu_ps(rows, even), _mm512_maskz_loadu_ps(rows, even + column_stride));
            _mm512_mask_storeu_epi32(out + done / 2 * kMr, panel_rows, pairs);
        }
    } else if (m == kMr && column_stride == 1) {
        for (; done + 32 <= k; done += 32) {
            Simd<64>::Uint square[16] = {};
            for (int i = 0; i < kMr; ++i) square[i] = pairs_of(source + i * row_stride + done);
            transpose<64>(square);
            store_columns<64>(square, kMr, out + done / 2 * kMr);
        }
    }
    for (int64_t p = done; p < k; p += 2) {
        for (int i = 0; i < kMr; ++i) {
            const float* pair = source + i * row_stride + p * column_stride;
            out[p / 2 * kMr + i] = i < m ? bf16_pair(pair[0], p + 1 < k ? pair[column_stride] : 0.0f) : 0;
        }
    }
}

void pack_b(const float* source, int64_t stride, const float*, int64_t k0, int64_t k, int n, void* block) {
    uint32_t* out = static_cast<uint32_t*>(block) + k0 / 2 * kNr;
    for (int64_t p = 0; p < k; p += 2, out += kNr) {
        const float* even = source + p * stride;
        const float* odd = even + stride;
        if (n == kNr && p + 1 < k) {
            for (int v = 0; v < kVectors; ++v) {
                const __m512i pairs = interleaved(_mm512_loadu_ps(even + 16 * v), _mm512_loadu_ps(odd + 16 * v));
                _mm512_storeu_si512(out + 16 * v, pairs);
            }
        } else {
            for (int j = 0; j < kNr; ++j) out[j] = j < n ? bf16_pair(even[j], p + 1 < k ? odd[j] : 0.0f) : 0;
        }
    }
}

void pack_b_transposed(const float* source, int64_t stride, int64_t k, int n, void* panel) {
    uint32_t* out = static_cast<uint32_t*>(panel);
    int64_t done = 0;  // depth that whole squares have covered
    if (n == kNr) {
        for (; done + 32 <= k; done += 32) {
            for (int j = 0; j < kNr; j += 16) {
                Simd<64>::Uint square[16];
                for (int i = 0; i < 16; ++i) square[i] = pairs_of(source + (j + i) * stride + done);
                transpose<64>(square);
                for (int i = 0; i < 16; ++i) std::memcpy(out + (done / 2 + i) * kNr + j, &square[i], 64);
            }
        }
    }
    for (int64_t p = done; p < k; p += 2) {
        for (int j = 0; j < kNr; ++j) {
            const float* row = source + j * stride + p;
            out[p / 2 * kNr + j] = j < n ? bf16_pair(row[0], p + 1 < k ? row[1] : 0.0f) : 0;
        }
    }
}

void tile(int64_t k, const void* a, const void* b, float* c, int64_t c_stride, int m, int n, bool accumulate) {
    const int32_t* pa = static_cast<const int32_t*>(a);
    const int32_t* pb = static_cast<const int32_t*>(b);
    __m512 sums[kMr][kVectors];
#pragma GCC unroll 16
    for (int i = 0; i < kMr; ++i) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) sums[i][v] = _mm512_setzero_ps();
    }
    const int64_t pairs = (k + 1) / 2;
    for (int64_t q = 0; q < pairs; ++q, pa += kMr, pb += kNr) {
        const __m512bh left = (__m512bh)_mm512_loadu_si512(pb);
        const __m512bh right = (__m512bh)_mm512_loadu_si512(pb + 16);
#pragma GCC unroll 16
        for (int i = 0; i < kMr; ++i) {
            const __m512bh row = (__m512bh)_mm512_set1_epi32(pa[i]);
            sums[i][0] = _mm512_dpbf16_ps(sums[i][0], row, left);
            sums[i][1] = _mm512_dpbf16_ps(sums[i][1], row, right);
        }
    }
    typename Simd<64>::Float result[kMr][kVectors];
#pragma GCC unroll 16
    for (int i = 0; i < kMr; ++i) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) result[i][v] = (Simd<64>::Float)sums[i][v];
    }
    store_tile<64, kMr, kVectors>(result, c, c_stride, m, n, accumulate);
}

constexpr GemmKernel kBf16 = {"avx512bf16-14x32", kMr,  kNr,    2, 2, 0, 0, pack_a, pack_b,
                              pack_b_transposed,  tile, nullptr};

}  // namespace

// All these CPUs have VNNI, too.
const KernelTable kAvx512Bf16Kernels = {
    "avx512bf16",      f32_kernel<64, 14, 2>("avx512-f32-14x32"), &kBf16, &kInt8Avx512, Rows<64>::table(),
    fast_weight_reader};

}  // namespace cpuft
