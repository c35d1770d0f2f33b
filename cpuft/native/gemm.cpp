#include "gemm.h"

#include <unistd.h>

#include <algorithm>

#include "formats.h"
#include "kernels/int8_format.h"
#include "weight_panel.h"

namespace cpuft {

namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t l1_data_cache() {
    constexpr int64_t kUsual = 32 << 10;
#ifdef _SC_LEVEL1_DCACHE_SIZE
    const int64_t size = sysconf(_SC_LEVEL1_DCACHE_SIZE);
    if (size > 0) return size;
#endif
    return kUsual;
}

// How many slabs of B an L1 cache holds beside a panel of A and a tile of C: so many tiles share one reading of A.
int64_t slabs_in_l1(const GemmKernel& kernel) {
    static const int64_t budget = l1_data_cache() * 3 / 4;
    return std::max<int64_t>(1, budget / kernel.b_bytes(kBlockDepth));
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
    char* panel = scratch.panel.reserve(kernel.b_bytes(kBlockDepth) * ceil_div(kColumnsPlain, kernel.nr));
    for (int64_t k0 = 0; k0 < depth; k0 += kBlockDepth, accumulate = true) {
        const int64_t k = std::min(kBlockDepth, depth - k0);
        (product.transposed ? fill_transposed : fill_plain)(kernel, product.w, product.reader, n0, n, k0, k, scratch,
                                                            panel);
        const int64_t group = kernel.nr * slabs_in_l1(kernel);
        for (int64_t first = 0; first < n; first += group) {
            for (int64_t i = i0; i < i1; ++i) {
                const int rows = static_cast<int>(std::min<int64_t>(kernel.mr, m - i * kernel.mr));
                float* c = product.c + i * kernel.mr * product.n + n0;
                for (int64_t j0 = first; j0 < std::min(n, first + group); j0 += kernel.nr) {
                    const int columns = static_cast<int>(std::min<int64_t>(kernel.nr, n - j0));
                    kernel.tile(k, product.a.at(i, k0), panel + j0 / kernel.nr * kernel.b_bytes(k), c + j0, product.n,
                                rows, columns, accumulate);
                }
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
                      int64_t column_stride, int64_t m, int64_t k, const float* depth_scale) {
    kernel_ = &kernel;
    m_ = m;
    k_ = k;
    panel_bytes_ = kernel.a_bytes(k);
    const int64_t n_panels = ceil_div(m, kernel.mr);
    char* data = data_.reserve(n_panels * panel_bytes_);
    compute.pool.parallel_for(n_panels, [&](int64_t i, int) {
        const int rows = static_cast<int>(std::min<int64_t>(kernel.mr, m - i * kernel.mr));
        kernel.pack_a(source + i * kernel.mr * row_stride, row_stride, column_stride, depth_scale, rows, k,
                      data + i * panel_bytes_);
    });
}

std::vector<float> row_scales(Compute& compute, const Matrix& w) {
    std::vector<float> scales(static_cast<size_t>(w.rows));
    const WeightReader reader = weight_reader(compute.kernels, w.type);
    const Int8Reader* direct = int8_reader(compute.weight_gemm, w.type);
    compute.for_rows(w.rows, [&](int64_t row, int thread) {
        if (direct != nullptr) {
            scales[static_cast<size_t>(row)] = int8_scale(direct->bound(w.row(row), w.cols));
            return;
        }
        float* values = compute.scratch[static_cast<size_t>(thread)].values.reserve(w.cols);
        dequantize_segment(reader, w.type, w.row(row), 0, w.cols, values);
        scales[static_cast<size_t>(row)] = int8_scale(compute.kernels.rows.largest_magnitude(values, w.cols));
    });
    return scales;
}

void multiply_transposed(Compute& compute, const PackedRows& a, const Matrix& w, const float* bias, bool accumulate,
                         float* c) {
    run(compute, {a, w, weight_reader(compute.kernels, w.type), true, bias, accumulate, c, w.rows});
}

void multiply(Compute& compute, const PackedRows& a, const Matrix& w, bool accumulate, float* c) {
    run(compute, {a, w, weight_reader(compute.kernels, w.type), false, nullptr, accumulate, c, w.cols});
}

}  // namespace cpuft
