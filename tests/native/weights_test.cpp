// The fast readers of weight formats against ggml's own, on blocks of random bits and around every unrolling.
#include <cstring>

#include "check.h"
#include "formats.h"

namespace {

const ggml_type kTypes[] = {GGML_TYPE_F16,  GGML_TYPE_BF16, GGML_TYPE_Q4_0,   GGML_TYPE_Q4_1,  GGML_TYPE_Q5_0,
                            GGML_TYPE_Q5_1, GGML_TYPE_Q8_0, GGML_TYPE_Q2_K,   GGML_TYPE_Q3_K,  GGML_TYPE_Q4_K,
                            GGML_TYPE_Q5_K, GGML_TYPE_Q6_K, GGML_TYPE_IQ4_NL, GGML_TYPE_IQ4_XS};

std::vector<uint8_t> random_bytes(test::Random& random, size_t n) {
    std::vector<uint8_t> bytes(n);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random.below(256));
    return bytes;
}

// Every pattern of bits means something, infinities and NaN as scales too; all must come out as ggml reads them. Formats
// with a minimum compute scale * q - minimum, which a compiler may round once or twice.
TEST(weight_readers) {
    test::Random random(41);
    for (const cpuft::KernelTable* table : test::tables()) {
        for (const ggml_type type : kTypes) {
            const cpuft::WeightReader reader = table->weight_reader(type);
            if (reader == nullptr) continue;
            const int64_t block = ggml_blck_size(type);
            const bool has_minimum = type == GGML_TYPE_Q4_K || type == GGML_TYPE_Q5_K || type == GGML_TYPE_Q2_K ||
                                     type == GGML_TYPE_Q4_1 || type == GGML_TYPE_Q5_1;
            for (int64_t n_blocks = 1; n_blocks <= 70; n_blocks += block == 1 ? 1 : 9) {
                const int64_t n = n_blocks * block;
                const auto bytes = random_bytes(random, ggml_row_size(type, n));
                std::vector<float> got(static_cast<size_t>(n) + 1, 12345.0f), wanted(static_cast<size_t>(n));
                reader(bytes.data(), got.data(), n);
                ggml_get_type_traits(type)->to_float(bytes.data(), wanted.data(), n);
                for (size_t i = 0; i < wanted.size(); ++i) {
                    const double a = static_cast<double>(got[i]), b = static_cast<double>(wanted[i]);
                    double largest = 0.0;  // of the block: bounds scale * q and the minimum
                    const size_t first = i / static_cast<size_t>(block) * static_cast<size_t>(block);
                    for (size_t j = 0; has_minimum && j < static_cast<size_t>(block); ++j) {
                        largest = std::fmax(largest, std::fabs(static_cast<double>(wanted[first + j])));
                    }
                    const bool equal = a == b || (std::isnan(a) && std::isnan(b));
                    CHECK(equal || std::fabs(a - b) <= 4 * test::kRounding * largest,
                          "%s %s [%zu] of %lld: %.9g, ggml %.9g", table->name, ggml_type_name(type), i, (long long)n, a,
                          b);
                }
                CHECK(got.back() == 12345.0f, "%s %s writes past %lld values", table->name, ggml_type_name(type),
                      (long long)n);
            }
        }
    }
}

// Rounding to bfloat16: to nearest, ties to even; NaN and infinity stay.
TEST(narrow_and_widen) {
    for (const cpuft::KernelTable* table : test::tables()) {
        test::Random random(42);
        for (int64_t n = 1; n <= 100; ++n) {
            auto x = random.floats(n);
            const float special[] = {1.00390625f, 1.01171875f, -0.0f,         INFINITY,
                                     -INFINITY,   NAN,         3.3895314e38f, 0x1p-126f};
            for (size_t i = 0; i < 8 && n > 30; ++i) x[(11 * i) % x.size()] = special[i];
            std::vector<uint16_t> narrow(static_cast<size_t>(n) + 1, 0xABCD);
            std::vector<float> wide(static_cast<size_t>(n) + 1, 12345.0f);
            table->rows.narrow(x.data(), narrow.data(), n);
            table->rows.widen(narrow.data(), wide.data(), n);
            for (size_t i = 0; i < x.size(); ++i) {
                uint32_t bits;
                std::memcpy(&bits, &x[i], sizeof bits);
                const auto rounded = static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
                if (std::isnan(x[i])) {
                    CHECK(std::isnan(wide[i]), "%s n = %lld: NaN became %g", table->name, (long long)n,
                          static_cast<double>(wide[i]));
                    continue;
                }
                CHECK(narrow[i] == rounded, "%s n = %lld: %.9g became %04x, expected %04x", table->name, (long long)n,
                      static_cast<double>(x[i]), narrow[i], rounded);
                bits = static_cast<uint32_t>(narrow[i]) << 16;
                CHECK(std::memcmp(&bits, &wide[i], 4) == 0, "%s n = %lld widens %04x to %g", table->name, (long long)n,
                      narrow[i], static_cast<double>(wide[i]));
            }
            CHECK(narrow.back() == 0xABCD && wide.back() == 12345.0f, "%s n = %lld writes past its row", table->name,
                  (long long)n);
        }
    }
}

}  // namespace
