// Matrix: a read-only view of rows x cols values in any ggml type, wherever they lie.
#pragma once

#include <cstdint>

#include "ggml.h"

namespace cpuft {

struct Matrix {
    ggml_type type = GGML_TYPE_F32;
    const void* data = nullptr;  // rows one after the other, each ggml_row_size(type, cols) bytes
    int64_t rows = 0, cols = 0;
    const float* row_scale = nullptr;  // [rows] or null: made by row_scales of gemm.h where products are int8

    bool empty() const { return data == nullptr; }
    const void* row(int64_t r) const {
        return static_cast<const char*>(data) + r * static_cast<int64_t>(ggml_row_size(type, cols));
    }
    // Rows [first, first + n), without their scales.
    Matrix slice(int64_t first, int64_t n) const { return {type, row(first), n, cols}; }
};

inline Matrix float_matrix(const float* data, int64_t rows, int64_t cols) { return {GGML_TYPE_F32, data, rows, cols}; }

}  // namespace cpuft
