// Turning the common weight formats straight into the signed bytes of an int8 product. The float32 readers of weights.h, and
// int8_value after them, are the slow twin and serve all other formats. Written once, with 256-bit instructions, for CPUs
// with AVX-512 and without. Internal linkage, as in simd.h.
#pragma once

#include "weights.h"

namespace cpuft {
namespace {

// ---- The largest magnitude -------------------------------------------------------------------------------------------

// The bits of magnitudes are ordered as the magnitudes are, with infinity and NaN above all others.
inline __m256i magnitude_bits(__m256 x) {
    return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(INT32_MAX));
}

inline float largest_of(__m256i bits) {
    __m128i four = _mm_max_epu32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
    four = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0x4E));
    four = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0xB1));
    return _mm_cvtss_f32(_mm_castsi128_ps(four));
}

// ---- Formats of scaled codes -----------------------------------------------------------------------------------------
//
// A weight is unit * code, and codes are spread over the whole of a signed byte, so that one 16-bit multiplication suffices:
// round(code * fixed / 2^15) with fixed = round(2^15 unit * inverse). Since 128 |unit| * inverse is 127 or little more,
// `fixed` nearly fills its 16 bits, and its rounding moves code * unit * inverse by at most 128 * 2^-16 = 0.002.

inline __m128i fixed_point(__m256 scales) {
    const __m256i fixed = _mm256_cvtps_epi32(scales);
    return _mm_packs_epi32(_mm256_castsi256_si128(fixed), _mm256_extracti128_si256(fixed, 1));
}

// The bytes of 32 codes; fixed: 16 bits for each code, those of codes 0-15 in the low half, of 16-31 in the high one, in
// each half all the same.
inline void store_scaled(__m256i codes, __m256i fixed, int8_t* out) {
    const __m256i even = _mm256_srai_epi16(_mm256_unpacklo_epi8(codes, codes), 8);
    const __m256i odd = _mm256_srai_epi16(_mm256_unpackhi_epi8(codes, codes), 8);
    const __m256i bytes = _mm256_packs_epi16(_mm256_mulhrs_epi16(even, fixed), _mm256_mulhrs_epi16(odd, fixed));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), bytes);
}

// Formats with one f16 scale, at the front, for each 32 codes. kUnit: unit / scale. kLargest: the code of largest magnitude
// that ggml's quantizers write.
struct CodesQ8_0 {
    static constexpr int kBytes = 34;
    static constexpr float kUnit = 1.0f, kLargest = 127.0f;
    static __m256i codes(const uint8_t* block) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + 2));
    }
};

struct CodesQ4_0 {  // 16 (q - 8)
    static constexpr int kBytes = 18;
    static constexpr float kUnit = 1.0f / 16.0f, kLargest = 128.0f;
    static __m256i codes(const uint8_t* block) {
        return _mm256_xor_si256(_mm256_slli_epi16(nibbles(block + 2), 4), _mm256_set1_epi8(INT8_MIN));
    }
};

struct CodesQ5_0 {  // 8 (q - 16): the top bit is set where the fifth bit is not
    static constexpr int kBytes = 22;
    static constexpr float kUnit = 1.0f / 8.0f, kLargest = 128.0f;
    static __m256i codes(const uint8_t* block) {
        const __m256i top = _mm256_and_si256(unset_bits(block + 2), _mm256_set1_epi8(INT8_MIN));
        return _mm256_or_si256(_mm256_slli_epi16(nibbles(block + 6), 3), top);
    }
};

struct CodesIq4Nl {
    static constexpr int kBytes = 18;
    static constexpr float kUnit = 1.0f, kLargest = 127.0f;
    static __m256i codes(const uint8_t* block) { return _mm256_shuffle_epi8(iq4_codes(), nibbles(block + 2)); }
};

template <class Codes>
float bound_of_32s(const void* source, int64_t n) {
    const uint8_t* block = static_cast<const uint8_t*>(source);
    uint16_t largest = 0;  // the bits of an f16: what holds for those of magnitude_bits holds for them, too
    for (int64_t i = 0; i < n; i += 32, block += Codes::kBytes) {
        uint16_t bits;
        std::memcpy(&bits, block, sizeof bits);
        bits &= INT16_MAX;
        largest = bits > largest ? bits : largest;
    }
    return Codes::kLargest * Codes::kUnit * _cvtsh_ss(largest);
}

