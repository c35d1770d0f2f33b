// What is kept between the passes comes back as it was, rounded once: to bfloat16, or to bytes of each block's scale.
#include "stored_rows.h"

#include <algorithm>
#include <utility>

#include "check.h"

using cpuft::Compute;
using cpuft::kByteBlock;
using cpuft::Storage;
using cpuft::StoredRows;

namespace {

constexpr std::pair<Storage, const char*> kStorages[] = {
    {Storage::kF32, "f32"}, {Storage::k24, "24 bits"}, {Storage::kBf16, "bf16"}, {Storage::kBytes, "bytes"}};

// The most that value i of a row may be off.
double largest_error(Storage storage, const float* row, int64_t n, int64_t i) {
    if (storage == Storage::kF32) return 0.0;
    if (storage == Storage::k24) return std::fabs(static_cast<double>(row[i])) * 0x1p-16;
    if (storage == Storage::kBf16) return std::fabs(static_cast<double>(row[i])) * 0x1p-8;
    double largest = 0.0;
    const int64_t first = i / kByteBlock * kByteBlock;
    for (int64_t j = first; j < std::min(n, first + kByteBlock); ++j)
        largest = std::max(largest, std::fabs(static_cast<double>(row[j])));
    return largest / 127 * (0.5 + 127 * 4 * test::kRounding);  // half a step; scale and quotient are rounded, too
}

TEST(stored_rows_come_back) {
    for (const cpuft::KernelTable* table : test::tables()) {
        Compute compute(2, *table, cpuft::Precision::kF32);
        test::Random random(41);
        StoredRows stored;  // one for all: rows of any size and storage may follow each other
        for (const int64_t n : {1, 3, 17, 63, 64, 65, 130, 257}) {
            for (const auto& [storage, name] : kStorages) {
                const int64_t T = 1 + n % 40;
                auto x = random.floats(T * n);
                x[0] *= 100.0f;  // coarsens its own block alone
                std::fill_n(x.end() - std::min<int64_t>(n, 9), std::min<int64_t>(n, 9), 0.0f);
                stored.store(compute, storage, x.data(), T, n);
                std::vector<float> all(x.size(), NAN), values(static_cast<size_t>(n));
                stored.load(compute, all.data());
                for (int64_t t = 0; t < T; ++t) {
                    const float *row = x.data() + t * n, *got = stored.row(table->rows, t, values.data());
                    for (int64_t i = 0; i < n; ++i) {
                        CHECK(got[i] == all[static_cast<size_t>(t * n + i)], "%s %s: a row is not the array's",
                              table->name, name);
                        const double off = std::fabs(static_cast<double>(got[i]) - static_cast<double>(row[i]));
                        CHECK(off <= largest_error(storage, row, n, i), "%s %s n = %lld [%lld]: %g became %g",
                              table->name, name, (long long)n, (long long)i, static_cast<double>(row[i]),
                              static_cast<double>(got[i]));
                    }
                }
            }
        }
    }
}

// The forward pass goes on with what the backward pass will read, to the bit, whether it is kept or not.
TEST(rounded_rows_are_what_comes_back) {
    for (const cpuft::KernelTable* table : test::tables()) {
        Compute compute(2, *table, cpuft::Precision::kF32);
        test::Random random(43);
        for (const int64_t n : {1, 15, 64, 100, 257}) {
            const int64_t T = 19;
            const auto x = random.floats(T * n, 3.0f);
            for (const auto& [storage, name] : kStorages) {
                StoredRows stored;
                stored.store(compute, storage, x.data(), T, n);
                std::vector<float> wanted(x.size(), NAN), apart(x.size(), NAN), in_place = x;
                stored.load(compute, wanted.data());
                const float* got = cpuft::round_rows(compute, storage, x.data(), T, n, apart.data());
                CHECK(std::equal(wanted.begin(), wanted.end(), got), "%s %s n = %lld", table->name, name, (long long)n);
                cpuft::round_rows(compute, storage, in_place.data(), T, n, in_place.data());
                CHECK(in_place == wanted, "%s %s n = %lld in place", table->name, name, (long long)n);
            }
        }
    }
}

// A run must be able to see that it has diverged.
TEST(stored_rows_do_not_hide_broken_values) {
    const int64_t n = 2 * kByteBlock;
    for (const cpuft::KernelTable* table : test::tables()) {
        Compute compute(1, *table, cpuft::Precision::kF32);
        for (const auto& [storage, name] : kStorages) {
            for (const float broken : {NAN, INFINITY, -INFINITY}) {
                std::vector<float> x(static_cast<size_t>(n), 1.0f), got(x.size());
                x[3] = broken;
                StoredRows stored;
                stored.store(compute, storage, x.data(), 1, n);
                stored.load(compute, got.data());
                CHECK(!std::isfinite(got[3]), "%s %s: %g became %g", table->name, name, static_cast<double>(broken),
                      static_cast<double>(got[3]));
                CHECK(got[kByteBlock] == 1.0f, "%s %s: spoiled the next block", table->name, name);
            }
        }
    }
}

// Fast kernels and the reference round alike, to the bit.
TEST(rows_of_bytes_are_the_same_everywhere) {
    test::Random random(42);
    for (const int64_t n : {1, 15, 64, 100, 1000}) {
        const auto x = random.floats(n, 3.0f);
        const size_t n_blocks = static_cast<size_t>((n + kByteBlock - 1) / kByteBlock);
        std::vector<int8_t> wanted(x.size()), got(x.size());
        std::vector<float> wanted_scales(n_blocks), scales(n_blocks), wanted_values(x.size()), values(x.size());
        const cpuft::RowKernels& reference = cpuft::kReferenceKernels.rows;
        reference.to_bytes(x.data(), wanted.data(), wanted_scales.data(), n);
        reference.from_bytes(wanted.data(), wanted_scales.data(), wanted_values.data(), n);
        for (const cpuft::KernelTable* table : test::tables()) {
            table->rows.to_bytes(x.data(), got.data(), scales.data(), n);
            table->rows.from_bytes(got.data(), scales.data(), values.data(), n);
            CHECK(got == wanted && scales == wanted_scales && values == wanted_values, "%s n = %lld", table->name,
                  (long long)n);
        }
    }
}

}  // namespace
