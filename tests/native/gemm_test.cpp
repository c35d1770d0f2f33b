// Products of packed activations with matrices of any type, against sums in double, over shapes around every block.
#include "gemm.h"

#include <cstring>

#include "check.h"
#include "formats.h"

using cpuft::Compute;
using cpuft::GemmKernel;
using cpuft::Matrix;
using test::kRounding;
using test::Random;

namespace {

struct Weights {
    Matrix matrix;
    std::vector<char> data;
    std::vector<float> values;  // what the data stand for
};

Weights make_weights(Random& random, ggml_type type, int64_t rows, int64_t cols) {
    Weights weights;
    const auto drawn = random.floats(rows * cols);
    weights.data.resize(ggml_row_size(type, cols) * static_cast<size_t>(rows));
    weights.values.resize(drawn.size());
    const auto bytes = static_cast<int64_t>(weights.data.size());
    cpuft::quantize(type, drawn.data(), rows, cols, nullptr, weights.data.data(), bytes, 1);
    cpuft::dequantize(type, weights.data.data(), bytes, rows, cols, weights.values.data(), 1);
    weights.matrix = {type, weights.data.data(), rows, cols};
    return weights;
}

struct Shape {
    int64_t m, n, k;
};

// The part of a value that the compute format may lose: bfloat16 keeps 8 bits of it.
double format_rounding(const GemmKernel& kernel) { return kernel.element_size == 2 ? 0x1p-8 : 0.0; }

// Relative L2 distance between an int8 product and the product in double of the values themselves. A normal value is
// rounded to steps of max / 127 with max near 3 deviations: by 3 / 127 / sqrt(12) = 0.7 % of a deviation, on both sides.
constexpr double kInt8Distance = 0.015;

void check_int8_product(Compute& compute, Random& random, ggml_type type, const Shape& shape, bool transposed) {
    const auto [m, n, k] = shape;
    Weights w = transposed ? make_weights(random, type, n, k) : make_weights(random, type, k, n);
    const std::vector<float> scales = cpuft::row_scales(compute, w.matrix);
    w.matrix.row_scale = scales.data();
    const auto a = random.floats(m * k), start = random.floats(m * n);
    cpuft::PackedRows packed;
    packed.pack_rows(compute, *compute.kernels.int8, a.data(), m, k, transposed ? nullptr : scales.data());
    std::vector<float> c = start;
    if (transposed) {
        cpuft::multiply_transposed(compute, {{packed, w.matrix}}, nullptr, true, c.data());
    } else {
        cpuft::multiply(compute, {{packed, w.matrix}}, true, c.data());
    }
    test::Doubles wanted(c.size());
    for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) {
            for (int64_t p = 0; p < k; ++p) {
                const int64_t of_w = transposed ? j * k + p : p * n + j;
                wanted[static_cast<size_t>(i * n + j)] += static_cast<double>(a[static_cast<size_t>(i * k + p)]) *
                                                          static_cast<double>(w.values[static_cast<size_t>(of_w)]);
            }
            c[static_cast<size_t>(i * n + j)] -= start[static_cast<size_t>(i * n + j)];
        }
    }
    const double off = test::distance(c.data(), wanted);
    CHECK(off < kInt8Distance, "%s %s %lldx%lldx%lld%s is off by %g", compute.kernels.int8->name, ggml_type_name(type),
          (long long)m, (long long)n, (long long)k, transposed ? " transposed" : "", off);
}

