// Rows of float32 values as bytes, with a scale for each kByteBlock values, and back: x ~ scale q, |q| <= 127. Loops that
// the compiler vectorizes under the flags of the file that includes this, with the same result under all of them.
#pragma once

#include <cstdint>
#include <cstring>

#include "int8_format.h"
#include "kernels.h"

namespace cpuft {
namespace {

// One block, n <= kByteBlock. Returns its scale: not finite where a value is not, so that the block comes back as NaN.
inline float block_to_bytes(const float* x, int64_t n, int8_t* out) {
    uint32_t largest = 0;  // the bits of magnitudes are ordered as the magnitudes are
    for (int64_t i = 0; i < n; ++i) {
        uint32_t bits;
        std::memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7FFFFFFFu;
        largest = bits > largest ? bits : largest;
    }
    float magnitude;
    std::memcpy(&magnitude, &largest, sizeof magnitude);
    const float scale = int8_scale(magnitude), inverse = int8_inverse(scale);
    for (int64_t i = 0; i < n; ++i) out[i] = int8_value(x[i], inverse);
    return scale;
}

void to_bytes(const float* x, int8_t* out, float* scales, int64_t n) {
    int64_t i = 0;
    for (; i + kByteBlock <= n; i += kByteBlock) scales[i / kByteBlock] = block_to_bytes(x + i, kByteBlock, out + i);
    if (i < n) scales[i / kByteBlock] = block_to_bytes(x + i, n - i, out + i);
}

void from_bytes(const int8_t* x, const float* scales, float* out, int64_t n) {
    for (int64_t i = 0; i < n; i += kByteBlock) {
        const float scale = scales[i / kByteBlock];
        const int64_t end = i + kByteBlock < n ? i + kByteBlock : n;
        for (int64_t j = i; j < end; ++j) out[j] = scale * static_cast<float>(x[j]);
    }
}

// What from_bytes makes of what to_bytes makes of x; out may be x.
void round_to_bytes(const float* x, float* out, int64_t n) {
    for (int64_t i = 0; i < n; i += kByteBlock) {
        const int64_t size = i + kByteBlock < n ? kByteBlock : n - i;
        int8_t bytes[kByteBlock];
        const float scale = block_to_bytes(x + i, size, bytes);
        for (int64_t j = 0; j < size; ++j) out[i + j] = scale * static_cast<float>(bytes[j]);
    }
}

}  // namespace
}  // namespace cpuft
