#include "gemm.h"

#include <algorithm>

#include "formats.h"

namespace cpuft {

namespace {

// Depth of a panel. A multiple of 256, ggml's largest block of weights. A slab of 256 x 32 takes 16 KiB in bf16, half of
// an L1 cache, and a task's 512 rows of A 256 KiB, a quarter of an L2.
constexpr int64_t kDepth = 256;
// Columns of a task. For A W they are values within rows of W, so again a multiple of 256.
constexpr int64_t kColumnsTransposed = 128;
constexpr int64_t kColumnsPlain = 256;
// Rows of W that are dequantized at a time for A W: 32 x 256 floats are 32 KiB.
constexpr int64_t kStrip = 32;
// Added to the row stride of dequantized weights: rows a power of two apart would share a few sets of the L1 cache.
constexpr int64_t kStridePadding = 16;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

const void* row_of(const Matrix& w, int64_t row) {
    return static_cast<const char*>(w.data) + row * static_cast<int64_t>(ggml_row_size(w.type, w.cols));
}

int64_t slab_bytes(const GemmKernel& kernel, int64_t depth) {
    return ceil_div(depth, kernel.kr) * kernel.kr * kernel.nr * static_cast<int64_t>(kernel.element_size);
}

// Packs B = W^T: columns [n0, n0 + n) are rows of W, depth [k0, k0 + k) runs along them.
void fill_transposed(const GemmKernel& kernel, const Matrix& w, WeightReader reader, int64_t n0, int64_t n, int64_t k0,
                     int64_t k, Compute::Scratch& scratch, char* panel) {
    for (int64_t j0 = 0; j0 < n; j0 += kernel.nr, panel += slab_bytes(kernel, k)) {
        const int columns = static_cast<int>(std::min<int64_t>(kernel.nr, n - j0));
        if (w.type == GGML_TYPE_F32) {
            kernel.pack_b_transposed(static_cast<const float*>(w.data) + (n0 + j0) * w.cols + k0, w.cols, k, columns,
                                     panel);
            continue;
        }
        const int64_t stride = kDepth + kStridePadding;
        float* values = scratch.values.reserve(kernel.nr * stride);
        for (int j = 0; j < columns; ++j)
            dequantize_segment(reader, w.type, row_of(w, n0 + j0 + j), k0, k, values + j * stride);
        kernel.pack_b_transposed(values, stride, k, columns, panel);
    }
}

// Packs B = W: depth [k0, k0 + k) are rows of W, columns [n0, n0 + n) run along them.
void fill_plain(const GemmKernel& kernel, const Matrix& w, WeightReader reader, int64_t n0, int64_t n, int64_t k0,
                int64_t k, Compute::Scratch& scratch, char* panel) {
    for (int64_t p0 = 0; p0 < k; p0 += kStrip) {
        const int64_t depth = std::min(kStrip, k - p0);
        const float* strip;
        int64_t stride;
        if (w.type == GGML_TYPE_F32) {
            strip = static_cast<const float*>(w.data) + (k0 + p0) * w.cols + n0;
            stride = w.cols;
        } else {
            stride = kColumnsPlain;
            float* values = scratch.values.reserve(kStrip * stride);
            for (int64_t p = 0; p < depth; ++p)
                dequantize_segment(reader, w.type, row_of(w, k0 + p0 + p), n0, n, values + p * stride);
            strip = values;
        }
        const int64_t offset = p0 * kernel.nr * static_cast<int64_t>(kernel.element_size);
        for (int64_t j0 = 0; j0 < n; j0 += kernel.nr) {
            const int columns = static_cast<int>(std::min<int64_t>(kernel.nr, n - j0));
            kernel.pack_b(strip + j0, stride, depth, columns, panel + j0 / kernel.nr * slab_bytes(kernel, k) + offset);
        }
    }
}

struct Product {
    const PackedRows& a;
    const Matrix& w;
    WeightReader reader;
    bool transposed;
    const float* bias;
    bool accumulate;
    float* c;
    int64_t n;
};

// Rows of panels [i0, i1) x columns [n0, n0 + n) of C.
void run_block(const Product& product, int64_t i0, int64_t i1, int64_t n0, int64_t n, Compute::Scratch& scratch) {
    const GemmKernel& kernel = product.a.kernel();
    const int64_t m = product.a.m(), depth = product.a.k();
    bool accumulate = product.accumulate;
    if (product.bias != nullptr) {
        for (int64_t row = i0 * kernel.mr; row < std::min(m, i1 * kernel.mr); ++row) {
            std::copy_n(product.bias + n0, n, product.c + row * product.n + n0);
        }
        accumulate = true;
    }
    char* panel = scratch.panel.reserve(slab_bytes(kernel, kDepth) * ceil_div(kColumnsPlain, kernel.nr));
    for (int64_t k0 = 0; k0 < depth; k0 += kDepth, accumulate = true) {
        const int64_t k = std::min(kDepth, depth - k0);
        (product.transposed ? fill_transposed : fill_plain)(kernel, product.w, product.reader, n0, n, k0, k, scratch,
                                                            panel);
        for (int64_t j0 = 0; j0 < n; j0 += kernel.nr) {
            const char* slab = panel + j0 / kernel.nr * slab_bytes(kernel, k);
            const int columns = static_cast<int>(std::min<int64_t>(kernel.nr, n - j0));
            for (int64_t i = i0; i < i1; ++i) {
                const int rows = static_cast<int>(std::min<int64_t>(kernel.mr, m - i * kernel.mr));
                kernel.tile(k, product.a.at(i, k0), slab, product.c + i * kernel.mr * product.n + n0 + j0, product.n,
                            rows, columns, accumulate);
            }
        }
    }
}

void run(Compute& compute, const Product& product) {
    const int64_t columns = product.transposed ? kColumnsTransposed : kColumnsPlain;
    const int64_t n_blocks = ceil_div(product.n, columns);
    const int64_t n_panels = ceil_div(product.a.m(), product.a.kernel().mr);
    // Splitting rows makes every part fill the same panels of B again, so it is done only where threads would idle.
    const int64_t wanted = 2 * compute.pool.size();
    const int64_t parts = compute.pool.size() == 1 ? 1 : std::min(n_panels, ceil_div(wanted, n_blocks));
    const int64_t part = ceil_div(n_panels, parts);
    compute.pool.parallel_for(n_blocks * parts, [&](int64_t task, int thread) {
        const int64_t n0 = task / parts * columns, i0 = task % parts * part;
        const int64_t i1 = std::min(n_panels, i0 + part);
        if (i0 >= i1) return;
        run_block(product, i0, i1, n0, std::min(columns, product.n - n0), compute.scratch[static_cast<size_t>(thread)]);
    });
}

}  // namespace

void PackedRows::pack(Compute& compute, const GemmKernel& kernel, const float* source, int64_t row_stride,
                      int64_t column_stride, int64_t m, int64_t k) {
    kernel_ = &kernel;
    m_ = m;
    k_ = k;
    panel_values_ = ceil_div(k, kernel.kr) * kernel.kr * kernel.mr;
    const int64_t n_panels = ceil_div(m, kernel.mr);
    char* data = data_.reserve(n_panels * panel_values_ * static_cast<int64_t>(kernel.element_size));
    compute.pool.parallel_for(n_panels, [&](int64_t i, int) {
        const int rows = static_cast<int>(std::min<int64_t>(kernel.mr, m - i * kernel.mr));
        kernel.pack_a(source + i * kernel.mr * row_stride, row_stride, column_stride, rows, k,
                      data + i * panel_values_ * static_cast<int64_t>(kernel.element_size));
    });
}

void multiply_transposed(Compute& compute, const PackedRows& a, const Matrix& w, const float* bias, bool accumulate,
                         float* c) {
    run(compute, {a, w, weight_reader(compute.kernels, w.type), true, bias, accumulate, c, w.rows});
}

void multiply(Compute& compute, const PackedRows& a, const Matrix& w, bool accumulate, float* c) {
    run(compute, {a, w, weight_reader(compute.kernels, w.type), false, nullptr, accumulate, c, w.cols});
}

}  // namespace cpuft
