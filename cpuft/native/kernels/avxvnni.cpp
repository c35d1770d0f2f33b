// AVX-VNNI beside AVX2: vpdpbusd on 32 bytes, for laptops without AVX-512. 16 registers: 12 accumulators (6 x 2), 2 for B,
// 1 for the broadcast of A.
#include <immintrin.h>

#include "int8.h"
#include "weights.h"

namespace cpuft {

namespace {

struct DotAvx {
    static constexpr int kBytes = 32;
    typedef int32_t Int __attribute__((vector_size(kBytes)));
    static Int dot(Int sum, Int b, Int a) { return (Int)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)b, (__m256i)a); }
    static void store_low_bytes(int8_t* out, Simd<kBytes>::Uint x) {
        // Bytes 0, 4, 8, 12 of each half to its front, then the two fronts together.
        const __m256i front = _mm256_setr_epi64x(0x0C080400, 0, 0x0C080400, 0);
        const __m256i bytes = _mm256_shuffle_epi8((__m256i)x, front);
        const __m128i both = _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
        _mm_storel_epi64((__m128i*)out, both);
    }
    static Simd<kBytes>::Uint load_low_bytes(const int8_t* p) {
        return (Simd<kBytes>::Uint)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p));
    }
};

constexpr GemmKernel kInt8 = Int8<DotAvx, 6, 2>::kernel("avxvnni-int8-6x16");

}  // namespace

const KernelTable kAvxVnniKernels = {
    "avxvnni", f32_kernel<32, 6, 2>("avx2-f32-6x16"), nullptr, &kInt8, Rows<32>::table(), fast_weight_reader};

}  // namespace cpuft
