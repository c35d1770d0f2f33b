#include "moments.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "dynamic_map.h"
#include "error.h"

namespace cpuft {

namespace {

// values[i] = scale * map(codes[i])
void dequantize_block(const DynamicMap& map, const uint8_t* codes, int64_t n, float scale, float* values) {
    for (int64_t i = 0; i < n; ++i) values[i] = scale * map.value(codes[i]);
}

// Returns the scale. A second moment may overflow to infinity; the scale stays finite, or it would spoil its block.
float quantize_block(const DynamicMap& map, const float* values, int64_t n, uint8_t* codes) {
    float largest = 0.0f;
    for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(values[i]));
    const float scale = std::min(largest, std::numeric_limits<float>::max());
    const float divisor = scale > 0.0f ? scale : 1.0f;  // a reciprocal of a small scale could overflow
    for (int64_t i = 0; i < n; ++i) codes[i] = map.nearest(values[i] / divisor);
    return scale;
}

// Whether a step of AdamW can leave this value: scales and second moments are not negative, and only a second moment in
// float32 can overflow.
bool is_possible(float value, bool is_scale, bool is_second) {
    if (is_scale) return std::isfinite(value) && value >= 0.0f;
    return is_second ? value >= 0.0f : std::isfinite(value);
}

}  // namespace

int64_t Moments::bytes_of(cpuft_moments precision, const std::vector<int64_t>& tensor_sizes) {
    const int64_t float_bytes = static_cast<int64_t>(sizeof(float));
    int64_t n = 0, n_blocks = 0;
    for (const int64_t size : tensor_sizes) {
        n += size;
        n_blocks += (size + kBlock - 1) / kBlock;
    }
    return precision == CPUFT_MOMENTS_F32 ? 2 * n * float_bytes : 2 * n_blocks * float_bytes + 2 * n;
}

Moments::Moments(cpuft_moments precision, const std::vector<int64_t>& tensor_sizes) : precision_(precision) {
    for (const int64_t size : tensor_sizes) {
        for (int64_t start = 0; start < size; start += kRun)
            runs_.push_back({n_ + start, std::min(kRun, size - start), n_blocks_ + start / kBlock});
        n_ += size;
        n_blocks_ += (size + kBlock - 1) / kBlock;
    }
    n_bytes_ = bytes_of(precision, tensor_sizes);
    std::memset(state_.reserve(n_bytes_), 0, static_cast<size_t>(n_bytes_));  // a scale of 0 makes any code 0
}

void Moments::restore(const uint8_t* bytes, int64_t n_bytes) {
    if (n_bytes != n_bytes_) {
        refuse("the optimizer state has %lld bytes; expected %lld for this adapter and precision of moments",
               (long long)n_bytes, (long long)n_bytes_);
    }
    const bool has_scales = precision_ == CPUFT_MOMENTS_8BIT;
    const int64_t n_floats =
        has_scales ? n_blocks_ : n_;  // of each moment; behind scales are codes, all of them possible
    for (int64_t i = 0; i < 2 * n_floats; ++i) {
        float value;
        std::memcpy(&value, bytes + i * static_cast<int64_t>(sizeof(float)), sizeof(float));
        if (!is_possible(value, has_scales, i >= n_floats))
            refuse("the optimizer state holds %g, which no step of AdamW leaves", static_cast<double>(value));
    }
    std::memcpy(state_.data(), bytes, static_cast<size_t>(n_bytes));
}

void Moments::dequantize(int64_t block, int64_t offset, int64_t n, float* first, float* second) const {
    dequantize_block(DynamicMap::with_sign(), codes() + offset, n, floats()[block], first);
    dequantize_block(DynamicMap::without_sign(), codes() + n_ + offset, n, floats()[n_blocks_ + block], second);
}

void Moments::quantize(int64_t block, int64_t offset, int64_t n, const float* first, const float* second) {
    floats()[block] = quantize_block(DynamicMap::with_sign(), first, n, codes() + offset);
    floats()[n_blocks_ + block] = quantize_block(DynamicMap::without_sign(), second, n, codes() + n_ + offset);
}

}  // namespace cpuft
