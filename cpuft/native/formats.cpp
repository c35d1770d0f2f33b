#include "formats.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "error.h"
#include "thread_pool.h"

namespace cpuft {

namespace {

// Most types hold a half, a value or a block's scale, which ends at 65504 and is about as large as the largest value.
constexpr float kSafeForHalf = 4096;

// Checks what ggml would assert, and returns the bytes of one row.
int64_t checked_row_bytes(int type, int64_t rows, int64_t cols, int64_t bytes) {
    if (type < 0 || type >= GGML_TYPE_COUNT || !is_weight_type(static_cast<ggml_type>(type)))
        refuse("%d is no weight type of ggml", type);
    const ggml_type weight_type = static_cast<ggml_type>(type);
    if (rows <= 0 || cols <= 0 || rows > INT64_MAX / 8 / cols)
        refuse("a matrix of %lld x %lld values is out of range", (long long)rows, (long long)cols);
    if (cols % ggml_blck_size(weight_type) != 0) {
        refuse("%s stores blocks of %lld values, and rows of %lld are no multiple of that", ggml_type_name(weight_type),
               (long long)ggml_blck_size(weight_type), (long long)cols);
    }
    const int64_t row_bytes = static_cast<int64_t>(ggml_row_size(weight_type, cols));
    if (bytes != rows * row_bytes) {
        refuse("%lld x %lld values of %s take %lld bytes, not %lld", (long long)rows, (long long)cols,
               ggml_type_name(weight_type), (long long)(rows * row_bytes), (long long)bytes);
    }
    return row_bytes;
}

constexpr int64_t kRowsPerTask = 16;

}  // namespace

bool is_weight_type(ggml_type type) {
    return type == GGML_TYPE_F32 ||
           (ggml_get_type_traits(type)->to_float != nullptr && type != GGML_TYPE_Q8_1 && type != GGML_TYPE_Q8_K);
}

namespace {

void copy_floats(const void* source, float* out, int64_t n) {
    std::memcpy(out, source, static_cast<size_t>(n) * sizeof(float));
}

WeightReader ggml_reader(ggml_type type) {
    return type == GGML_TYPE_F32 ? copy_floats : ggml_get_type_traits(type)->to_float;
}

}  // namespace

WeightReader weight_reader(const KernelTable& kernels, ggml_type type) {
    const WeightReader fast = kernels.weight_reader(type);
    return fast != nullptr ? fast : ggml_reader(type);
}

const Int8Reader* int8_reader(const GemmKernel& kernel, ggml_type type) {
    return kernel.direct == nullptr ? nullptr : kernel.direct->reader(type);
}

void dequantize_segment(WeightReader reader, ggml_type type, const void* row, int64_t first, int64_t n, float* out) {
    reader(static_cast<const char*>(row) + ggml_row_size(type, first), out, n);
}

void dequantize_segment(ggml_type type, const void* row, int64_t first, int64_t n, float* out) {
    dequantize_segment(ggml_reader(type), type, row, first, n, out);
}

void dequantize(int type, const void* source, int64_t source_bytes, int64_t rows, int64_t cols, float* target,
                int n_threads) {
    const int64_t row_bytes = checked_row_bytes(type, rows, cols, source_bytes);
    ThreadPool pool(n_threads);
    pool.parallel_for((rows + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task, int) {
        for (int64_t row = task * kRowsPerTask; row < std::min(rows, (task + 1) * kRowsPerTask); ++row) {
            dequantize_segment(static_cast<ggml_type>(type), static_cast<const char*>(source) + row * row_bytes, 0,
                               cols, target + row * cols);
        }
    });
}

void quantize(int type, const float* source, int64_t rows, int64_t cols, const float* importance, void* target,
              int64_t target_bytes, int n_threads) {
    const int64_t row_bytes = checked_row_bytes(type, rows, cols, target_bytes);
    const ggml_type weight_type = static_cast<ggml_type>(type);
    if (weight_type == GGML_TYPE_F32) {
        std::memcpy(target, source, static_cast<size_t>(target_bytes));
        return;
    }
    if (importance == nullptr && ggml_quantize_requires_imatrix(weight_type)) {
        refuse("%s needs an importance matrix", ggml_type_name(weight_type));
    }
    float largest = 0;
    for (int64_t i = 0; i < rows * cols; ++i) {
        if (!std::isfinite(source[i])) refuse("value %lld of the matrix is not finite", (long long)i);
        largest = std::max(largest, std::fabs(source[i]));
    }
    ggml_quantize_init(weight_type);
    ThreadPool pool(n_threads);
    pool.parallel_for((rows + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task, int) {
        const int64_t first = task * kRowsPerTask, n = std::min(rows - first, kRowsPerTask);
        ggml_quantize_chunk(weight_type, source, target, first * cols, n, cols, importance);
    });
    if (largest <= kSafeForHalf) return;
    std::vector<float> row(static_cast<size_t>(cols));
    for (int64_t i = 0; i < rows; ++i) {
        dequantize_segment(weight_type, static_cast<const char*>(target) + i * row_bytes, 0, cols, row.data());
        if (!std::all_of(row.begin(), row.end(), [](float value) { return std::isfinite(value); }))
            refuse("a value of %g in the matrix is too large for %s", largest, ggml_type_name(weight_type));
    }
}

}  // namespace cpuft
