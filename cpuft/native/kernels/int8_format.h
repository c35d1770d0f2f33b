// How a float32 value becomes a signed byte, once for the reference and the fast kernels: q = round(x / scale), ties to even.
// Internal linkage on purpose, as in simd.h: this header is compiled under several sets of instruction-set flags.
#pragma once

#include <cstdint>
#include <cstring>

namespace cpuft {
namespace {

constexpr float kInt8Most = 127.0f;

// 1.5 * 2^23: x + kRoundMagic has x, rounded to an integer, in its low bits (two's complement), for |x| < 2^22.
constexpr float kRoundMagic = 12582912.0f;

// The scale of values whose largest magnitude is given. Not finite where that is not: a broken value must not vanish.
inline float int8_scale(float largest_magnitude) { return largest_magnitude / kInt8Most; }

// What values are multiplied with; 0 where all of them are zero or one of them is not finite.
inline float int8_inverse(float scale) { return scale > 0.0f && scale < __builtin_inff() ? 1.0f / scale : 0.0f; }

inline int8_t int8_value(float x, float inverse) {
    const float rounded = __builtin_fmaf(x, inverse, kRoundMagic);
    uint32_t bits;
    std::memcpy(&bits, &rounded, sizeof bits);
    return static_cast<int8_t>(bits);
}

// By the largest of these, for p = 0, 1, ... < 256, the value is chosen that is kept apart: the one of largest magnitude, its
// last eight bits aside, and the first of several.
inline uint32_t apart_key(float x, int64_t p) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return (bits & 0x7FFFFF00u) | (255u - static_cast<uint32_t>(p));
}

}  // namespace
}  // namespace cpuft
