// From weights as stored in the file to packed panels of B: what a product makes of W, block of depth by block of depth.
#pragma once

#include <cstdint>

#include "compute.h"
#include "matrix.h"

namespace cpuft {

// Columns of a task. For A W they are values within rows of W, so again a multiple of 256.
constexpr int64_t kColumnsTransposed = 128;
constexpr int64_t kColumnsPlain = 256;

// B = W^T: columns [n0, n0 + n) are rows of W, depth [k0, k0 + k) runs along them, k <= kBlockDepth.
void fill_transposed(const GemmKernel& kernel, const Matrix& w, WeightReader reader, int64_t n0, int64_t n, int64_t k0,
                     int64_t k, Compute::Scratch& scratch, const BlockRow& blocks);

// B = W: depth [k0, k0 + k) are rows of W, columns [n0, n0 + n) run along them; n <= kColumnsPlain. An int8 kernel reads
// w.row_scale, too.
void fill_plain(const GemmKernel& kernel, const Matrix& w, WeightReader reader, int64_t n0, int64_t n, int64_t k0,
                int64_t k, Compute::Scratch& scratch, const BlockRow& blocks);

}  // namespace cpuft
