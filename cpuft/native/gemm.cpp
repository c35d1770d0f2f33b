#include "gemm.h"

#include <algorithm>
#include <numeric>

#include "formats.h"
#include "kernels/bf16.h"
#include "kernels/int8_format.h"
#include "weight_panel.h"

namespace cpuft {

namespace {

// A panel of B takes at most so much, to stay in the L2 cache beside the rows of A and C that pass by ...
constexpr int64_t kPanelBytes = 512 << 10;
// ... and is no deeper than this: C is read and written once for so many products, which is then little beside them.
// (A panel one block deep made products of int8 a fifth slower, 2048 were no faster than 1024; Emerald Rapids.)
constexpr int64_t kPanelDepth = 4 * kBlockDepth;

// A part of C: rows [m0, m1) x columns [n0, n0 + n); no part of this C is wider than `widest`.
struct Block {
    int64_t m0, m1, n0, n, widest;
    float* c;        // C[m0, n0]
    int64_t stride;  // floats from one row to the next
};

// Depth, in whole blocks, of a panel of n columns that takes kPanelBytes.
int64_t depth_in_l2(const GemmKernel& kernel, int64_t n) {
    const int64_t block_bytes = kernel.b_bytes(kBlockDepth) * ceil_div(n, kernel.nr);
    return std::max<int64_t>(1, kPanelBytes / block_bytes) * kBlockDepth;
}

// A block of C (+)= one term; m0 is a multiple of its kernel's mr.
void run_term(Compute& compute, const Term& term, bool transposed, const Block& block, bool accumulate,
              Compute::Scratch& scratch) {
    const GemmKernel& kernel = term.a.kernel();
    const WeightReader reader = weight_reader(compute.kernels, term.w.type);
    const int64_t depth = term.a.k(), n = block.n;
    // Not by this block's own columns: sums would depend on how C is cut.
    const int64_t panel_depth = std::min(kPanelDepth, depth_in_l2(kernel, block.widest));
    const int64_t slab_bytes = kernel.b_bytes(panel_depth);
    char* panel = scratch.panel.reserve(slab_bytes * ceil_div(n, kernel.nr));
    for (int64_t k0 = 0; k0 < depth; k0 += panel_depth, accumulate = true) {
        const int64_t k = std::min(panel_depth, depth - k0);
        for (int64_t p0 = 0; p0 < k; p0 += kBlockDepth) {
            (transposed ? fill_transposed : fill_plain)(kernel, term.w, reader, block.n0, n, k0 + p0,
                                                        std::min(kBlockDepth, k - p0), scratch,
                                                        {panel + kernel.b_bytes(p0), slab_bytes});
        }
        for (int64_t row = block.m0; row < block.m1; row += kernel.mr) {
            const int rows = static_cast<int>(std::min<int64_t>(kernel.mr, block.m1 - row));
            float* c = block.c + (row - block.m0) * block.stride;
            for (int64_t j0 = 0; j0 < n; j0 += kernel.nr) {
                const int columns = static_cast<int>(std::min<int64_t>(kernel.nr, n - j0));
                kernel.tile(k, term.a.at(row / kernel.mr, k0), panel + j0 / kernel.nr * slab_bytes, c + j0,
                            block.stride, rows, columns, accumulate);
            }
        }
    }
}

struct Product {
    const Term* terms;
    int64_t n_terms;
    bool transposed;
    const float* bias;
    bool accumulate;
    float* c;
    int64_t m, n;
};

// The second term finds the block in the L2 cache.
void run_block(Compute& compute, const Product& product, const Block& block, Compute::Scratch& scratch) {
    bool accumulate = product.accumulate;
    if (product.bias != nullptr) {
        for (int64_t row = 0; row < block.m1 - block.m0; ++row) {
            float* c = block.c + row * block.stride;
            if (accumulate) {
                compute.kernels.rows.axpy(1.0f, product.bias + block.n0, c, block.n);
            } else {
                std::copy_n(product.bias + block.n0, block.n, c);
            }
        }
        accumulate = true;
    }
    for (int64_t i = 0; i < product.n_terms; ++i, accumulate = true)
        run_term(compute, product.terms[i], product.transposed, block, accumulate, scratch);
}

// n things in parts that differ by at most one, the larger first: they are handed out in order, and small ones at the end
// leave threads idle for less.
struct Shares {
    int64_t n, parts;

    int64_t begin(int64_t part) const { return part * (n / parts) + std::min(part, n % parts); }
    int64_t largest() const { return ceil_div(n, parts); }
};

// How C is cut into tasks: its columns, in units that tiles and the formats of weights allow, by its rows, in whole panels.
struct Grid {
    Shares columns, rows;
    int64_t column_unit, row_unit;

