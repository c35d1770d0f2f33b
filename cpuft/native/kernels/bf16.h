// One value between float32 and bfloat16, its upper half.
#pragma once

#include <cstdint>
#include <cstring>

namespace cpuft {
namespace {

// Rounds to nearest, ties to even. The addition could carry a NaN's mantissa away, so its quiet bit is set instead.
inline uint32_t bf16_bits(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    const uint32_t rounded = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
    return (bits & 0x7FFFFFFFu) > 0x7F800000u ? bits >> 16 | 0x40u : rounded;
}

inline float float_of_bf16(uint16_t x) {
    const uint32_t bits = static_cast<uint32_t>(x) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// As loops over rows, which the compiler vectorizes under the flags of the file that includes this.
inline void narrow(const float* x, uint16_t* out, int64_t n) {
    for (int64_t i = 0; i < n; ++i) out[i] = static_cast<uint16_t>(bf16_bits(x[i]));
}

inline void widen(const uint16_t* x, float* out, int64_t n) {
    for (int64_t i = 0; i < n; ++i) out[i] = float_of_bf16(x[i]);
}

inline void round_to_bf16(const float* x, float* out, int64_t n) {
    for (int64_t i = 0; i < n; ++i) out[i] = float_of_bf16(static_cast<uint16_t>(bf16_bits(x[i])));
}

}  // namespace
}  // namespace cpuft