void check_product(Compute& compute, const GemmKernel& kernel, Random& random, ggml_type type, const Shape& shape,
                   bool transposed, bool accumulate, bool with_bias) {
    const auto [m, n, k] = shape;
    const Weights w = transposed ? make_weights(random, type, n, k) : make_weights(random, type, k, n);
    const auto a = random.floats(m * k), start = random.floats(m * n), bias = random.floats(n);
    cpuft::PackedRows packed;
    packed.pack_rows(compute, kernel, a.data(), m, k);
    std::vector<float> c = start;
    if (!accumulate) c.assign(c.size(), NAN);
    if (transposed) {
        cpuft::multiply_transposed(compute, {{packed, w.matrix}}, with_bias ? bias.data() : nullptr, accumulate,
                                   c.data());
    } else {
        cpuft::multiply(compute, {{packed, w.matrix}}, accumulate, c.data());
    }
    for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) {
            const size_t at = static_cast<size_t>(i * n + j);
            double sum = accumulate ? static_cast<double>(start[at]) : 0.0;
            if (with_bias) sum += static_cast<double>(bias[static_cast<size_t>(j)]);
            double size = std::fabs(sum);
            for (int64_t p = 0; p < k; ++p) {
                const int64_t of_w = transposed ? j * k + p : p * n + j;
                const double product = static_cast<double>(a[static_cast<size_t>(i * k + p)]) *
                                       static_cast<double>(w.values[static_cast<size_t>(of_w)]);
                sum += product;
                size += std::fabs(product);
            }
            const double rounding = static_cast<double>(k + 4) * kRounding + 2.02 * format_rounding(kernel);
            CHECK(std::fabs(static_cast<double>(c[at]) - sum) <= rounding * size,
                  "%s %s %lldx%lldx%lld%s%s [%lld, %lld]: %.9g, expected %.9g", kernel.name, ggml_type_name(type),
                  (long long)m, (long long)n, (long long)k, transposed ? " transposed" : "", accumulate ? " +=" : "",
                  (long long)i, (long long)j, static_cast<double>(c[at]), sum);
        }
    }
}

template <class Check>
void for_each_kernel(Check check) {
    for (const cpuft::KernelTable* table : test::tables()) {
        for (const int threads : {1, 3}) {
            Compute compute(threads, *table, cpuft::Precision::kF32);
            check(compute, table->f32);
            if (table->bf16 != nullptr) check(compute, *table->bf16);
        }
    }
}

TEST(products_of_float_matrices) {
    for_each_kernel([](Compute& compute, const GemmKernel& kernel) {
        Random random(11);
        const Shape shapes[] = {{1, 1, 1},    {1, 33, 7},    {13, 31, 5},   {14, 32, 256}, {15, 33, 257},
                                {29, 129, 3}, {7, 257, 513}, {513, 40, 31}, {3, 5, 1030},  {64, 300, 270}};
        for (const Shape& shape : shapes) {
            for (const bool accumulate : {false, true}) {
                check_product(compute, kernel, random, GGML_TYPE_F32, shape, true, accumulate, false);
                check_product(compute, kernel, random, GGML_TYPE_F32, shape, false, accumulate, false);
            }
            check_product(compute, kernel, random, GGML_TYPE_F32, shape, true, false, true);
        }
    });
}

TEST(products_of_quantized_matrices) {
    for_each_kernel([](Compute& compute, const GemmKernel& kernel) {
        Random random(12);
        const ggml_type types[] = {GGML_TYPE_F16,  GGML_TYPE_BF16, GGML_TYPE_Q8_0,
                                   GGML_TYPE_Q4_0, GGML_TYPE_Q4_K, GGML_TYPE_Q6_K};
        for (const ggml_type type : types) {
            const int64_t block = ggml_blck_size(type);
            // rows of one block, of blocks that end inside a panel, of more than one panel
            for (const int64_t cols : {block, 3 * block, 256 + block}) {
                check_product(compute, kernel, random, type, {5, 37, cols}, true, false, false);
                check_product(compute, kernel, random, type, {17, cols, 70}, false, true, false);
            }
        }
    });
}

