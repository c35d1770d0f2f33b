// The dot product of bytes of AVX-512-VNNI, for int8.h.
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
};

}  // namespace
}  // namespace cpuft