    int64_t n_tasks() const { return columns.parts * rows.parts; }
};

// About how long a grid takes on n_threads, in multiplications of a unit depth. Each task fills its panel and reads its rows
// of A however small it is: that costs as much as so many rows and columns more (a fill took 8 % of 512 rows in int8).
double cost(const Grid& grid, int n_threads) {
    constexpr double kFillRows = 40.0, kReadColumns = 8.0;
    const auto area = [&](double columns, double rows) {
        return (columns * static_cast<double>(grid.column_unit) + kReadColumns) *
               (rows * static_cast<double>(grid.row_unit) + kFillRows);
    };
    const auto mean = [](const Shares& of) { return static_cast<double>(of.n) / static_cast<double>(of.parts); };
    const auto largest = [](const Shares& of) { return static_cast<double>(of.largest()); };
    const auto rounds = static_cast<double>(ceil_div(grid.n_tasks(), n_threads));
    return (rounds - 1.0) * area(mean(grid.columns), mean(grid.rows)) + area(largest(grid.columns), largest(grid.rows));
}

// The cheapest grid whose panels are at most `columns` wide, with two tasks a thread where there are as many, since threads
// are not equally fast. No value of C depends on it.
Grid choose_grid(const Product& product, int64_t columns, int n_threads) {
    Grid grid = {{0, 1}, {0, 1}, 1, 1};
    for (int64_t i = 0; i < product.n_terms; ++i) {
        const GemmKernel& kernel = product.terms[i].a.kernel();
        grid.column_unit = std::lcm(grid.column_unit, static_cast<int64_t>(kernel.nr));
        grid.row_unit = std::lcm(grid.row_unit, static_cast<int64_t>(kernel.mr));
        if (!product.transposed)
            grid.column_unit =
                std::lcm(grid.column_unit, static_cast<int64_t>(ggml_blck_size(product.terms[i].w.type)));
    }
    grid.columns.n = ceil_div(product.n, grid.column_unit);
    grid.rows.n = ceil_div(product.m, grid.row_unit);
    const int64_t fewest = ceil_div(grid.columns.n, columns / grid.column_unit);
    grid.columns.parts = fewest;
    if (n_threads == 1) return grid;
    const int64_t wanted = std::min<int64_t>(2 * n_threads, grid.columns.n * grid.rows.n);
    Grid best = grid;
    best.columns.parts = grid.columns.n;
    best.rows.parts = grid.rows.n;
    for (int64_t c = fewest; c <= std::min(2 * fewest + n_threads, grid.columns.n); ++c) {
        grid.columns.parts = c;
        grid.rows.parts = std::min(grid.rows.n, ceil_div(wanted, c));
        if (grid.n_tasks() >= wanted && cost(grid, n_threads) < cost(best, n_threads)) best = grid;
    }
    return best;
}

void run(Compute& compute, const Product& product) {
    const int64_t columns = product.transposed ? kColumnsTransposed : kColumnsPlain;
    const Grid grid = choose_grid(product, columns, compute.pool.size());
    compute.pool.parallel_for(grid.n_tasks(), [&](int64_t task, int thread) {
        const int64_t column = task / grid.rows.parts, row = task % grid.rows.parts;
        const int64_t n0 = grid.columns.begin(column) * grid.column_unit, m0 = grid.rows.begin(row) * grid.row_unit;
        const int64_t n1 = std::min(product.n, grid.columns.begin(column + 1) * grid.column_unit);
        const int64_t m1 = std::min(product.m, grid.rows.begin(row + 1) * grid.row_unit);
        const Block block = {m0,       m1, n0, n1 - n0, std::min(columns, product.n), product.c + m0 * product.n + n0,
                             product.n};
        run_block(compute, product, block, compute.scratch[static_cast<size_t>(thread)]);
    });
}

// Multiplies the rows of a block of a panel of A with factors: [m].
void scale_panel(const GemmKernel& kernel, const float* factors, int m, int64_t k, void* block) {
    if (kernel.a_header > 0) {  // in front stand the rows' scales and, third, the values apart
        float *scales = static_cast<float*>(block), *aparts = scales + 2 * kernel.mr;
        for (int i = 0; i < m; ++i) {
            scales[i] *= factors[i];
            aparts[i] *= factors[i];
        }
        return;
    }
    for (int64_t step = 0; step < ceil_div(k, kernel.kr); ++step) {
        for (int i = 0; i < m; ++i) {
            for (int r = 0; r < kernel.kr; ++r) {
                const int64_t at = (step * kernel.mr + i) * kernel.kr + r;
                if (kernel.element_size == sizeof(float)) {
                    static_cast<float*>(block)[at] *= factors[i];
                } else {
                    uint16_t& value = static_cast<uint16_t*>(block)[at];
                    value = static_cast<uint16_t>(bf16_bits(float_of_bf16(value) * factors[i]));
                }
            }
        }
    }
}

}  // namespace

void PackedRows::reserve(const GemmKernel& kernel, int64_t m, int64_t k) {
    borrow(own_.reserve(bytes(kernel, m, k)), kernel, m, k);
}

void PackedRows::borrow(char* memory, const GemmKernel& kernel, int64_t m, int64_t k) {
    data_ = memory;
    kernel_ = &kernel;
    m_ = m;
    k_ = k;
    panel_bytes_ = kernel.a_bytes(k);
}

void PackedRows::pack(Compute& compute, const GemmKernel& kernel, const float* source, int64_t row_stride,
                      int64_t column_stride, int64_t m, int64_t k, const float* depth_scale) {
    reserve(kernel, m, k);
    compute.pool.parallel_for(n_panels(), [&](int64_t i, int) {
        kernel.pack_a(source + i * kernel.mr * row_stride, row_stride, column_stride, depth_scale, rows_of(i), k,
                      at(i, 0));
    });
}

void PackedRows::pack_block(const float* source, int64_t row_stride, int64_t k0, const float* depth_scale) {
    const int64_t depth = std::min(kBlockDepth, k_ - k0);
    for (int64_t i = 0; i < n_panels(); ++i)
        kernel_->pack_a(source + i * kernel_->mr * row_stride, row_stride, 1, depth_scale, rows_of(i), depth,
                        at(i, k0));
}

void PackedRows::scale_blocks(Compute& compute, const float* factors) {
    compute.pool.parallel_for(n_panels(), [&](int64_t i, int) {
        for (int64_t k0 = 0; k0 < k_; k0 += kBlockDepth) {
            const float* of_rows = factors + k0 / kBlockDepth * m_ + i * kernel_->mr;
            scale_panel(*kernel_, of_rows, rows_of(i), std::min(kBlockDepth, k_ - k0), at(i, k0));
        }
    });
}

int64_t scratch_panel_bytes(const GemmKernel& kernel) {
    const int64_t columns = std::max(kColumnsTransposed, kColumnsPlain);
    return std::max(
        {kPanelBytes, kernel.b_bytes(kBlockDepth) * ceil_div(columns, kernel.nr), kernel.a_bytes(kBlockDepth)});
}

int64_t narrow_panel_bytes(const GemmKernel& kernel, int64_t k, int64_t n) {
    return kernel.b_bytes(k) * ceil_div(n, kernel.nr);
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

void multiply_transposed(Compute& compute, std::initializer_list<Term> terms, const float* bias, bool accumulate,
                         float* c) {
    const Term& first = *terms.begin();
    run(compute,
        {terms.begin(), static_cast<int64_t>(terms.size()), true, bias, accumulate, c, first.a.m(), first.w.rows});
}

Columns multiply_transposed_columns(Compute& compute, const PackedRows& a, const Matrix& w, int64_t block, int thread) {
    Compute::Scratch& scratch = compute.scratch[static_cast<size_t>(thread)];
    const int64_t n0 = block * kBlockDepth, n = std::min(kBlockDepth, w.rows - n0);
    float* c = scratch.columns.reserve(a.m() * kColumnStride);
    run_term(compute, {a, w}, true, {0, a.m(), n0, n, n, c, kColumnStride}, false, scratch);
    return {n0, n, c};
}

void multiply(Compute& compute, std::initializer_list<Term> terms, bool accumulate, float* c) {
    const Term& first = *terms.begin();
    run(compute,
        {terms.begin(), static_cast<int64_t>(terms.size()), false, nullptr, accumulate, c, first.a.m(), first.w.cols});
}

void multiply_narrow(Compute& compute, const GemmKernel& kernel, const float* a, int64_t m, int64_t k, const Matrix& w,
                     bool transposed, float* c) {
    const int64_t n = transposed ? w.rows : w.cols;
    const int64_t slab_bytes = kernel.b_bytes(k);
    char* panel = compute.shared_panel.reserve(narrow_panel_bytes(kernel, k, n));
    const WeightReader reader = weight_reader(compute.kernels, w.type);
    compute.pool.parallel_for(ceil_div(k, kBlockDepth), [&](int64_t block, int thread) {
        const int64_t k0 = block * kBlockDepth;
        (transposed ? fill_transposed : fill_plain)(kernel, w, reader, 0, n, k0, std::min(kBlockDepth, k - k0),
                                                    compute.scratch[static_cast<size_t>(thread)],
                                                    {panel + kernel.b_bytes(k0), slab_bytes});
    });
    compute.pool.parallel_for(ceil_div(m, kernel.mr), [&](int64_t i, int thread) {
        const int64_t row = i * kernel.mr;
        const int rows = static_cast<int>(std::min<int64_t>(kernel.mr, m - row));
        char* packed = compute.scratch[static_cast<size_t>(thread)].panel.reserve(kernel.a_bytes(kBlockDepth));
        for (int64_t k0 = 0; k0 < k; k0 += kBlockDepth) {
            const int64_t depth = std::min(kBlockDepth, k - k0);
            kernel.pack_a(a + row * k + k0, k, 1, nullptr, rows, depth, packed);
            for (int64_t j0 = 0; j0 < n; j0 += kernel.nr) {
                const int columns = static_cast<int>(std::min<int64_t>(kernel.nr, n - j0));
                kernel.tile(depth, packed, panel + j0 / kernel.nr * slab_bytes + kernel.b_bytes(k0), c + row * n + j0,
                            n, rows, columns, k0 > 0);
            }
        }
    });
}

}  // namespace cpuft