TEST(int8_products) {
    for (const cpuft::KernelTable* table : test::tables()) {
        if (table->int8 == nullptr) continue;
        for (const int threads : {1, 3}) {
            Compute compute(threads, *table, cpuft::Precision::kInt8);
            Random random(14);
            for (const ggml_type type :
                 {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0, GGML_TYPE_Q5_0, GGML_TYPE_IQ4_NL}) {
                check_int8_product(compute, random, type, {5, 37, 96}, true);
                check_int8_product(compute, random, type, {29, 300, 608}, true);
                check_int8_product(compute, random, type, {17, 96, 71}, false);
                check_int8_product(compute, random, type, {29, 608, 530}, false);
            }
            for (const ggml_type type : {GGML_TYPE_Q4_K, GGML_TYPE_Q5_K, GGML_TYPE_Q6_K, GGML_TYPE_IQ4_XS}) {
                check_int8_product(compute, random, type, {29, 300, 768}, true);
                check_int8_product(compute, random, type, {29, 768, 530}, false);
            }
        }
    }
}

// One value of each row's block that is a thousand times the others' size: what the others contribute must not drown.
TEST(int8_products_of_outliers) {
    for (const cpuft::KernelTable* table : test::tables()) {
        if (table->int8 == nullptr) continue;
        Compute compute(1, *table, cpuft::Precision::kInt8);
        Random random(15);
        const int64_t m = 17, n = 40, k = 600;
        const Weights w = make_weights(random, GGML_TYPE_Q8_0, n, 608);
        auto a = random.floats(m * 608);
        std::vector<float> outliers(a.size(), 0.0f);
        for (int64_t i = 0; i < m; ++i) {
            for (int64_t k0 = 0; k0 < k; k0 += cpuft::kBlockDepth) {
                const auto at = static_cast<size_t>(i * 608 + k0 + (i * 37 + k0) % 96);
                outliers[at] = a[at] *= 1000.0f;
            }
        }
        std::vector<float> whole(static_cast<size_t>(m * n)), alone(whole.size());
        for (const auto& [values, product] : {std::pair{&a, &whole}, std::pair{&outliers, &alone}}) {
            cpuft::PackedRows packed;
            packed.pack_rows(compute, *table->int8, values->data(), m, 608);
            cpuft::multiply_transposed(compute, {{packed, w.matrix}}, nullptr, false, product->data());
        }
        test::Doubles wanted(whole.size());
        for (size_t i = 0; i < a.size(); ++i) a[i] -= outliers[i];
        for (int64_t i = 0; i < m; ++i) {
            for (int64_t j = 0; j < n; ++j) {
                const auto at = static_cast<size_t>(i * n + j);
                for (int64_t p = 0; p < 608; ++p)
                    wanted[at] += static_cast<double>(a[static_cast<size_t>(i * 608 + p)]) *
                                  static_cast<double>(w.values[static_cast<size_t>(j * 608 + p)]);
                whole[at] -= alone[at];
            }
        }
        // The outliers' own rounding of weights is the same on both sides; float32 loses some of so large a sum.
        const double off = test::distance(whole.data(), wanted);
        CHECK(off < kInt8Distance, "%s is off by %g", table->int8->name, off);
    }
}

