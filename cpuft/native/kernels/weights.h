// Turning the common weight formats into float32: bits to signed bytes by plain loops, which the compiler vectorizes under
// the flags of the kernel file that includes this header (internal linkage, as in simd.h), then bytes to scaled floats.
// ggml's own functions, which are compiled for any x86-64, are the slow twins and serve all other formats. Layouts:
// ggml-common.h of llama.cpp.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "ggml.h"
#include "kernels.h"

namespace cpuft {
namespace {

inline float half_at(const uint8_t* p) {
    uint16_t bits;
    std::memcpy(&bits, p, sizeof bits);
    return _cvtsh_ss(bits);
}

// out[i] = scale * values[i] for 16 values
inline void scale_bytes(const int8_t* values, float scale, float* out) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values));
    const __m256i low = _mm256_cvtepi8_epi32(bytes), high = _mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8));
    _mm256_storeu_ps(out, _mm256_mul_ps(_mm256_set1_ps(scale), _mm256_cvtepi32_ps(low)));
    _mm256_storeu_ps(out + 8, _mm256_mul_ps(_mm256_set1_ps(scale), _mm256_cvtepi32_ps(high)));
}

void from_f16(const void* source, float* out, int64_t n) {
    const uint16_t* values = static_cast<const uint16_t*>(source);
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values + i))));
    }
    for (; i < n; ++i) out[i] = half_at(reinterpret_cast<const uint8_t*>(values + i));
}

void from_bf16(const void* source, float* out, int64_t n) {
    const uint16_t* values = static_cast<const uint16_t*>(source);
    for (int64_t i = 0; i < n; ++i) {
        const uint32_t bits = static_cast<uint32_t>(values[i]) << 16;
        std::memcpy(out + i, &bits, sizeof bits);
    }
}

// Blocks of 32: scale (f16), 32 signed bytes.
void from_q8_0(const void* source, float* out, int64_t n) {
    const uint8_t* block = static_cast<const uint8_t*>(source);
    for (int64_t i = 0; i < n; i += 32, block += 34) {
        const float d = half_at(block);
        const int8_t* q = reinterpret_cast<const int8_t*>(block + 2);
        scale_bytes(q, d, out + i);
        scale_bytes(q + 16, d, out + i + 16);
    }
}

// 16 bytes of two nibbles as 32 bytes; the low nibbles are the first half.
inline __m256i nibbles(const uint8_t* packed) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(packed));
    const __m256i both = _mm256_set_m128i(_mm_srli_epi16(bytes, 4), bytes);
    return _mm256_and_si256(both, _mm256_set1_epi8(15));
}

inline void scale_32_bytes(__m256i bytes, float scale, float* out) {
    int8_t values[32];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(values), bytes);
    scale_bytes(values, scale, out);
    scale_bytes(values + 16, scale, out + 16);
}

// Blocks of 32: scale (f16), 16 bytes of two nibbles.
void from_q4_0(const void* source, float* out, int64_t n) {
    const uint8_t* block = static_cast<const uint8_t*>(source);
    for (int64_t i = 0; i < n; i += 32, block += 18) {
        scale_32_bytes(_mm256_sub_epi8(nibbles(block + 2), _mm256_set1_epi8(8)), half_at(block), out + i);
    }
}

// 32 bits as 32 bytes: all ones where a bit is 0.
inline __m256i unset_bits(const uint8_t* packed) {
    const __m256i byte_of_value = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit_of_value = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201u));
    int32_t bits;
    std::memcpy(&bits, packed, sizeof bits);
    const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32(bits), byte_of_value);
    return _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit_of_value), _mm256_setzero_si256());
}

// Blocks of 32: scale (f16), 32 fifth bits (bit j for value j), 16 bytes of two nibbles. An unset fifth bit takes 16 away.
void from_q5_0(const void* source, float* out, int64_t n) {
    const uint8_t* block = static_cast<const uint8_t*>(source);
    for (int64_t i = 0; i < n; i += 32, block += 22) {
        const __m256i offset = _mm256_and_si256(unset_bits(block + 2), _mm256_set1_epi8(16));
        scale_32_bytes(_mm256_sub_epi8(nibbles(block + 6), offset), half_at(block), out + i);
    }
}

// What the 16 nibbles of IQ4_NL and IQ4_XS stand for, in both halves of a register.
inline __m256i iq4_codes() {
    return _mm256_broadcastsi128_si256(
        _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113));
}

// Blocks of 32: scale (f16), 16 bytes of two nibbles.
void from_iq4_nl(const void* source, float* out, int64_t n) {
    const uint8_t* block = static_cast<const uint8_t*>(source);
    const __m256i codes = iq4_codes();
    for (int64_t i = 0; i < n; i += 32, block += 18) {
        scale_32_bytes(_mm256_shuffle_epi8(codes, nibbles(block + 2)), half_at(block), out + i);
    }
}

// Scale j of the eight 6-bit scales of IQ4_XS, less their offset of 32: two high bits each in 2 bytes, then nibbles.
inline int iq4_xs_scale(const uint8_t* packed, int j) {
    const int high = (packed[j / 4] >> 2 * (j % 4)) & 3, low = (packed[2 + j / 2] >> 4 * (j % 2)) & 15;
    return (high << 4 | low) - 32;
}