template <class Codes>
void bytes_of_32s(const void* source, float inverse, int8_t* out, int64_t n) {
    const uint8_t* block = static_cast<const uint8_t*>(source);
    const __m256 factor = _mm256_set1_ps(32768.0f * Codes::kUnit * inverse);
    for (int64_t i = 0; i < n; i += 32, block += Codes::kBytes) {
        int16_t scale;
        std::memcpy(&scale, block, sizeof scale);
        const __m256 scales = _mm256_cvtph_ps(_mm_set1_epi16(scale));
        const __m256i fixed = _mm256_cvtps_epi32(_mm256_mul_ps(scales, factor));
        store_scaled(Codes::codes(block), _mm256_packs_epi32(fixed, fixed), out + i);
    }
}

// The eight scales of a block of IQ4_XS, times d.
inline __m256 iq4_xs_scales(const uint8_t* block, float d) {
    uint16_t high_bits;
    uint32_t low_bits;
    std::memcpy(&high_bits, block + 2, sizeof high_bits);
    std::memcpy(&low_bits, block + 4, sizeof low_bits);
    const __m256i high = _mm256_srlv_epi32(_mm256_set1_epi32(high_bits), _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
    const __m256i low = _mm256_srlv_epi32(_mm256_set1_epi32(static_cast<int32_t>(low_bits)),
                                          _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
    const __m256i six_bits = _mm256_or_si256(_mm256_slli_epi32(_mm256_and_si256(high, _mm256_set1_epi32(3)), 4),
                                             _mm256_and_si256(low, _mm256_set1_epi32(15)));
    return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(six_bits, _mm256_set1_epi32(32))), _mm256_set1_ps(d));
}

float bound_iq4_xs(const void* source, int64_t n) {
    const uint8_t* block = static_cast<const uint8_t*>(source);
    __m256i largest = _mm256_setzero_si256();
    for (int64_t i = 0; i < n; i += 256, block += 136) {
        largest = _mm256_max_epu32(largest, magnitude_bits(iq4_xs_scales(block, half_at(block))));
    }
    return CodesIq4Nl::kLargest * largest_of(largest);
}

void bytes_iq4_xs(const void* source, float inverse, int8_t* out, int64_t n) {
    const uint8_t* block = static_cast<const uint8_t*>(source);
    const __m256i codes = iq4_codes();
    for (int64_t i = 0; i < n; i += 256, block += 136) {
        const __m128i fixed = fixed_point(iq4_xs_scales(block, 32768.0f * inverse * half_at(block)));
        const __m256i both = _mm256_broadcastsi128_si256(fixed);
        for (int j = 0; j < 8; ++j, out += 32) {
            const __m256i jth = _mm256_shuffle_epi8(both, _mm256_set1_epi16(static_cast<int16_t>(0x0100 + 0x0202 * j)));
            store_scaled(_mm256_shuffle_epi8(codes, nibbles(block + 8 + 16 * j)), jth, out);
        }
    }
}

// Scales [8 half, 8 half + 8) of a block of Q6_K, times d.
inline __m256 q6_k_scales(const uint8_t* block, int half, float d) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(block + 192 + 8 * half));
    return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), _mm256_set1_ps(d));
}

float bound_q6_k(const void* source, int64_t n) {
    const uint8_t* block = static_cast<const uint8_t*>(source);
    __m256i largest = _mm256_setzero_si256();
    for (int64_t i = 0; i < n; i += 256, block += 210) {
        const float d = half_at(block + 208);
        largest = _mm256_max_epu32(largest, magnitude_bits(q6_k_scales(block, 0, d)));
        largest = _mm256_max_epu32(largest, magnitude_bits(q6_k_scales(block, 1, d)));
    }
    return 32.0f * largest_of(largest);
}