// A NaN among the weights, here as the scale at the front of row 3, must reach the loss, where training stops.
TEST(int8_products_do_not_hide_broken_weights) {
    for (const cpuft::KernelTable* table : test::tables()) {
        if (table->int8 == nullptr) continue;
        Compute compute(1, *table, cpuft::Precision::kInt8);
        Random random(15);
        for (const ggml_type type :
             {GGML_TYPE_Q8_0, GGML_TYPE_Q4_0, GGML_TYPE_Q5_0, GGML_TYPE_IQ4_XS, GGML_TYPE_Q4_K, GGML_TYPE_Q5_K}) {
            const int64_t size = 256, broken = 3;
            Weights w = make_weights(random, type, size, size);
            const uint16_t nan = 0x7E00;
            std::memcpy(w.data.data() + broken * static_cast<int64_t>(ggml_row_size(type, size)), &nan, sizeof nan);
            const std::vector<float> scales = cpuft::row_scales(compute, w.matrix);
            w.matrix.row_scale = scales.data();
            const auto a = random.floats(size);
            std::vector<float> forward(static_cast<size_t>(size)), backward = forward;
            cpuft::PackedRows packed;
            packed.pack_rows(compute, *table->int8, a.data(), 1, size);
            cpuft::multiply_transposed(compute, {{packed, w.matrix}}, nullptr, false, forward.data());
            packed.pack_rows(compute, *table->int8, a.data(), 1, size, scales.data());
            cpuft::multiply(compute, {{packed, w.matrix}}, false, backward.data());
            CHECK(!std::isfinite(forward[broken]) && std::isfinite(forward[broken + 1]), "%s %s: %g, %g", table->name,
                  ggml_type_name(type), static_cast<double>(forward[broken]), static_cast<double>(forward[broken + 1]));
            CHECK(!std::isfinite(backward[0]), "%s %s backward: %g", table->name, ggml_type_name(type),
                  static_cast<double>(backward[0]));
        }
    }
}

// op(W) as the right operand of a product, in double.
double right(const std::vector<float>& w, bool transposed, int64_t n, int64_t k, int64_t p, int64_t j) {
    return static_cast<double>(w[static_cast<size_t>(transposed ? j * k + p : p * n + j)]);
}

test::Doubles product(const std::vector<float>& a, const std::vector<float>& w, bool transposed, const Shape& shape) {
    const auto [m, n, k] = shape;
    test::Doubles c(static_cast<size_t>(m * n));
    for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) {
            for (int64_t p = 0; p < k; ++p) {
                c[static_cast<size_t>(i * n + j)] +=
                    static_cast<double>(a[static_cast<size_t>(i * k + p)]) * right(w, transposed, n, k, p, j);
            }
        }
    }
    return c;
}

Matrix as_matrix(const std::vector<float>& w, bool transposed, int64_t n, int64_t k) {
    return transposed ? cpuft::float_matrix(w.data(), n, k) : cpuft::float_matrix(w.data(), k, n);
}

// A base product of bytes and an adapter's of floats in one C, each with panels of its own, and a bias on top.
TEST(sums_of_products_with_kernels_of_their_own) {
    for (const cpuft::KernelTable* table : test::tables()) {
        if (table->int8 == nullptr) continue;
        for (const bool transposed : {true, false}) {
            Compute compute(3, *table, cpuft::Precision::kInt8);
            Random random(15);
            const Shape wide = {29, 300, 270}, narrow = {29, 300, 16};
            const auto a = random.floats(wide.m * wide.k), w = random.floats(wide.n * wide.k, 0.1f);
            const auto u = random.floats(narrow.m * narrow.k), b = random.floats(narrow.n * narrow.k);
            const auto bias = random.floats(wide.n), start = random.floats(wide.m * wide.n);
            Matrix base = as_matrix(w, transposed, wide.n, wide.k);
            const std::vector<float> scales = cpuft::row_scales(compute, base);
            base.row_scale = scales.data();
            cpuft::PackedRows packed_a, packed_u;
            packed_a.pack_rows(compute, *table->int8, a.data(), wide.m, wide.k, transposed ? nullptr : scales.data());
            packed_u.pack_rows(compute, table->f32, u.data(), narrow.m, narrow.k);
            const Matrix adapter = as_matrix(b, transposed, narrow.n, narrow.k);
            test::Doubles wanted = product(a, w, transposed, wide), of_adapter = product(u, b, transposed, narrow);
            std::vector<float> c = start;
            if (transposed) {
                cpuft::multiply_transposed(compute, {{packed_a, base}, {packed_u, adapter}}, bias.data(), true,
                                           c.data());
            } else {
                cpuft::multiply(compute, {{packed_a, base}, {packed_u, adapter}}, true, c.data());
            }
            // Without what is exact but for float32's rounding, the bytes' own error is left.
            for (size_t i = 0; i < c.size(); ++i) {
                const double exact = of_adapter[i] + static_cast<double>(start[i]) +
                                     (transposed ? static_cast<double>(bias[i % bias.size()]) : 0.0);
                c[i] = static_cast<float>(static_cast<double>(c[i]) - exact);
            }
            const double off = test::distance(c.data(), wanted);
            CHECK(off < kInt8Distance, "%s%s is off by %g", table->name, transposed ? " transposed" : "", off);
        }
    }
}

