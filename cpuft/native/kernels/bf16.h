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

// The upper 24 bits of a float32 with those of bfloat16 apart from the eight below: 16 of a value's bits are kept, not 8.
inline uint32_t bits_24(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    const uint32_t rounded = (bits + 0x7Fu + (bits >> 8 & 1u)) >> 8;
    return (bits & 0x7FFFFFFFu) > 0x7F800000u ? bits >> 8 | 0x4000u : rounded;
}

inline float float_of_24(uint32_t x) {
    const uint32_t bits = x << 8;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline void narrow_24(const float* x, uint16_t* high, uint8_t* low, int64_t n) {
    for (int64_t i = 0; i < n; ++i) high[i] = static_cast<uint16_t>(bits_24(x[i]) >> 8);
    for (int64_t i = 0; i < n; ++i) low[i] = static_cast<uint8_t>(bits_24(x[i]));
}

inline void widen_24(const uint16_t* high, const uint8_t* low, float* out, int64_t n) {
    for (int64_t i = 0; i < n; ++i) out[i] = float_of_24(static_cast<uint32_t>(high[i]) << 8 | low[i]);
}

inline void round_to_24(const float* x, float* out, int64_t n) {
    for (int64_t i = 0; i < n; ++i) out[i] = float_of_24(bits_24(x[i]));
}

}  // namespace
}  // namespace cpuft
