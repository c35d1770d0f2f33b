// The kernel tables: what one kind of CPU does in its inner loops. One table a kind, chosen once when a model is opened.
// reference.cpp holds the slow twin of every kernel; the tests run both over all remainders.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cpuft {

// A matrix product's micro-kernel and its packed formats, for one compute type (float32, or bfloat16 pairs).
//
// A is packed in panels of `mr` rows:    [ceil(k / kr)][mr][kr], rows past the end and values past k are zero.
// B is packed in panels of `nr` columns: [ceil(k / kr)][nr][kr], the same.
struct GemmKernel {
    const char* name;
    int mr, nr;           // register tile: mr x nr accumulators
    int kr;               // values along k that one instruction multiplies and adds: 1 for f32, 2 for bf16
    size_t element_size;  // bytes of one packed value

    // One panel of A, m <= mr rows: A[i, p] = source[i * row_stride + p * column_stride].
    void (*pack_a)(const float* source, int64_t row_stride, int64_t column_stride, int m, int64_t k, void* panel);
    // One panel of B, n <= nr columns, from B[p, j] = source[p * stride + j] ...
    void (*pack_b)(const float* source, int64_t stride, int64_t k, int n, void* panel);
    // ... or from its transpose, B[p, j] = source[j * stride + p].
    void (*pack_b_transposed)(const float* source, int64_t stride, int64_t k, int n, void* panel);
    // C[i, j] (+)= sum over p of A[i, p] B[p, j] for i < m <= mr, j < n <= nr. C may hold anything where it is not added to.
    void (*tile)(int64_t k, const void* a, const void* b, float* c, int64_t c_stride, int m, int n, bool accumulate);
};

// Loops over one row of n values. Sums run in an order fixed by n alone.
struct RowKernels {
    float (*dot)(const float* x, const float* y, int64_t n);
    float (*maximum)(const float* x, int64_t n);
    // x[i] = exp(x[i] - shift); returns the sum of the results.
    float (*exp_sum)(float* x, float shift, int64_t n);
    // y[i] += factor * x[i]
    void (*axpy)(float factor, const float* x, float* y, int64_t n);
    // x[i] *= factor
    void (*scale)(float factor, float* x, int64_t n);
    // y[i] = factor * x[i] * weight[i]
    void (*multiply)(float factor, const float* x, const float* weight, float* y, int64_t n);
    // out[i] = silu(gate[i]) * up[i], silu(z) = z / (1 + exp(-z))
    void (*silu_multiply)(const float* gate, const float* up, float* out, int64_t n);
    // dgate and dup from dout; either may be the array that holds dout.
    void (*silu_multiply_backward)(const float* gate, const float* up, const float* dout, float* dgate, float* dup,
                                   int64_t n);
    // To bfloat16, rounded to nearest, ties to even (NaN stays NaN), and back.
    void (*narrow)(const float* x, uint16_t* out, int64_t n);
    void (*widen)(const uint16_t* x, float* out, int64_t n);
    // out[i] = x[i] * factor where the mask of (key, i) keeps the value, else 0. threshold: keep when a 32-bit hash is >= it.
    void (*dropout)(const float* x, uint64_t key, uint32_t threshold, float factor, float* out, int64_t n);
};

// Values [0, n) of a row of weights to float32; n is a multiple of the format's block size. The type of ggml's own readers.
using WeightReader = void (*)(const void* source, float* out, int64_t n);

struct KernelTable {
    const char* name;
    GemmKernel f32;
    const GemmKernel* bf16;  // null where the CPU has no native bfloat16 product
    RowKernels rows;
    // The reader of a ggml type, or null where ggml's own serves.
    WeightReader (*weight_reader)(int type);
};

extern const KernelTable kReferenceKernels;
#if defined(__x86_64__)
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvx512Kernels;
extern const KernelTable kAvx512Bf16Kernels;
#endif

// isa: a table's name, or null for the best that this CPU runs. Throws InputError for an unknown or unsupported name.
const KernelTable& select_kernels(const char* isa);

}  // namespace cpuft
