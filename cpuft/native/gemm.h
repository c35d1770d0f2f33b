// Matrix products of activations (float32, packed once) with a matrix in any ggml type, which is turned into the compute
// format panel by panel, in cache, and never exists whole.
//
// The loops, from outside in (after Goto & van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication"):
//   tasks   blocks of C, as equal as its tiles allow, so that threads end together
//   k       panels of B, as deep as an L2 cache allows: made here, once for all rows of the task
//   rows    panels of mr rows of A, which come to the L1 cache
//   tiles   these rows by each nr columns of the panel, over its whole depth: the micro-kernel
// Each value of C is summed by one thread in this order, whatever the number of threads.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "compute.h"
#include "matrix.h"

namespace cpuft {

// The left operand, M x K, packed for one kernel. Packing costs one pass over it and serves any number of products.
class PackedRows {
  public:
    // A[i, p] = source[i * row_stride + p * column_stride] * depth_scale[p]; depth_scale is null, or [k] for int8.
    void pack(Compute& compute, const GemmKernel& kernel, const float* source, int64_t row_stride,
              int64_t column_stride, int64_t m, int64_t k, const float* depth_scale = nullptr);
    void pack_rows(Compute& compute, const GemmKernel& kernel, const float* source, int64_t m, int64_t k,
                   const float* depth_scale = nullptr) {
        pack(compute, kernel, source, k, 1, m, k, depth_scale);
    }

    // The same in pieces: room for M x K, then each block of depth, by any thread: A[i, k0 + p] = source[i * row_stride + p]
    // * depth_scale[p], k0 a multiple of kBlockDepth.
    void reserve(const GemmKernel& kernel, int64_t m, int64_t k);
    // In memory that somebody else owns: bytes(kernel, m, k), at a cache line.
    void borrow(char* memory, const GemmKernel& kernel, int64_t m, int64_t k);
    static int64_t bytes(const GemmKernel& kernel, int64_t m, int64_t k) {
        return (m + kernel.mr - 1) / kernel.mr * kernel.a_bytes(k);
    }
    // Where the rows lie that are not in borrowed memory.
    Buffer<char>& memory() { return own_; }
    void pack_block(const float* source, int64_t row_stride, int64_t k0, const float* depth_scale);
    // A[i, p] *= factors[p / kBlockDepth * M + i]
    void scale_blocks(Compute& compute, const float* factors);

    const GemmKernel& kernel() const { return *kernel_; }
    int64_t m() const { return m_; }
    int64_t k() const { return k_; }
    // Panel `i` (rows i * mr ...) from depth `k0`, a multiple of kBlockDepth.
    const void* at(int64_t i, int64_t k0) const { return data_ + i * panel_bytes_ + kernel_->a_bytes(k0); }

  private:
    void* at(int64_t i, int64_t k0) { return data_ + i * panel_bytes_ + kernel_->a_bytes(k0); }
    int64_t n_panels() const { return (m_ + kernel_->mr - 1) / kernel_->mr; }
    int rows_of(int64_t i) const {
        return static_cast<int>(m_ - i * kernel_->mr < kernel_->mr ? m_ - i * kernel_->mr : kernel_->mr);
    }

    Buffer<char> own_;
    char* data_ = nullptr;
    const GemmKernel* kernel_ = nullptr;
    int64_t m_ = 0, k_ = 0, panel_bytes_ = 0;
};

// One product of a sum: terms share the shape of A W^T (or A W), their depths and kernels may differ.
struct Term {
    const PackedRows& a;
    Matrix w;
};

// C (M x N) (+)= sum of A W^T over the terms + bias, W is N x K; bias may be null.
void multiply_transposed(Compute& compute, std::initializer_list<Term> terms, const float* bias, bool accumulate,
                         float* c);

// Block `block` of A W^T, columns [n0, n0 + n) with n0 = block * kBlockDepth, n <= kBlockDepth, in the thread's scratch memory.
struct Columns {
    int64_t n0, n;
    float* c;  // [M, n], rows kColumnStride apart, to be changed at will
};
constexpr int64_t kColumnStride = kBlockDepth + 16;  // a power of two would map a column to few sets of the L1 cache
Columns multiply_transposed_columns(Compute& compute, const PackedRows& a, const Matrix& w, int64_t block, int thread);

// C (M x N) (+)= sum of A W over the terms, W is K x N. For int8, A was packed with w.row_scale as its depth_scale.
void multiply(Compute& compute, std::initializer_list<Term> terms, bool accumulate, float* c);

// C (M x N) = A W^T or A W with few columns N: A (M x K, float32 rows) is packed a little at a time, in cache, since it
// would be read just once. kernel: any but int8, whose scales differ by direction.
void multiply_narrow(Compute& compute, const GemmKernel& kernel, const float* a, int64_t m, int64_t k, const Matrix& w,
                     bool transposed, float* c);

// What products take of a thread's scratch memory: bytes of a panel of weights, floats of weights on their way into it; and
// bytes of the shared panel in multiply_narrow, for n columns of depth k.
int64_t scratch_panel_bytes(const GemmKernel& kernel);
int64_t scratch_values(const GemmKernel& kernel);
int64_t narrow_panel_bytes(const GemmKernel& kernel, int64_t k, int64_t n);

// [rows] The int8 scale of each row of W, its largest magnitude or a bound of that over 127: what multiply needs beside W
// for int8.
std::vector<float> row_scales(Compute& compute, const Matrix& w);

}  // namespace cpuft
