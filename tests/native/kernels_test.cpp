// Every product of every kernel table against its slow twin, over all remainders.
#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "check.h"

using cpuft::GemmKernel;
using cpuft::KernelTable;
using test::kGuard;
using test::kRounding;
using test::Random;

namespace {

// Round to nearest, ties to even, as the packed format of a kernel with pairs has it.
float to_bf16(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000u;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

float compute_value(const GemmKernel& kernel, float x) { return kernel.element_size == 2 ? to_bf16(x) : x; }

float packed_value(const GemmKernel& kernel, const std::vector<char>& panel, int64_t index) {
    uint32_t bits = 0;
    const char* at = panel.data() + index * static_cast<int64_t>(kernel.element_size);
    if (kernel.element_size == 2) {
        std::memcpy(reinterpret_cast<char*>(&bits) + 2, at, 2);
    } else {
        std::memcpy(&bits, at, 4);
    }
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// A panel with guard bytes behind it.
struct Panel {
    Panel(const GemmKernel& kernel, int width, int64_t k)
        : bytes(width == kernel.mr ? kernel.a_bytes(k) : kernel.b_bytes(k)),
          data(static_cast<size_t>(bytes) + 64, 0x5A) {}
    bool guard_holds() const {
        return std::all_of(data.begin() + bytes, data.end(), [](char c) { return c == 0x5A; });
    }
    int64_t bytes;
    std::vector<char> data;
};

std::vector<const GemmKernel*> gemm_kernels() {
    std::vector<const GemmKernel*> kernels;
    for (const KernelTable* table : test::tables()) {
        kernels.push_back(&table->f32);
        if (table->bf16 != nullptr) kernels.push_back(table->bf16);
    }
    return kernels;
}

// Kernels of bytes: their panels do not hold the values themselves.
std::vector<const GemmKernel*> int8_kernels() {
    std::vector<const GemmKernel*> kernels;
    for (const KernelTable* table : test::tables()) {
        if (table->int8 != nullptr) kernels.push_back(table->int8);
    }
    return kernels;
}

const int64_t kDepths[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 255, 256, 257};

// Checks a panel against [ceil(k / kr)][width][kr], zero past `filled` and past k.
template <class Value>
void check_panel(const GemmKernel& kernel, const char* what, const Panel& panel, int width, int filled, int64_t k,
                 Value value) {
    CHECK(panel.guard_holds(), "%s %s writes past its panel, k = %lld", kernel.name, what, (long long)k);
    const int64_t padded = (k + kernel.kr - 1) / kernel.kr * kernel.kr;
    for (int64_t p = 0; p < padded; ++p) {
        for (int i = 0; i < width; ++i) {
            const float wanted = i < filled && p < k ? compute_value(kernel, value(i, p)) : 0.0f;
            const int64_t index = (p / kernel.kr * width + i) * kernel.kr + p % kernel.kr;
            const float got = packed_value(kernel, panel.data, index);
            CHECK(got == wanted, "%s %s [%lld][%d] of %d x %lld: %g, expected %g", kernel.name, what, (long long)p, i,
                  filled, (long long)k, static_cast<double>(got), static_cast<double>(wanted));
        }
    }
}

TEST(packing_a) {
    Random random(1);
    for (const GemmKernel* kernel : gemm_kernels()) {
        for (const int64_t k : kDepths) {
            for (int m = 1; m <= kernel->mr; ++m) {
                // rows of a matrix, columns of one, and neither
                const int64_t strides[][2] = {{k + 3, 1}, {1, kernel->mr + 5}, {2 * k + 1, 2}};
                for (const auto& stride : strides) {
                    const auto source = random.floats((m - 1) * stride[0] + (k - 1) * stride[1] + 1);
                    Panel panel(*kernel, kernel->mr, k);
                    kernel->pack_a(source.data(), stride[0], stride[1], nullptr, m, k, panel.data.data());
                    check_panel(*kernel, "pack_a", panel, kernel->mr, m, k, [&](int i, int64_t p) {
                        return source[static_cast<size_t>(i * stride[0] + p * stride[1])];
                    });
                }
            }
        }
    }
}

// A block of B in two parts, as it comes in strips.
void pack_b_in_two(const GemmKernel& kernel, const float* source, int64_t stride, const float* row_scale, int64_t k,
                   int n, Panel& panel) {
    const int64_t first = std::min<int64_t>(k, k / 8 * 4 + 4);
    kernel.pack_b(source, stride, row_scale, 0, first, n, panel.data.data());
    if (first == k) return;
    kernel.pack_b(source + first * stride, stride, row_scale == nullptr ? nullptr : row_scale + first, first, k - first,
                  n, panel.data.data());
}

TEST(packing_b) {
    Random random(2);
    for (const GemmKernel* kernel : gemm_kernels()) {
        for (const int64_t k : kDepths) {
            for (int n = 1; n <= kernel->nr; ++n) {
                const int64_t stride = n + 3, stride_transposed = k + 5;
                const auto source = random.floats((k - 1) * stride + n);
                const auto transposed = random.floats((n - 1) * stride_transposed + k);
                Panel panel(*kernel, kernel->nr, k), panel_transposed(*kernel, kernel->nr, k);
                pack_b_in_two(*kernel, source.data(), stride, nullptr, k, n, panel);
                kernel->pack_b_transposed(transposed.data(), stride_transposed, k, n, panel_transposed.data.data());
                check_panel(*kernel, "pack_b", panel, kernel->nr, n, k,
                            [&](int j, int64_t p) { return source[static_cast<size_t>(p * stride + j)]; });
                check_panel(*kernel, "pack_b_transposed", panel_transposed, kernel->nr, n, k, [&](int j, int64_t p) {
                    return transposed[static_cast<size_t>(j * stride_transposed + p)];
                });
            }
        }
    }
}

// One tile against sums in double. A float32 sum of k products in any order is off by at most k + 1 roundings of the sum
// of magnitudes (Higham 2002, Accuracy and Stability, section 3.1); pairs round once more.
void check_tile(const GemmKernel& kernel, Random& random, int m, int n, int64_t k, bool accumulate) {
    const auto a = random.floats(m * k), b = random.floats(k * n), start = random.floats(m * n);
    Panel panel_a(kernel, kernel.mr, k), panel_b(kernel, kernel.nr, k);
    kernel.pack_a(a.data(), k, 1, nullptr, m, k, panel_a.data.data());
    kernel.pack_b(b.data(), n, nullptr, 0, k, n, panel_b.data.data());
    const int64_t stride = kernel.nr + 3;
    std::vector<float> c(static_cast<size_t>(stride * (kernel.mr + 1)), kGuard);
    for (int i = 0; i < m; ++i) {
        for (int j = 0; j < n; ++j) {
            c[static_cast<size_t>(i * stride + j)] = accumulate ? start[static_cast<size_t>(i * n + j)] : NAN;
        }
    }
    kernel.tile(k, panel_a.data.data(), panel_b.data.data(), c.data(), stride, m, n, accumulate);
    for (int64_t i = 0; i <= kernel.mr; ++i) {
        for (int64_t j = 0; j < stride; ++j) {
            const float got = c[static_cast<size_t>(i * stride + j)];
            if (i >= m || j >= n) {
                CHECK(got == kGuard, "%s writes outside %d x %d at %lld, %lld", kernel.name, m, n, (long long)i,
                      (long long)j);
                continue;
            }
            double sum = accumulate ? static_cast<double>(start[static_cast<size_t>(i * n + j)]) : 0.0;
            double size = std::fabs(sum);
            for (int64_t p = 0; p < k; ++p) {
                const double product = static_cast<double>(compute_value(kernel, a[static_cast<size_t>(i * k + p)])) *
                                       static_cast<double>(compute_value(kernel, b[static_cast<size_t>(p * n + j)]));
                sum += product;
                size += std::fabs(product);
            }
            const double tolerance = static_cast<double>(k + 1 + kernel.kr) * kRounding * size;
            CHECK(std::fabs(static_cast<double>(got) - sum) <= tolerance, "%s %dx%dx%lld: %.9g, expected %.9g +- %g",
                  kernel.name, m, n, (long long)k, static_cast<double>(got), sum, tolerance);
        }
    }
}

TEST(tiles) {
    Random random(3);
    for (const GemmKernel* kernel : gemm_kernels()) {
        for (int m = 1; m <= kernel->mr; ++m) {
            for (int n = 1; n <= kernel->nr; ++n) {
                for (const int64_t k : {1, 2, 3, 8, 17}) {
                    check_tile(*kernel, random, m, n, k, false);
                    check_tile(*kernel, random, m, n, k, true);
                }
            }
        }
        for (const int64_t k : kDepths) {
            check_tile(*kernel, random, kernel->mr, kernel->nr, k, true);
            check_tile(*kernel, random, kernel->mr - 1, kernel->nr - 1, k, false);
        }
    }
}

// ---- int8 ---------------------------------------------------------------------------------------------------------------

// What a panel of bytes stands for, read by the description at GemmKernel: scales by (block, row), integers by (row, depth).
struct Decoded {
    Decoded(const GemmKernel& kernel, const Panel& panel, bool is_a, int64_t k)
        : width(is_a ? kernel.mr : kernel.nr), depth(k) {
        const char* at = panel.data.data();
        for (int64_t k0 = 0; k0 < k; k0 += cpuft::kBlockDepth) {
            const int64_t padded = (std::min(cpuft::kBlockDepth, k - k0) + 3) / 4 * 4;
            std::vector<float> block_scales(static_cast<size_t>(width));
            std::memcpy(block_scales.data(), at, block_scales.size() * 4);
            scales.insert(scales.end(), block_scales.begin(), block_scales.end());
            at += 4 * width;
            std::vector<int32_t> wanted(static_cast<size_t>(width)), corrections = wanted;
            if (is_a) {
                std::memcpy(corrections.data(), at, corrections.size() * 4);
                at += 4 * width;
                for (int64_t i = 0; i < width; ++i) {
                    int32_t place;
                    std::memcpy(&place, at + 4 * (width + i), sizeof place);
                    std::memcpy(&apart[{i, k0 + place}], at + 4 * i, sizeof(float));
                }
                at += 8 * width;
            }
            for (int64_t i = 0; i < width; ++i) {
                for (int64_t p = 0; p < padded; ++p) {
                    const char byte = at[(p / 4 * width + i) * 4 + p % 4];
                    const int q = is_a ? static_cast<signed char>(byte) : static_cast<unsigned char>(byte) - 128;
                    wanted[static_cast<size_t>(i)] -= 128 * q;
                    if (k0 + p < k) integers[{i, k0 + p}] = q;
                    if (k0 + p >= k) CHECK(q == 0, "%s pads with %d", kernel.name, q);
                }
            }
            if (is_a) CHECK(corrections == wanted, "%s corrections", kernel.name);
            at += padded * width;
        }
    }
    float scale(int64_t i, int64_t p) const { return scales[static_cast<size_t>(p / cpuft::kBlockDepth * width + i)]; }
    // The value that stands apart, where this is its place.
    const float* value_apart(int64_t i, int64_t p) const {
        const auto found = apart.find({i, p});
        return found == apart.end() ? nullptr : &found->second;
    }
    double value(int64_t i, int64_t p) const {
        const double rounded = static_cast<double>(scale(i, p)) * static_cast<double>(integers.at({i, p}));
        const float* exact = value_apart(i, p);
        return exact == nullptr ? rounded : rounded + static_cast<double>(*exact);
    }
    int64_t width, depth;
    std::vector<float> scales;
    std::map<std::pair<int64_t, int64_t>, int> integers;
    std::map<std::pair<int64_t, int64_t>, float> apart;
};

// Each value lies within half a step of what it stands for, but for float32's rounding of x / scale.
void check_quantized(const GemmKernel& kernel, double x, double step, int q) {
    CHECK(std::abs(q) <= 127 && std::fabs(x - step * q) <= step * 0.5001, "%s: %g as %d steps of %g", kernel.name, x, q,
          step);
}

TEST(int8_packing_of_activations) {
    Random random(21);
    for (const GemmKernel* kernel : int8_kernels()) {
        for (const int64_t k : {1, 3, 4, 17, 64, 255, 256, 257, 600}) {
            for (const bool folded : {false, true}) {
                const auto x = random.floats(kernel->mr * k), depth_scale = random.floats(k);
                Panel panel(*kernel, kernel->mr, k);
                const int m = kernel->mr - 1;
                kernel->pack_a(x.data(), k, 1, folded ? depth_scale.data() : nullptr, m, k, panel.data.data());
                CHECK(panel.guard_holds(), "%s pack_a writes past its panel, k = %lld", kernel->name, (long long)k);
                const Decoded decoded(*kernel, panel, true, k);
                for (int64_t i = 0; i < m; ++i) {
                    for (int64_t k0 = 0; k0 < k; k0 += cpuft::kBlockDepth) {
                        const int64_t end = std::min(k, k0 + cpuft::kBlockDepth);
                        const auto wanted = [&](int64_t p) {
                            const float value = x[static_cast<size_t>(i * k + p)];
                            return folded ? value * depth_scale[static_cast<size_t>(p)] : value;
                        };
                        float largest = 0.0f, largest_of_rest = 0.0f, apart = 0.0f;
                        for (int64_t p = k0; p < end; ++p) {
                            const float magnitude = std::fabs(wanted(p));
                            largest = std::max(largest, magnitude);
                            if (decoded.value_apart(i, p) == nullptr) {
                                largest_of_rest = std::max(largest_of_rest, magnitude);
                                continue;
                            }
                            apart = magnitude;
                            CHECK(*decoded.value_apart(i, p) == wanted(p), "%s value apart", kernel->name);
                            CHECK((decoded.integers.at({i, p})) == 0, "%s counts it twice", kernel->name);
                        }
                        CHECK(apart >= largest * (1.0f - 0x1p-14f), "%s sets %g apart, not %g", kernel->name,
                              static_cast<double>(apart), static_cast<double>(largest));
                        CHECK(decoded.scale(i, k0) == largest_of_rest / 127.0f, "%s scale", kernel->name);
                        for (int64_t p = k0; p < end; ++p) {
                            if (decoded.value_apart(i, p) != nullptr) continue;
                            check_quantized(*kernel, static_cast<double>(wanted(p)),
                                            static_cast<double>(decoded.scale(i, p)), decoded.integers.at({i, p}));
                        }
                    }
                }
            }
        }
    }
}

TEST(int8_packing_of_weights) {
    Random random(22);
    for (const GemmKernel* kernel : int8_kernels()) {
        for (const int64_t k : {1, 3, 4, 17, 63, 64, 130, 255, 256}) {
            for (const int n : {1, kernel->nr - 1, kernel->nr}) {
                const auto plain = random.floats(k * n), transposed = random.floats(n * k);
                std::vector<float> row_scale(static_cast<size_t>(k));
                for (int64_t p = 0; p < k; ++p) {
                    float& scale = row_scale[static_cast<size_t>(p)];
                    for (int j = 0; j < n; ++j)
                        scale = std::max(scale, std::fabs(plain[static_cast<size_t>(p * n + j)]));
                    scale /= 127.0f;
                }
                Panel panel(*kernel, kernel->nr, k), panel_transposed(*kernel, kernel->nr, k);
                pack_b_in_two(*kernel, plain.data(), n, row_scale.data(), k, n, panel);
                kernel->pack_b_transposed(transposed.data(), k, k, n, panel_transposed.data.data());
                CHECK(panel.guard_holds() && panel_transposed.guard_holds(), "%s writes past its panel", kernel->name);
                const Decoded by_row(*kernel, panel, false, k), by_column(*kernel, panel_transposed, false, k);
                for (int64_t j = 0; j < n; ++j) {
                    CHECK(by_row.scale(j, 0) == 1.0f, "%s scale of a column", kernel->name);
                    for (int64_t p = 0; p < k; ++p) {
                        check_quantized(*kernel, static_cast<double>(plain[static_cast<size_t>(p * n + j)]),
                                        static_cast<double>(row_scale[static_cast<size_t>(p)]),
                                        by_row.integers.at({j, p}));
                        check_quantized(*kernel, static_cast<double>(transposed[static_cast<size_t>(j * k + p)]),
                                        static_cast<double>(by_column.scale(j, p)), by_column.integers.at({j, p}));
                    }
                }
            }
        }
    }
}

// A tile against sums in double of what its panels stand for: integers are exact, so only the scaling rounds.
TEST(int8_tiles) {
    Random random(23);
    for (const GemmKernel* kernel : int8_kernels()) {
        for (const int64_t k : {1, 4, 7, 64, 255, 256, 257, 1000}) {
            for (const int m : {1, kernel->mr - 1, kernel->mr}) {
                for (const int n : {1, kernel->nr - 1, kernel->nr}) {
                    const auto a = random.floats(m * k), b = random.floats(n * k), start = random.floats(m * n);
                    Panel panel_a(*kernel, kernel->mr, k), panel_b(*kernel, kernel->nr, k);
                    kernel->pack_a(a.data(), k, 1, nullptr, m, k, panel_a.data.data());
                    for (int64_t k0 = 0; k0 < k; k0 += cpuft::kBlockDepth) {
                        kernel->pack_b_transposed(b.data() + k0, k, std::min(cpuft::kBlockDepth, k - k0), n,
                                                  panel_b.data.data() + kernel->b_bytes(k0));
                    }
                    const Decoded left(*kernel, panel_a, true, k), right(*kernel, panel_b, false, k);
                    for (const bool accumulate : {false, true}) {
                        auto c = accumulate ? start : std::vector<float>(start.size(), NAN);
                        c.push_back(kGuard);
                        kernel->tile(k, panel_a.data.data(), panel_b.data.data(), c.data(), n, m, n, accumulate);
                        CHECK(c.back() == kGuard, "%s writes past C", kernel->name);
                        for (int64_t i = 0; i < m; ++i) {
                            for (int64_t j = 0; j < n; ++j) {
                                const size_t at = static_cast<size_t>(i * n + j);
                                double sum = 0.0, size = 0.0, block_sums = 0.0, block_sum = 0.0;
                                for (int64_t p = 0; p < k; ++p) {
                                    const double product = left.value(i, p) * right.value(j, p);
                                    sum += product;
                                    block_sum += product;
                                    size += std::fabs(product);
                                    if (left.value_apart(i, p) != nullptr) block_sums += std::fabs(product);
                                    if (p + 1 < k && (p + 1) % cpuft::kBlockDepth != 0) continue;
                                    block_sums += std::fabs(block_sum);
                                    block_sum = 0.0;
                                }
                                const double before = accumulate ? static_cast<double>(start[at]) : 0.0;
                                // Roundings of each block's sum and of what stands apart, and those of double itself.
                                const double tolerance =
                                    4 * kRounding * (std::fabs(before) + block_sums) + 1e-13 * size;
                                CHECK(std::fabs(static_cast<double>(c[at]) - before - sum) <= tolerance,
                                      "%s %dx%dx%lld: %.9g, expected %.9g", kernel->name, m, n, (long long)k,
                                      static_cast<double>(c[at]), before + sum);
                            }
                        }
                    }
                }
            }
        }
    }
}

// A NaN or an infinity must reach the loss, where training stops.
TEST(int8_products_do_not_hide_broken_values) {
    for (const GemmKernel* kernel : int8_kernels()) {
        for (const float broken : {NAN, INFINITY, -INFINITY}) {
            std::vector<float> a(256, 1.0f), b(256, 1.0f);
            Panel panel_a(*kernel, kernel->mr, 256), panel_b(*kernel, kernel->nr, 256);
            a[100] = broken;
            kernel->pack_a(a.data(), 256, 1, nullptr, 1, 256, panel_a.data.data());
            kernel->pack_b_transposed(b.data(), 256, 256, 1, panel_b.data.data());
            float c = 0.0f;
            kernel->tile(256, panel_a.data.data(), panel_b.data.data(), &c, 1, 1, 1, false);
            CHECK(!std::isfinite(c), "%s makes %g of a sum with %g", kernel->name, static_cast<double>(c),
                  static_cast<double>(broken));
        }
    }
}

}  // namespace
