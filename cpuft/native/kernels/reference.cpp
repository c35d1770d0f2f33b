// The reference kernels: the plainest loops, in double where that settles a doubt. Every fast kernel is tested against
// these; they also run on CPUs that have no table of their own.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "bf16.h"
#include "byte_rows.h"
#include "dropout_hash.h"
#include "kernels.h"
#include "reference_int8.h"

namespace cpuft {

namespace {

constexpr int kMr = 4;
constexpr int kNr = 8;
constexpr double kPi = 3.14159265358979323846;

void pack_a(const float* source, int64_t row_stride, int64_t column_stride, const float*, int m, int64_t k,
            void* panel) {
    float* out = static_cast<float*>(panel);
    for (int64_t p = 0; p < k; ++p) {
        for (int i = 0; i < kMr; ++i) *out++ = i < m ? source[i * row_stride + p * column_stride] : 0.0f;
    }
}

void pack_b(const float* source, int64_t stride, const float*, int64_t k0, int64_t k, int n, void* block) {
    float* out = static_cast<float*>(block) + k0 * kNr;
    for (int64_t p = 0; p < k; ++p) {
        for (int j = 0; j < kNr; ++j) *out++ = j < n ? source[p * stride + j] : 0.0f;
    }
}

void pack_b_transposed(const float* source, int64_t stride, int64_t k, int n, void* panel) {
    float* out = static_cast<float*>(panel);
    for (int64_t p = 0; p < k; ++p) {
        for (int j = 0; j < kNr; ++j) *out++ = j < n ? source[j * stride + p] : 0.0f;
    }
}

void tile(int64_t k, const void* a, const void* b, float* c, int64_t c_stride, int m, int n, bool accumulate) {
    const float* pa = static_cast<const float*>(a);
    const float* pb = static_cast<const float*>(b);
    for (int i = 0; i < m; ++i) {
        for (int j = 0; j < n; ++j) {
            double sum = 0.0;
            for (int64_t p = 0; p < k; ++p)
                sum += static_cast<double>(pa[p * kMr + i]) * static_cast<double>(pb[p * kNr + j]);
            float& target = c[i * c_stride + j];
            target = static_cast<float>(accumulate ? static_cast<double>(target) + sum : sum);
        }
    }
}

float dot(const float* x, const float* y, int64_t n) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(y[i]);
    return static_cast<float>(sum);
}

float maximum(const float* x, int64_t n) {
    float largest = -INFINITY;
    for (int64_t i = 0; i < n; ++i) largest = std::max(largest, x[i]);
    return largest;
}

float largest_magnitude(const float* x, int64_t n) {
    float largest = 0.0f;
    for (int64_t i = 0; i < n; ++i) {
        if (!std::isfinite(x[i])) return std::fabs(x[i]);
        largest = std::max(largest, std::fabs(x[i]));
    }
    return largest;
}

void larger_of(float factor, const float* x, float* maxima, int64_t n) {
    for (int64_t i = 0; i < n; ++i) maxima[i] = std::max(maxima[i], factor * x[i]);
}

void exp_add(float factor, const float* shifts, float* x, float* sums, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        x[i] = std::exp(factor * x[i] - shifts[i]);
        sums[i] += x[i];
    }
}

float exp_sum(float* x, float factor, float shift, int64_t n) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; ++i) {
        x[i] = std::exp(factor * x[i] - shift);
        sum += static_cast<double>(x[i]);
    }
    return static_cast<float>(sum);
}

void soft_cap(float factor, float cap, float* x, float* slope, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        const float t = std::tanh(factor * x[i] / cap);
        x[i] = cap * t;
        if (slope != nullptr) slope[i] = 1.0f - t * t;
    }
}

void softmax_backward(const float* p, float delta, float factor, float* dp, int64_t n) {
    for (int64_t i = 0; i < n; ++i) dp[i] = factor * p[i] * (dp[i] - delta);
}

void axpy(float factor, const float* x, float* y, int64_t n) {
    for (int64_t i = 0; i < n; ++i) y[i] += factor * x[i];
}

void scale(float factor, float* x, int64_t n) {
    for (int64_t i = 0; i < n; ++i) x[i] *= factor;
}

void multiply(float factor, const float* x, const float* weight, float* y, int64_t n) {
    for (int64_t i = 0; i < n; ++i) y[i] = factor * x[i] * weight[i];
}

void silu_multiply(const float* gate, const float* up, float* out, int64_t n) {
    for (int64_t i = 0; i < n; ++i) out[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

// silu'(z) = s (1 + z (1 - s)), s = sigmoid(z)
void silu_multiply_backward(const float* gate, const float* up, const float* dout, float* dgate, float* dup, float* out,
                            int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        const float z = gate[i], u = up[i], d = dout[i];
        const float s = 1.0f / (1.0f + std::exp(-z));
        dgate[i] = d * u * s * (1.0f + z * (1.0f - s));
        dup[i] = d * z * s;
        if (out != nullptr) out[i] = z / (1.0f + std::exp(-z)) * u;
    }
}

// In double: 1 + tanh cancels far below 0.
void gelu_multiply(const float* gate, const float* up, float* out, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        const auto z = static_cast<double>(gate[i]);
        const double t = std::tanh(std::sqrt(2.0 / kPi) * (z + 0.044715 * z * z * z));
        out[i] = static_cast<float>(0.5 * z * (1.0 + t) * static_cast<double>(up[i]));
    }
}

void gelu_multiply_backward(const float* gate, const float* up, const float* dout, float* dgate, float* dup, float* out,
                            int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        const auto z = static_cast<double>(gate[i]), u = static_cast<double>(up[i]), d = static_cast<double>(dout[i]);
        const double t = std::tanh(std::sqrt(2.0 / kPi) * (z + 0.044715 * z * z * z));
        const double slope = std::sqrt(2.0 / kPi) * (1.0 + 3.0 * 0.044715 * z * z);
        dgate[i] = static_cast<float>(d * u * 0.5 * (1.0 + t + z * (1.0 - t * t) * slope));
        dup[i] = static_cast<float>(d * 0.5 * z * (1.0 + t));
        if (out != nullptr) out[i] = static_cast<float>(0.5 * z * (1.0 + t) * u);
    }
}

void dropout(const float* x, uint64_t key, uint32_t threshold, float factor, float* out, int64_t n) {
    const DropoutStream stream = dropout_stream(key);
    for (int64_t i = 0; i < n; ++i) {
        out[i] = dropout_hash(stream, static_cast<uint32_t>(i)) >= threshold ? x[i] * factor : 0.0f;
    }
}

}  // namespace

const KernelTable kReferenceKernels = {
    "reference",
    {"reference-f32", kMr, kNr, 1, sizeof(float), 0, 0, pack_a, pack_b, pack_b_transposed, tile, nullptr},
    nullptr,
    &kReferenceInt8,
    {dot,
     maximum,
     largest_magnitude,
     larger_of,
     exp_add,
     exp_sum,
     soft_cap,
     softmax_backward,
     axpy,
     scale,
     multiply,
     silu_multiply,
     silu_multiply_backward,
     gelu_multiply,
     gelu_multiply_backward,
     narrow,
     widen,
     round_to_bf16,
     narrow_24,
     widen_24,
     round_to_24,
     to_bytes,
     from_bytes,
     round_to_bytes,
     dropout},
    [](int) -> WeightReader { return nullptr; },
};

}  // namespace cpuft