// Codes are 4 (q - 32): bits 2 to 5 from a nibble, 6 and 7 from a pair of high bits, and the top bit turned round.
void bytes_q6_k(const void* source, float inverse, int8_t* out, int64_t n) {
    const uint8_t* block = static_cast<const uint8_t*>(source);
    const __m256i nibble = _mm256_set1_epi8(15 << 2), pair = _mm256_set1_epi8(static_cast<char>(3 << 6));
    const __m256i top = _mm256_set1_epi8(INT8_MIN);
    const auto code = [&](__m256i low, __m256i high) {
        const __m256i bits = _mm256_or_si256(_mm256_and_si256(low, nibble), _mm256_and_si256(high, pair));
        return _mm256_xor_si256(bits, top);
    };
    for (int64_t i = 0; i < n; i += 256, block += 210) {
        const float d = 32768.0f / 4.0f * inverse * half_at(block + 208);
        for (int half = 0; half < 2; ++half, out += 128) {
            const __m256i* low = reinterpret_cast<const __m256i*>(block + 64 * half);
            const __m256i first = _mm256_loadu_si256(low), second = _mm256_loadu_si256(low + 1);
            const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + 128 + 32 * half));
            const __m256i fixed = _mm256_broadcastsi128_si256(fixed_point(q6_k_scales(block, half, d)));
            // Of eight scales, those of 16 codes each: bytes 0 and 1 for the low half, 2 and 3 for the high one, and so on.
            const auto scales = [&](int group) {
                const __m256i bytes = _mm256_set_m128i(_mm_set1_epi16(0x0302), _mm_set1_epi16(0x0100));
                return _mm256_shuffle_epi8(fixed,
                                           _mm256_add_epi8(bytes, _mm256_set1_epi8(static_cast<char>(4 * group))));
            };
            store_scaled(code(_mm256_slli_epi16(first, 2), _mm256_slli_epi16(high, 6)), scales(0), out);
            store_scaled(code(_mm256_slli_epi16(second, 2), _mm256_slli_epi16(high, 4)), scales(1), out + 32);
            store_scaled(code(_mm256_srli_epi16(first, 2), _mm256_slli_epi16(high, 2)), scales(2), out + 64);
            store_scaled(code(_mm256_srli_epi16(second, 2), high), scales(3), out + 96);
        }
    }
}

// ---- Formats with a minimum ------------------------------------------------------------------------------------------
//
// A weight is scale * code - min, where 32 weights share scale and min: the bytes of all 16 or 32 codes are computed once and
// then looked up.

struct ScalesMins {
    __m256 scale, min;  // of the eight groups of a block
};

// As scale_min of weights.h does, four groups in each 32 bits.
inline ScalesMins scales_mins(const uint8_t* block, float factor) {
    uint32_t words[3];
    std::memcpy(words, block + 4, sizeof words);
    const auto eight = [](uint32_t first, uint32_t last) {
        const __m128i bytes = _mm_cvtsi64_si128(static_cast<int64_t>(static_cast<uint64_t>(last) << 32 | first));
        return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
    };
    constexpr uint32_t kSix = 0x3F3F3F3F, kFour = 0x0F0F0F0F, kHigh = 0x30303030;
    const __m256 scale = eight(words[0] & kSix, (words[2] & kFour) | (words[0] >> 2 & kHigh));
    const __m256 min = eight(words[1] & kSix, (words[2] >> 4 & kFour) | (words[1] >> 2 & kHigh));
    return {_mm256_mul_ps(scale, _mm256_set1_ps(factor * half_at(block))),
            _mm256_mul_ps(min, _mm256_set1_ps(factor * half_at(block + 2)))};
}

// The outermost weights of a group are -min and scale * largest code - min.
template <int kBlockBytes, int kLargestCode>
float bound_with_min(const void* source, int64_t n) {
    const uint8_t* block = static_cast<const uint8_t*>(source);
    __m256i largest = _mm256_setzero_si256();
    for (int64_t i = 0; i < n; i += 256, block += kBlockBytes) {
        const ScalesMins groups = scales_mins(block, 1.0f);
        const __m256 last = _mm256_fmsub_ps(groups.scale, _mm256_set1_ps(kLargestCode), groups.min);
        largest = _mm256_max_epu32(largest, magnitude_bits(groups.min));
        largest = _mm256_max_epu32(largest, magnitude_bits(last));
    }
    return largest_of(largest);
}

// The bytes of codes 0 to 15, in each half of the result for the scale and the min in that half (where all are the same).
inline __m256i byte_tables(__m256 scale, __m256 min) {
    const __m256 codes = _mm256_setr_ps(0, 1, 2, 3, 0, 1, 2, 3);
    const auto four = [&](float first) {
        const __m256 code = _mm256_add_ps(codes, _mm256_set1_ps(first));
        return _mm256_cvtps_epi32(_mm256_fmsub_ps(scale, code, min));
    };
    return _mm256_packs_epi16(_mm256_packs_epi32(four(0), four(4)), _mm256_packs_epi32(four(8), four(12)));
}

// Table `half` of byte_tables at 32 codes.
template <int half>
inline __m256i look_up(__m256i tables, __m256i codes) {
    return _mm256_shuffle_epi8(_mm256_permute2x128_si256(tables, tables, 17 * half), codes);
}

