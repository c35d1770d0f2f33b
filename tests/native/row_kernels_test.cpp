// Every loop over rows of every kernel table against its slow twin, over all remainders.
#include <algorithm>
#include <cstring>
#include <string>

#include "check.h"

using cpuft::KernelTable;
using cpuft::kReferenceKernels;
using test::kGuard;
using test::kRounding;
using test::Random;

namespace {

// Lengths around every register width and unrolling, and one long row.
std::vector<int64_t> row_lengths() {
    std::vector<int64_t> lengths;
    for (int64_t n = 1; n <= 140; ++n) lengths.push_back(n);
    lengths.insert(lengths.end(), {511, 512, 513, 4099});
    return lengths;
}

template <class Check>
void for_each_row_length(Check check) {
    Random random(4);
    for (const KernelTable* table : test::tables()) {
        for (const int64_t n : row_lengths()) check(*table, random, n);
    }
}

TEST(row_largest_magnitude) {
    for_each_row_length([](const KernelTable& table, Random& random, int64_t n) {
        auto x = random.floats(n);
        float wanted = 0.0f;
        for (const float value : x) wanted = std::max(wanted, std::fabs(value));
        CHECK(table.rows.largest_magnitude(x.data(), n) == wanted, "%s n = %lld", table.name, (long long)n);
        for (const float broken : {NAN, -INFINITY}) {
            x[static_cast<size_t>(random.below(static_cast<int32_t>(n)))] = broken;
            CHECK(!std::isfinite(table.rows.largest_magnitude(x.data(), n)), "%s hides %g", table.name,
                  static_cast<double>(broken));
        }
    });
}

TEST(row_dot) {
    for_each_row_length([](const KernelTable& table, Random& random, int64_t n) {
        const auto x = random.floats(n), y = random.floats(n);
        double sum = 0.0, size = 0.0;
        for (size_t i = 0; i < x.size(); ++i) {
            const double product = static_cast<double>(x[i]) * static_cast<double>(y[i]);
            sum += product;
            size += std::fabs(product);
        }
        const double got = static_cast<double>(table.rows.dot(x.data(), y.data(), n));
        CHECK(std::fabs(got - sum) <= static_cast<double>(n + 1) * kRounding * size, "%s n = %lld: %.9g, expected %.9g",
              table.name, (long long)n, got, sum);
    });
}

TEST(row_maximum) {
    for_each_row_length([](const KernelTable& table, Random& random, int64_t n) {
        auto x = random.floats(n);
        for (float& value : x) value -= 100.0f;  // a lane filled with zero would win
        for (int64_t at : {int64_t{0}, n / 2, n - 1}) {
            const float kept = x[static_cast<size_t>(at)];
            x[static_cast<size_t>(at)] = -50.0f;
            CHECK(table.rows.maximum(x.data(), n) == -50.0f, "%s n = %lld, largest at %lld", table.name, (long long)n,
                  (long long)at);
            x[static_cast<size_t>(at)] = kept;
        }
    });
}

TEST(row_larger_of) {
    for_each_row_length([](const KernelTable& table, Random& random, int64_t n) {
        auto x = random.floats(n), got = random.floats(n + 1);
        x[static_cast<size_t>(n / 2)] = -INFINITY;  // a hidden score
        got[static_cast<size_t>(n)] = kGuard;
        auto wanted = got;
        table.rows.larger_of(0.3f, x.data(), got.data(), n);
        kReferenceKernels.rows.larger_of(0.3f, x.data(), wanted.data(), n);
        CHECK(got == wanted, "%s n = %lld", table.name, (long long)n);
    });
}

// exp(factor x - shift): reducing an argument as large as 87 costs its rounding, besides that of the polynomial.
void check_exp(const KernelTable& table, int64_t n, double argument, float got) {
    const double wanted = std::exp(argument), value = static_cast<double>(got);
    CHECK(std::fabs(value - wanted) <= 8 * kRounding * wanted + 1e-37, "%s n = %lld: exp %.9g, expected %.9g",
          table.name, (long long)n, value, wanted);
}

constexpr float kFactor = 0.25f;  // a product with it is exact, so an argument does not depend on fused rounding

TEST(row_exp_sum) {
    for_each_row_length([](const KernelTable& table, Random& random, int64_t n) {
        auto x = random.floats(n + 1, 32.0f);
        x[static_cast<size_t>(n)] = kGuard;
        const float shift = kFactor * kReferenceKernels.rows.maximum(x.data(), n);
        x[static_cast<size_t>(n / 3)] = -INFINITY;  // a hidden score
        const auto start = x;
        const double got = static_cast<double>(table.rows.exp_sum(x.data(), kFactor, shift, n));
        double sum = 0.0;
        for (size_t i = 0; i < static_cast<size_t>(n); ++i) {
            const double argument = static_cast<double>(kFactor * start[i] - shift);
            check_exp(table, n, argument, x[i]);
            sum += std::exp(argument);
        }
        CHECK(std::fabs(got - sum) <= static_cast<double>(n + 8) * kRounding * sum,
              "%s n = %lld: sum %.9g, expected %.9g", table.name, (long long)n, got, sum);
        CHECK(x[static_cast<size_t>(n)] == kGuard, "%s n = %lld writes past its row", table.name, (long long)n);
    });
}

TEST(row_exp_add) {
    for_each_row_length([](const KernelTable& table, Random& random, int64_t n) {
        auto x = random.floats(n + 1, 32.0f), sums = random.floats(n + 1);
        const auto shifts = random.floats(n);
        x[static_cast<size_t>(n)] = sums[static_cast<size_t>(n)] = kGuard;
        x[static_cast<size_t>(n / 3)] = -INFINITY;
        const auto start = x, before = sums;
        table.rows.exp_add(kFactor, shifts.data(), x.data(), sums.data(), n);
        for (size_t i = 0; i < static_cast<size_t>(n); ++i) {
            check_exp(table, n, static_cast<double>(kFactor * start[i] - shifts[i]), x[i]);
            CHECK(sums[i] == before[i] + x[i], "%s n = %lld: sum %.9g", table.name, (long long)n,
                  static_cast<double>(sums[i]));
        }
        CHECK(x[static_cast<size_t>(n)] == kGuard && sums[static_cast<size_t>(n)] == kGuard,
              "%s n = %lld writes past its row", table.name, (long long)n);
    });
}

// Sequences are cut where nothing needs more of them, so a query may stand in a full register or in the rest: its value must
// not tell. The factor is no power of two, with which rounding the product first would show.
TEST(row_exp_add_does_not_depend_on_its_length) {
    constexpr int64_t kMost = 48;
    for (const cpuft::KernelTable* table : test::tables()) {
        Random random(46);
        const auto x = random.floats(kMost), shifts = random.floats(kMost), sums = random.floats(kMost);
        auto whole_x = x, whole_sums = sums;
        table->rows.exp_add(0.3535f, shifts.data(), whole_x.data(), whole_sums.data(), kMost);
        for (int64_t n = 1; n < kMost; ++n) {
            auto part_x = x, part_sums = sums;
            table->rows.exp_add(0.3535f, shifts.data(), part_x.data(), part_sums.data(), n);
            CHECK(std::equal(part_x.begin(), part_x.begin() + n, whole_x.begin()) &&
                      std::equal(part_sums.begin(), part_sums.begin() + n, whole_sums.begin()),
                  "%s, n = %lld", table->name, (long long)n);
        }
    }
}

TEST(row_exp_keeps_what_is_no_number) {
    for_each_row_length([](const KernelTable& table, Random& random, int64_t n) {
        auto x = random.floats(n);
        x[static_cast<size_t>(n / 2)] = NAN;
        const float sum = table.rows.exp_sum(x.data(), 1.0f, 1.0f, n);
        CHECK(std::isnan(sum) && std::isnan(x[static_cast<size_t>(n / 2)]), "%s n = %lld: a NaN became %g, the sum %g",
              table.name, (long long)n, static_cast<double>(x[static_cast<size_t>(n / 2)]), static_cast<double>(sum));
    });
}

// Below exp(-87), where float32 ends, the fast exponential is 0 or exp(-88); times a value of some hundred.
constexpr double kVanishing = 1e-35;

// Rows whose every value must equal the reference's within `roundings` of itself, and that must not be overrun.
void check_row(const char* what, const KernelTable& table, int64_t n, const std::vector<float>& got,
               const std::vector<float>& wanted, const std::vector<double>& sizes, double roundings) {
    for (size_t i = 0; i < static_cast<size_t>(n); ++i) {
        const double difference = std::fabs(static_cast<double>(got[i]) - static_cast<double>(wanted[i]));
        CHECK(difference <= roundings * kRounding * sizes[i] + kVanishing, "%s %s n = %lld [%zu]: %.9g, expected %.9g",
              table.name, what, (long long)n, i, static_cast<double>(got[i]), static_cast<double>(wanted[i]));
    }
    CHECK(got[static_cast<size_t>(n)] == kGuard, "%s %s n = %lld writes past its row", table.name, what, (long long)n);
}

std::vector<float> guarded(std::vector<float> row) {
    row.push_back(kGuard);
    return row;
}

TEST(row_axpy_scale_multiply) {
    for_each_row_length([](const KernelTable& table, Random& random, int64_t n) {
        const auto x = random.floats(n), w = random.floats(n), y = random.floats(n);
        std::vector<double> sizes(static_cast<size_t>(n));
        for (size_t i = 0; i < sizes.size(); ++i) {
            sizes[i] = std::fabs(static_cast<double>(y[i])) +
                       2.0 * std::fabs(static_cast<double>(x[i]) * (1.0 + std::fabs(static_cast<double>(w[i]))));
        }
        auto got = guarded(y), wanted = guarded(y);
        table.rows.axpy(1.7f, x.data(), got.data(), n);
        kReferenceKernels.rows.axpy(1.7f, x.data(), wanted.data(), n);
        check_row("axpy", table, n, got, wanted, sizes, 2);
        table.rows.scale(-0.3f, got.data(), n);
        kReferenceKernels.rows.scale(-0.3f, wanted.data(), n);
        check_row("scale", table, n, got, wanted, sizes, 3);
        table.rows.multiply(1.9f, x.data(), w.data(), got.data(), n);
        kReferenceKernels.rows.multiply(1.9f, x.data(), w.data(), wanted.data(), n);
        check_row("multiply", table, n, got, wanted, sizes, 2);
    });
}

// The cap's slope is 1 - tanh^2, so its error is that of tanh^2, not a part of itself.
TEST(row_soft_cap) {
    for_each_row_length([](const KernelTable& table, Random& random, int64_t n) {
        constexpr float kCap = 5.0f;
        auto x = random.floats(n, 20.0f);
        const float extremes[] = {0.0f, 1e-6f, -0.01f, 5.99f, 6.01f, -6.0f, 1e4f, -1e4f};  // 6: tanh(0.3), a seam
        for (size_t i = 0; i < 8 && i < x.size(); ++i) x[(7 * i) % x.size()] = extremes[i];
        auto got = guarded(x), slope = guarded(x), alone = got;
        table.rows.soft_cap(kFactor, kCap, got.data(), slope.data(), n);
        table.rows.soft_cap(kFactor, kCap, alone.data(), nullptr, n);
        CHECK(alone == got, "%s n = %lld: other values without slopes", table.name, (long long)n);
        for (size_t i = 0; i < x.size(); ++i) {
            const double cap = static_cast<double>(kCap), t = std::tanh(static_cast<double>(kFactor * x[i]) / cap);
            const double value = static_cast<double>(got[i]), off = static_cast<double>(slope[i]) - (1.0 - t * t);
            CHECK(std::fabs(value - cap * t) <= 12 * kRounding * cap * std::fabs(t), "%s n = %lld: %.9g, expected %.9g",
                  table.name, (long long)n, value, cap * t);
            CHECK(std::fabs(off) <= 24 * kRounding * t * t + kRounding, "%s n = %lld: slope at %g is off by %g",
                  table.name, (long long)n, static_cast<double>(x[i]), off);
        }
        CHECK(got[x.size()] == kGuard && slope[x.size()] == kGuard, "%s n = %lld writes past its row", table.name,
              (long long)n);
    });
}

TEST(row_softmax_backward) {
    for_each_row_length([](const KernelTable& table, Random& random, int64_t n) {
        const auto p = random.floats(n), dp = random.floats(n);
        std::vector<double> sizes(static_cast<size_t>(n));
        for (size_t i = 0; i < sizes.size(); ++i)
            sizes[i] = std::fabs(static_cast<double>(p[i])) * (std::fabs(static_cast<double>(dp[i])) + 0.7);
        auto got = guarded(dp), wanted = guarded(dp);
        table.rows.softmax_backward(p.data(), 0.7f, 0.3f, got.data(), n);
        kReferenceKernels.rows.softmax_backward(p.data(), 0.7f, 0.3f, wanted.data(), n);
        check_row("softmax_backward", table, n, got, wanted, sizes, 2);
    });
}

TEST(row_silu_multiply) {
    for_each_row_length([](const KernelTable& table, Random& random, int64_t n) {
        auto gate = random.floats(n, 4.0f);
        const auto up = random.floats(n);
        const float extremes[] = {0.0f, 200.0f, -200.0f, 87.5f, -87.5f, 1e-30f};
        for (size_t i = 0; i < 6 && i < gate.size(); ++i) gate[(7 * i) % gate.size()] = extremes[i];
        std::vector<double> sizes(static_cast<size_t>(n));
        for (size_t i = 0; i < sizes.size(); ++i) {
            const double z = static_cast<double>(gate[i]);
            sizes[i] = std::fabs(z / (1.0 + std::exp(-z)) * static_cast<double>(up[i]));
        }
        auto got = guarded(up), wanted = guarded(up);
        table.rows.silu_multiply(gate.data(), up.data(), got.data(), n);
        kReferenceKernels.rows.silu_multiply(gate.data(), up.data(), wanted.data(), n);
        check_row("silu_multiply", table, n, got, wanted, sizes, 24);
    });
}

// The magnitudes of what an activation of z and its derivative are sums of: rounding errors are relative to these.
struct GateSizes {
    double value, derivative;
};

using GateBackward = decltype(cpuft::RowKernels::silu_multiply_backward);

void check_gate_backward(const char* name, GateBackward cpuft::RowKernels::* kernel, GateSizes (*sizes_at)(double z)) {
    for_each_row_length([&](const KernelTable& table, Random& random, int64_t n) {
        const auto gate = random.floats(n, 4.0f), up = random.floats(n), dout = random.floats(n);
        std::vector<double> gate_sizes(static_cast<size_t>(n)), up_sizes(gate_sizes), out_sizes(gate_sizes);
        for (size_t i = 0; i < gate_sizes.size(); ++i) {
            const GateSizes sizes = sizes_at(static_cast<double>(gate[i]));
            const double u = std::fabs(static_cast<double>(up[i])), d = std::fabs(static_cast<double>(dout[i]));
            gate_sizes[i] = d * u * sizes.derivative;
            up_sizes[i] = d * sizes.value;
            out_sizes[i] = u * sizes.value;
        }
        auto wanted_gate = guarded(dout), wanted_up = guarded(dout), wanted_out = guarded(dout);
        (kReferenceKernels.rows.*kernel)(gate.data(), up.data(), dout.data(), wanted_gate.data(), wanted_up.data(),
                                         wanted_out.data(), n);
        const std::string label = name;
        for (int overlap = 0; overlap < 4; ++overlap) {  // nothing, dgate, dup or out is the array that holds dout
            auto got_gate = guarded(dout), got_up = guarded(dout), got_out = guarded(dout);
            const float* ins[] = {dout.data(), got_gate.data(), got_up.data(), got_out.data()};
            (table.rows.*kernel)(gate.data(), up.data(), ins[overlap], got_gate.data(), got_up.data(), got_out.data(),
                                 n);
            check_row((label + " dgate").c_str(), table, n, got_gate, wanted_gate, gate_sizes, 32);
            check_row((label + " dup").c_str(), table, n, got_up, wanted_up, up_sizes, 32);
            check_row((label + " out").c_str(), table, n, got_out, wanted_out, out_sizes, 32);
        }
        auto alone_gate = guarded(dout), alone_up = guarded(dout);
        (table.rows.*kernel)(gate.data(), up.data(), dout.data(), alone_gate.data(), alone_up.data(), nullptr, n);
        check_row((label + " dgate without out").c_str(), table, n, alone_gate, wanted_gate, gate_sizes, 32);
    });
}

TEST(row_silu_multiply_backward) {
    check_gate_backward("silu_multiply_backward", &cpuft::RowKernels::silu_multiply_backward, [](double z) {
        const double s = 1.0 / (1.0 + std::exp(-z));
        return GateSizes{std::fabs(z * s), s * (1.0 + std::fabs(z) * (1.0 + s))};
    });
}

TEST(row_gelu_multiply) {
    for_each_row_length([](const KernelTable& table, Random& random, int64_t n) {
        auto gate = random.floats(n, 4.0f);
        const auto up = random.floats(n);
        const float extremes[] = {0.0f, 200.0f, -200.0f, 9.0f, -9.0f, 1e-30f};
        for (size_t i = 0; i < 6 && i < gate.size(); ++i) gate[(7 * i) % gate.size()] = extremes[i];
        std::vector<double> sizes(static_cast<size_t>(n));
        // Of z, not of gelu(z), which is next to nothing far below 0.
        for (size_t i = 0; i < sizes.size(); ++i)
            sizes[i] = std::fabs(static_cast<double>(gate[i]) * static_cast<double>(up[i]));
        auto got = guarded(up), wanted = guarded(up);
        table.rows.gelu_multiply(gate.data(), up.data(), got.data(), n);
        kReferenceKernels.rows.gelu_multiply(gate.data(), up.data(), wanted.data(), n);
        check_row("gelu_multiply", table, n, got, wanted, sizes, 24);
    });
}

TEST(row_gelu_multiply_backward) {
    check_gate_backward("gelu_multiply_backward", &cpuft::RowKernels::gelu_multiply_backward, [](double z) {
        return GateSizes{std::fabs(z), 1.0 + std::fabs(z) * 1.6 * (1.0 + 0.14 * z * z)};
    });
}

TEST(row_dropout) {
    for_each_row_length([](const KernelTable& table, Random& random, int64_t n) {
        const auto x = random.floats(n);
        for (const uint64_t key : {uint64_t{0}, uint64_t{1}, uint64_t{0x123456789ABCDEF0}, ~uint64_t{0}}) {
            for (const uint32_t threshold : {0u, 429496730u, 0x80000000u, 0xFFFFFFFFu}) {
                auto got = guarded(x), wanted = guarded(x);
                table.rows.dropout(x.data(), key, threshold, 1.25f, got.data(), n);
                kReferenceKernels.rows.dropout(x.data(), key, threshold, 1.25f, wanted.data(), n);
                CHECK(got == wanted, "%s n = %lld, threshold %u: another mask", table.name, (long long)n, threshold);
            }
        }
    });
}

// The mask keeps the share that it should, and neither neighbours nor rows of neighbouring keys go together.
TEST(dropout_masks_are_independent) {
    constexpr int64_t kValues = 1024, kKeys = 512;
    const std::vector<float> ones(kValues, 1.0f);
    std::vector<float> row(kValues), previous(kValues);
    double kept = 0, beside = 0, above = 0;
    for (uint64_t key = 0; key < kKeys; ++key) {
        kReferenceKernels.rows.dropout(ones.data(), key, 0x80000000u, 1.0f, row.data(), kValues);
        for (size_t i = 0; i < kValues; ++i) {
            kept += static_cast<double>(row[i]);
            if (i > 0) beside += static_cast<double>(row[i] == row[i - 1]);
            if (key > 0) above += static_cast<double>(row[i] == previous[i]);
        }
        previous = row;
    }
    const double n = kValues * kKeys, deviation = 0.5 * std::sqrt(n);
    CHECK(std::fabs(kept - n / 2) < 5 * deviation, "%g of %g kept", kept, n);
    CHECK(std::fabs(beside - (n - kKeys) / 2) < 5 * deviation, "%g of %g neighbours are equal", beside, n);
    CHECK(std::fabs(above - (n - kValues) / 2) < 5 * deviation, "%g of %g values equal those of the next key", above,
          n);
}

}  // namespace