TEST(narrow_products) {
    for_each_kernel([](Compute& compute, const GemmKernel& kernel) {
        Random random(16);
        for (const Shape& shape : {Shape{1, 1, 1}, Shape{29, 16, 300}, Shape{14, 33, 256}, Shape{5, 3, 530}}) {
            const auto a = random.floats(shape.m * shape.k), w = random.floats(shape.n * shape.k);
            for (const bool transposed : {true, false}) {
                std::vector<float> c(static_cast<size_t>(shape.m * shape.n), NAN);
                cpuft::multiply_narrow(compute, kernel, a.data(), shape.m, shape.k,
                                       as_matrix(w, transposed, shape.n, shape.k), transposed, c.data());
                const double off = test::distance(c.data(), product(a, w, transposed, shape));
                CHECK(off < 1e-5 + 2 * format_rounding(kernel), "%s %lldx%lldx%lld%s is off by %g", kernel.name,
                      (long long)shape.m, (long long)shape.n, (long long)shape.k, transposed ? " transposed" : "", off);
            }
        }
    });
}

// A product of 40 rows of activations with 704 columns of weights: C, by so many threads.
std::vector<float> threaded_product(const cpuft::KernelTable& table, const GemmKernel& kernel, ggml_type type,
                                    bool transposed, int threads) {
    Compute compute(threads, table, table.int8 != nullptr ? cpuft::Precision::kInt8 : cpuft::Precision::kF32);
    Random random(13);
    const int64_t m = 40, n = 704, k = 2080;
    const auto a = random.floats(m * k);
    Weights w = transposed ? make_weights(random, type, n, k) : make_weights(random, type, k, n);
    std::vector<float> scales;
    if (&kernel == table.int8) scales = cpuft::row_scales(compute, w.matrix);
    w.matrix.row_scale = scales.empty() ? nullptr : scales.data();
    cpuft::PackedRows packed;
    packed.pack_rows(compute, kernel, a.data(), m, k, transposed ? nullptr : w.matrix.row_scale);
    std::vector<float> c(static_cast<size_t>(m * n));
    if (transposed) {
        cpuft::multiply_transposed(compute, {{packed, w.matrix}}, nullptr, false, c.data());
    } else {
        cpuft::multiply(compute, {{packed, w.matrix}}, false, c.data());
    }
    return c;
}

// Every value is summed in an order of its own: how C was cut into tasks for so many threads cannot show.
TEST(products_do_not_depend_on_threads) {
    for (const cpuft::KernelTable* table : test::tables()) {
        for (const GemmKernel* kernel : {&table->f32, table->bf16, table->int8}) {
            if (kernel == nullptr) continue;
            for (const ggml_type type : {GGML_TYPE_F32, GGML_TYPE_Q8_0}) {
                for (const bool transposed : {true, false}) {
                    const auto alone = threaded_product(*table, *kernel, type, transposed, 1);
                    for (const int threads : {2, 3, 5, 16}) {
                        const auto c = threaded_product(*table, *kernel, type, transposed, threads);
                        CHECK(std::memcmp(alone.data(), c.data(), c.size() * sizeof(float)) == 0,
                              "%s with %d threads%s", kernel->name, threads, transposed ? ", transposed" : "");
                    }
                }
            }
        }
    }
}

}  // namespace