// Blocks of 256: scale of the scales (f16), 8 packed scales in 6 bytes, 8 times 16 bytes of two nibbles.
void from_iq4_xs(const void* source, float* out, int64_t n) {
    const uint8_t* block = static_cast<const uint8_t*>(source);
    const __m256i codes = iq4_codes();
    for (int64_t i = 0; i < n; i += 256, block += 136) {
        const float d = half_at(block);
        for (int j = 0; j < 8; ++j, out += 32) {
            const float scale = d * static_cast<float>(iq4_xs_scale(block + 2, j));
            scale_32_bytes(_mm256_shuffle_epi8(codes, nibbles(block + 8 + 16 * j)), scale, out);
        }
    }
}

// The eight 6-bit (scale, minimum) pairs that Q4_K and Q5_K pack into 12 bytes.
struct ScaleMin {
    float scale, min;
};

inline ScaleMin scale_min(const uint8_t* packed, int j, float d, float dmin) {
    int scale, min;
    if (j < 4) {
        scale = packed[j] & 63;
        min = packed[j + 4] & 63;
    } else {
        scale = (packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4;
        min = (packed[j + 4] >> 4) | (packed[j] >> 6) << 4;
    }
    return {d * static_cast<float>(scale), dmin * static_cast<float>(min)};
}

// Blocks of 256: scale and minimum of the scales (f16), 8 packed pairs, 128 bytes of two nibbles.
void from_q4_k(const void* source, float* out, int64_t n) {
    const uint8_t* block = static_cast<const uint8_t*>(source);
    for (int64_t i = 0; i < n; i += 256, block += 144) {
        const float d = half_at(block), dmin = half_at(block + 2);
        const uint8_t* q = block + 16;
        for (int j = 0; j < 8; j += 2, q += 32, out += 64) {
            const ScaleMin low = scale_min(block + 4, j, d, dmin), high = scale_min(block + 4, j + 1, d, dmin);
            for (int l = 0; l < 32; ++l) out[l] = low.scale * static_cast<float>(q[l] & 15) - low.min;
            for (int l = 0; l < 32; ++l) out[32 + l] = high.scale * static_cast<float>(q[l] >> 4) - high.min;
        }
    }
}

// As Q4_K, with 32 bytes of fifth bits before the nibbles: bit j of byte l belongs to value l of group j.
void from_q5_k(const void* source, float* out, int64_t n) {
    const uint8_t* block = static_cast<const uint8_t*>(source);
    for (int64_t i = 0; i < n; i += 256, block += 176) {
        const float d = half_at(block), dmin = half_at(block + 2);
        const uint8_t *fifth = block + 16, *q = block + 48;
        for (int j = 0; j < 8; j += 2, q += 32, out += 64) {
            const ScaleMin low = scale_min(block + 4, j, d, dmin), high = scale_min(block + 4, j + 1, d, dmin);
            for (int l = 0; l < 32; ++l) {
                out[l] = low.scale * static_cast<float>((q[l] & 15) | (fifth[l] >> j & 1) << 4) - low.min;
            }
            for (int l = 0; l < 32; ++l) {
                out[32 + l] = high.scale * static_cast<float>((q[l] >> 4) | (fifth[l] >> (j + 1) & 1) << 4) - high.min;
            }
        }
    }
}

// Blocks of 256: 128 bytes of low nibbles, 64 of high bit pairs, 16 signed scales, one f16 over them.
void from_q6_k(const void* source, float* out, int64_t n) {
    const uint8_t* block = static_cast<const uint8_t*>(source);
    for (int64_t i = 0; i < n; i += 256, block += 210) {
        const float d = half_at(block + 208);
        const int8_t* scales = reinterpret_cast<const int8_t*>(block + 192);
        for (int half = 0; half < 2; ++half, out += 128) {
            const uint8_t *low = block + 64 * half, *high = block + 128 + 32 * half;
            int8_t values[128];
            for (int l = 0; l < 32; ++l) {
                values[l] = static_cast<int8_t>(((low[l] & 15) | (high[l] & 3) << 4) - 32);
                values[32 + l] = static_cast<int8_t>(((low[32 + l] & 15) | (high[l] >> 2 & 3) << 4) - 32);
                values[64 + l] = static_cast<int8_t>(((low[l] >> 4) | (high[l] >> 4 & 3) << 4) - 32);
                values[96 + l] = static_cast<int8_t>(((low[32 + l] >> 4) | high[l] >> 6 << 4) - 32);
            }
            for (int group = 0; group < 8; ++group) {
                scale_bytes(values + 16 * group, d * static_cast<float>(scales[8 * half + group]), out + 16 * group);
            }
        }
    }
}

WeightReader fast_weight_reader(int type) {
    switch (type) {
        case GGML_TYPE_F16:
            return from_f16;
        case GGML_TYPE_BF16:
            return from_bf16;
        case GGML_TYPE_Q8_0:
            return from_q8_0;
        case GGML_TYPE_Q4_0:
            return from_q4_0;
        case GGML_TYPE_Q5_0:
            return from_q5_0;
        case GGML_TYPE_IQ4_NL:
            return from_iq4_nl;
        case GGML_TYPE_IQ4_XS:
            return from_iq4_xs;
        case GGML_TYPE_Q4_K:
            return from_q4_k;
        case GGML_TYPE_Q5_K:
            return from_q5_k;
        case GGML_TYPE_Q6_K:
            return from_q6_k;
        default:
            return nullptr;
    }
}

}  // namespace
}  // namespace cpuft