void bytes_q4_k(const void* source, float inverse, int8_t* out, int64_t n) {
    const uint8_t* block = static_cast<const uint8_t*>(source);
    const __m256i nibble = _mm256_set1_epi8(15);
    for (int64_t i = 0; i < n; i += 256, block += 144) {
        const ScalesMins groups = scales_mins(block, inverse);
        for (int j = 0; j < 8;
             j += 2, out += 64) {  // 32 bytes hold group j in their low nibbles, j + 1 in the high ones
            const __m256i two = _mm256_setr_epi32(j, j, j, j, j + 1, j + 1, j + 1, j + 1);
            const __m256i tables =
                byte_tables(_mm256_permutevar8x32_ps(groups.scale, two), _mm256_permutevar8x32_ps(groups.min, two));
            const __m256i q = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + 16 + 16 * j));
            const __m256i low = look_up<0>(tables, _mm256_and_si256(q, nibble));
            const __m256i high = look_up<1>(tables, _mm256_and_si256(_mm256_srli_epi16(q, 4), nibble));
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), low);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 32), high);
        }
    }
}

// Codes 16 to 31 have a table of their own: scale * (code + 16) - min = scale * code - (min - 16 scale).
void bytes_q5_k(const void* source, float inverse, int8_t* out, int64_t n) {
    const uint8_t* block = static_cast<const uint8_t*>(source);
    const __m256i nibble = _mm256_set1_epi8(15);
    const __m256 fifth_bit = _mm256_setr_ps(0, 0, 0, 0, 16, 16, 16, 16);
    for (int64_t i = 0; i < n; i += 256, block += 176) {
        const ScalesMins groups = scales_mins(block, inverse);
        const __m256i fifth = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + 16));
        for (int j = 0; j < 8; ++j, out += 32) {
            const __m256i jth = _mm256_set1_epi32(j);
            const __m256 scale = _mm256_permutevar8x32_ps(groups.scale, jth);
            const __m256 min = _mm256_permutevar8x32_ps(groups.min, jth);
            const __m256i tables = byte_tables(scale, _mm256_fnmadd_ps(scale, fifth_bit, min));
            const __m256i q = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + 48 + 32 * (j / 2)));
            const __m256i code = _mm256_and_si256(_mm256_srli_epi16(q, 4 * (j % 2)), nibble);
            // A blend looks at the top bit of a byte alone.
            const __m256i bytes =
                _mm256_blendv_epi8(look_up<0>(tables, code), look_up<1>(tables, code), _mm256_slli_epi16(fifth, 7 - j));
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), bytes);
        }
    }
}

// The reader of a ggml type, or null where weights go through float32.
const Int8Reader* int8_reader(int type) {
    static constexpr Int8Reader kQ8_0 = {bound_of_32s<CodesQ8_0>, bytes_of_32s<CodesQ8_0>};
    static constexpr Int8Reader kQ4_0 = {bound_of_32s<CodesQ4_0>, bytes_of_32s<CodesQ4_0>};
    static constexpr Int8Reader kQ5_0 = {bound_of_32s<CodesQ5_0>, bytes_of_32s<CodesQ5_0>};
    static constexpr Int8Reader kIq4Nl = {bound_of_32s<CodesIq4Nl>, bytes_of_32s<CodesIq4Nl>};
    static constexpr Int8Reader kIq4Xs = {bound_iq4_xs, bytes_iq4_xs};
    static constexpr Int8Reader kQ4K = {bound_with_min<144, 15>, bytes_q4_k};
    static constexpr Int8Reader kQ5K = {bound_with_min<176, 31>, bytes_q5_k};
    static constexpr Int8Reader kQ6K = {bound_q6_k, bytes_q6_k};
    switch (type) {
        case GGML_TYPE_Q8_0:
            return &kQ8_0;
        case GGML_TYPE_Q4_0:
            return &kQ4_0;
        case GGML_TYPE_Q5_0:
            return &kQ5_0;
        case GGML_TYPE_IQ4_NL:
            return &kIq4Nl;
        case GGML_TYPE_IQ4_XS:
            return &kIq4Xs;
        case GGML_TYPE_Q4_K:
            return &kQ4K;
        case GGML_TYPE_Q5_K:
            return &kQ5K;
        case GGML_TYPE_Q6_K:
            return &kQ6K;
        default:
            return nullptr;
    }
}

}  // namespace
}  // namespace cpuft
