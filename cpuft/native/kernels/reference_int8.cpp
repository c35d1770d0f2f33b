// The reference int8 kernel: the definition at GemmKernel, value by value.
#include "reference_int8.h"

#include <algorithm>
#include <cmath>

#include "int8_format.h"

namespace cpuft {

namespace {

constexpr int kMr = 4;
constexpr int kNr = 8;
constexpr int kAHeader = 16, kBHeader = 4;

// Where the value at (depth p, row or column i) of a block stands behind its header.
int64_t place(int64_t p, int64_t i, int width) { return (p / 4 * width + i) * 4 + p % 4; }

// The scale of n values `stride` apart.
template <class Value>
float scale_of(int64_t n, Value value) {
    float largest = 0.0f;
    for (int64_t p = 0; p < n; ++p) {
        if (!std::isfinite(value(p))) return NAN;
        largest = std::max(largest, std::fabs(value(p)));
    }
    return int8_scale(largest);
}

void pack_a(const float* source, int64_t row_stride, int64_t column_stride, const float* depth_scale, int m, int64_t k,
            void* panel) {
    char* block = static_cast<char*>(panel);
    for (int64_t k0 = 0; k0 < k; k0 += kBlockDepth) {
        const int64_t depth = std::min(kBlockDepth, k - k0), padded = (depth + 3) / 4 * 4;
        float* scales = reinterpret_cast<float*>(block);
        int32_t* corrections = reinterpret_cast<int32_t*>(scales + kMr);
        float* aparts = scales + 2 * kMr;
        int32_t* places = corrections + 2 * kMr;
        int8_t* out = reinterpret_cast<int8_t*>(places + kMr);
        for (int64_t i = 0; i < kMr; ++i) {
            const auto value = [&](int64_t p) {
                if (i >= m || p >= depth) return 0.0f;
                const float x = source[i * row_stride + (k0 + p) * column_stride];
                return depth_scale == nullptr ? x : x * depth_scale[k0 + p];
            };
            int32_t largest = 0;
            for (int32_t p = 1; p < depth; ++p)
                if (apart_key(value(p), p) > apart_key(value(largest), largest)) largest = p;
            const auto rest = [&](int64_t p) { return p == largest ? 0.0f : value(p); };
            aparts[i] = value(largest);
            places[i] = largest;
            scales[i] = scale_of(depth, rest);
            corrections[i] = 0;
            for (int64_t p = 0; p < padded; ++p) {
                const int8_t q = int8_value(rest(p), int8_inverse(scales[i]));
                out[place(p, i, kMr)] = q;
                corrections[i] -= 128 * q;
            }
        }
        block += kMr * (kAHeader + padded);
    }
}

void pack_b(const float* source, int64_t stride, const float* row_scale, int64_t k0, int64_t k, int n, void* block) {
    float* scales = static_cast<float*>(block);
    std::fill_n(scales, kNr, 1.0f);
    uint8_t* out = reinterpret_cast<uint8_t*>(scales + kNr) + k0 * kNr;
    for (int64_t p = 0; p < (k + 3) / 4 * 4; ++p) {
        for (int64_t j = 0; j < kNr; ++j) {
            const bool inside = p < k && j < n;
            const int8_t q = inside ? int8_value(source[p * stride + j], int8_inverse(row_scale[p])) : int8_t{0};
            out[place(p, j, kNr)] = static_cast<uint8_t>(q + 128);
        }
    }
}

void pack_b_transposed(const float* source, int64_t stride, int64_t k, int n, void* block) {
    float* scales = static_cast<float*>(block);
    uint8_t* out = reinterpret_cast<uint8_t*>(scales + kNr);
    for (int64_t j = 0; j < kNr; ++j) {
        const auto value = [&](int64_t p) { return j < n && p < k ? source[j * stride + p] : 0.0f; };
        scales[j] = scale_of(k, value);
        for (int64_t p = 0; p < (k + 3) / 4 * 4; ++p) {
            out[place(p, j, kNr)] = static_cast<uint8_t>(int8_value(value(p), int8_inverse(scales[j])) + 128);
        }
    }
}

void add_block(int64_t k, const char* a, const char* b, float* c, int64_t c_stride, int m, int n, bool accumulate) {
    const float* a_scales = reinterpret_cast<const float*>(a);
    const int32_t* corrections = reinterpret_cast<const int32_t*>(a_scales + kMr);
    const float* aparts = a_scales + 2 * kMr;
    const int32_t* places = corrections + 2 * kMr;
    const int8_t* pa = reinterpret_cast<const int8_t*>(places + kMr);
    const float* b_scales = reinterpret_cast<const float*>(b);
    const uint8_t* pb = reinterpret_cast<const uint8_t*>(b_scales + kNr);
    for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) {
            int32_t sum = corrections[i];
            for (int64_t p = 0; p < (k + 3) / 4 * 4; ++p) sum += pa[place(p, i, kMr)] * pb[place(p, j, kNr)];
            const auto weight_apart = static_cast<float>(pb[place(places[i], j, kNr)] - 128);
            const float product = (static_cast<float>(sum) * a_scales[i] + aparts[i] * weight_apart) * b_scales[j];
            float& target = c[i * c_stride + j];
            target = accumulate ? target + product : product;
        }
    }
}

void tile(int64_t k, const void* a, const void* b, float* c, int64_t c_stride, int m, int n, bool accumulate) {
    for (int64_t k0 = 0; k0 < k; k0 += kBlockDepth, accumulate = true) {
        add_block(std::min(kBlockDepth, k - k0), static_cast<const char*>(a) + kReferenceInt8.a_bytes(k0),
                  static_cast<const char*>(b) + kReferenceInt8.b_bytes(k0), c, c_stride, m, n, accumulate);
    }
}

}  // namespace

const GemmKernel kReferenceInt8 = {"reference-int8",  kMr,  kNr,    4, 1, kAHeader, kBHeader, pack_a, pack_b,
                                   pack_b_transposed, tile, nullptr};

}  // namespace cpuft
