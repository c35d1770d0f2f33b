// Matrix products of activations (float32, packed once) with a matrix in any ggml type, which is turned into the compute
// format panel by panel, in cache, and never exists whole.
//
// The loops, from outside in (after Goto & van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication"):
//   tasks   blocks of C: kColumns columns (x a part of the rows where columns alone would leave threads idle)
//   k       blocks of kBlockDepth: the panel of B is made here, once for all rows of the task
//   slabs   groups of nr columns of the panel, held in L1
//   tiles   mr rows of A by the nr columns of each slab of the group: the micro-kernel
// Each value of C is summed by one thread in this order, whatever the number of threads.
#pragma once

#include <cstdint>
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

    const GemmKernel& kernel() const { return *kernel_; }
    int64_t m() const { return m_; }
    int64_t k() const { return k_; }
    // Panel `i` (rows i * mr ...) from depth `k0`, a multiple of kBlockDepth.
    const void* at(int64_t i, int64_t k0) const { return data_.data() + i * panel_bytes_ + kernel_->a_bytes(k0); }

  private:
    Buffer<char> data_;
    const GemmKernel* kernel_ = nullptr;
    int64_t m_ = 0, k_ = 0, panel_bytes_ = 0;
};

// C (M x N) = A W^T + bias, W is N x K. With accumulate, C += A W^T instead (no bias).
void multiply_transposed(Compute& compute, const PackedRows& a, const Matrix& w, const float* bias, bool accumulate,
                         float* c);

// C (M x N) (+)= A W, W is K x N. For int8, A was packed with w.row_scale as its depth_scale.
void multiply(Compute& compute, const PackedRows& a, const Matrix& w, bool accumulate, float* c);

// [rows] The int8 scale of each row of W, its largest magnitude or a bound of that over 127: what multiply needs beside W
// for int8.
std::vector<float> row_scales(Compute& compute, const Matrix& w);

}  // namespace cpuft
