// The int8 kernel of AVX-512-VNNI, for the tables of the CPUs that have it. The tile is that of avx512.cpp.
#pragma once

#include <immintrin.h>

#include "int8.h"

namespace cpuft {
namespace {

struct DotAvx512 {
    static constexpr int kBytes = 64;
    typedef int32_t Int __attribute__((vector_size(kBytes)));
    static Int dot(Int sum, Int b, Int a) { return (Int)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)b, (__m512i)a); }
    static void store_low_bytes(int8_t* out, Simd<kBytes>::Uint x) {
        _mm_storeu_si128((__m128i*)out, _mm512_maskz_cvtepi32_epi8(0xFFFF, (__m512i)x));
    }
    static Simd<kBytes>::Uint load_low_bytes(const int8_t* p) {
        return (Simd<kBytes>::Uint)_mm512_maskz_cvtepu8_epi32(0xFFFF, _mm_loadu_si128((const __m128i*)p));
    }
};

constexpr GemmKernel kInt8Avx512 = Int8<DotAvx512, 14, 2>::kernel("avx512vnni-int8-14x32");

}  // namespace
}  // namespace cpuft
