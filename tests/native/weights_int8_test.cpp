// The readers that turn weights straight into bytes, against ggml's float32 readers and the definition of a byte, on blocks
// of random bits.
#include <cstring>

#include "check.h"
#include "formats.h"
#include "kernels/int8_format.h"

using cpuft::Int8Reader;
using cpuft::KernelTable;

namespace {

// Where a block of a format has its codes, and what they are where a weight is outermost: the twin of Int8Reader::bound.
struct Format {
    ggml_type type;
    int64_t first_code, code_bytes;
    std::vector<uint8_t> outermost;            // each a byte that, in place of all codes, gives outermost weights
    std::vector<int64_t> scale_high_bytes{1};  // places of sign and exponent of the f16 scales
};

const Format kFormats[] = {
    {GGML_TYPE_Q8_0, 2, 32, {0x81}},
    {GGML_TYPE_Q4_0, 2, 16, {0}},
    {GGML_TYPE_Q5_0, 2, 20, {0}},
    {GGML_TYPE_IQ4_NL, 2, 16, {0}},
    {GGML_TYPE_IQ4_XS, 8, 128, {0}},
    {GGML_TYPE_Q6_K, 0, 192, {0}, {209}},
    {GGML_TYPE_Q4_K, 16, 128, {0, 0xFF}, {1, 3}},
    {GGML_TYPE_Q5_K, 16, 160, {0, 0xFF}, {1, 3}},
};

// What a product of bytes is off by where ties and fixed-point scales round the other way.
constexpr double kMostRounding = 0.51;

struct Row {
    int64_t n;
    std::vector<uint8_t> bytes;

    std::vector<float> values(ggml_type type) const {
        std::vector<float> values(static_cast<size_t>(n));
        ggml_get_type_traits(type)->to_float(bytes.data(), values.data(), n);
        return values;
    }
};

Row random_row(test::Random& random, const Format& format, int64_t n_blocks, bool finite) {
    const size_t block_bytes = ggml_type_size(format.type);
    Row row{n_blocks * ggml_blck_size(format.type), std::vector<uint8_t>(block_bytes * static_cast<size_t>(n_blocks))};
    for (uint8_t& byte : row.bytes) byte = static_cast<uint8_t>(random.below(256));
    for (size_t block = 0; finite && block < row.bytes.size(); block += block_bytes) {
        for (const int64_t place : format.scale_high_bytes) row.bytes[block + static_cast<size_t>(place)] &= 0xBF;
    }
    return row;
}

// NaN where a value is not finite.
double largest_magnitude(const std::vector<float>& values) {
    double largest = 0.0;
    for (const float value : values) {
        if (!std::isfinite(value)) return NAN;
        largest = std::fmax(largest, std::fabs(static_cast<double>(value)));
    }
    return largest;
}

double reference_bound(const Format& format, const Row& row) {
    double bound = 0.0;
    for (const uint8_t code : format.outermost) {
        Row outermost = row;
        for (size_t block = 0; block < row.bytes.size(); block += ggml_type_size(format.type)) {
            std::memset(outermost.bytes.data() + block + format.first_code, code,
                        static_cast<size_t>(format.code_bytes));
        }
        const double largest = largest_magnitude(outermost.values(format.type));
        if (std::isnan(largest)) return NAN;
        bound = std::fmax(bound, largest);
    }
    return bound;
}

void check_row(const KernelTable& table, const Int8Reader& reader, const Format& format, const Row& row) {
    const char* type = ggml_type_name(format.type);
    const float bound = reader.bound(row.bytes.data(), row.n);
    const double wanted = reference_bound(format, row);
    const auto values = row.values(format.type);
    CHECK(std::isfinite(bound) == std::isfinite(largest_magnitude(values)), "%s %s bound %g of %lld values", table.name,
          type, static_cast<double>(bound), (long long)row.n);
    if (!std::isfinite(wanted)) return;
    CHECK(std::fabs(static_cast<double>(bound) - wanted) <= 4 * test::kRounding * wanted,
          "%s %s bound %.9g of %lld values, expected %.9g", table.name, type, static_cast<double>(bound),
          (long long)row.n, wanted);
    constexpr int8_t kGuard = 0x5A;
    std::vector<int8_t> got(values.size() + 1, kGuard);
    const float inverse = cpuft::int8_inverse(cpuft::int8_scale(bound));
    reader.read(row.bytes.data(), inverse, got.data(), row.n);
    for (size_t i = 0; i < values.size(); ++i) {
        const double exact = std::fmin(127.0, static_cast<double>(values[i]) * static_cast<double>(inverse));
        CHECK(std::fabs(got[i] - exact) <= kMostRounding, "%s %s [%zu] of %lld: %d, expected %g", table.name, type, i,
              (long long)row.n, got[i], exact);
    }
    CHECK(got.back() == kGuard, "%s %s writes past %lld values", table.name, type, (long long)row.n);
}

TEST(int8_readers) {
    test::Random random(43);
    for (const KernelTable* table : test::tables()) {
        if (table->int8 == nullptr || table->int8->direct == nullptr) continue;
        for (const Format& format : kFormats) {
            const Int8Reader* reader = cpuft::int8_reader(*table->int8, format.type);
            CHECK(reader != nullptr, "%s has none for %s", table->name, ggml_type_name(format.type));
            if (reader == nullptr) continue;
            for (int64_t n_blocks = 1; n_blocks <= 20; ++n_blocks) {
                check_row(*table, *reader, format, random_row(random, format, n_blocks, true));
                check_row(*table, *reader, format, random_row(random, format, n_blocks, false));
            }
            Row zeros{ggml_blck_size(format.type), std::vector<uint8_t>(ggml_type_size(format.type))};
            check_row(*table, *reader, format, zeros);
        }
    }
}

}  // namespace
