// 8-bit moments: codes stand for the nearest value of the map, blocks keep to their tensors, extremes stay finite.
// tests/engine/test_moments.py compares the map's values and whole optimizer steps with NumPy.
#include "moments.h"

#include <algorithm>
#include <cfloat>
#include <cstring>

#include "check.h"
#include "dynamic_map.h"
#include "error.h"

using cpuft::DynamicMap;
using cpuft::Moments;

namespace {

TEST(map_holds_0_and_1_and_rises) {
    for (const DynamicMap* map : {&DynamicMap::with_sign(), &DynamicMap::without_sign()}) {
        for (int code = 1; code < 256; ++code) {
            CHECK(map->value(static_cast<uint8_t>(code - 1)) < map->value(static_cast<uint8_t>(code)), "code %d", code);
        }
        CHECK(map->value(map->nearest(0.0f)) == 0.0f, "0 becomes %g", map->value(map->nearest(0.0f)));
        CHECK(map->value(255) == 1.0f, "%g", map->value(255));
    }
}

TEST(map_finds_the_nearest_value) {
    test::Random random(1);
    for (const DynamicMap* map : {&DynamicMap::with_sign(), &DynamicMap::without_sign()}) {
        const bool has_sign = map == &DynamicMap::with_sign();
        std::vector<float> inputs = random.floats(20000, 0.4f);
        for (size_t i = 0; i < inputs.size(); ++i) inputs[i] *= std::pow(10.0f, -static_cast<float>(i % 8));
        for (uint32_t bits = 0; bits < 0xFFFF0000u; bits += 0x8000u) {  // both ends of each bucket, and its middle
            for (const uint32_t at : {bits, bits + 0x7FFFu}) {
                float x;
                std::memcpy(&x, &at, sizeof x);
                if (std::isfinite(x)) inputs.push_back(x);
            }
        }
        for (int code = 0; code < 256; ++code) inputs.push_back(map->value(static_cast<uint8_t>(code)));
        for (const float x : {1.0f, -1.0f, 2.0f, -2.0f, INFINITY, -INFINITY, 1e-30f, FLT_MIN / 4}) inputs.push_back(x);
        for (const float x : inputs) {
            double least = INFINITY;
            for (int code = has_sign || x <= 0.0f ? 0 : 1; code < 256; ++code)
                least = std::min(least, std::fabs(static_cast<double>(map->value(static_cast<uint8_t>(code))) - x));
            const float value = map->value(map->nearest(x));
            // Half the sum of two values is rounded once, so next to a threshold either of them may be taken.
            const double slack = 2 * test::kRounding * std::fabs(static_cast<double>(value));
            CHECK(std::fabs(static_cast<double>(value) - x) <= least + slack, "%g becomes %g", x, value);
        }
    }
}

TEST(map_without_sign_rounds_nothing_to_0) {
    for (float x = 1.0f; x > 0.0f; x /= 2) {
        const DynamicMap& map = DynamicMap::without_sign();
        CHECK(map.value(map.nearest(x)) > 0.0f, "%g", x);
    }
}

// Sets both moments of all parameters; what they are is then read back.
void set(Moments& moments, const std::vector<float>& first, const std::vector<float>& second) {
    for (int64_t run = 0; run < moments.n_runs(); ++run) {
        moments.update(run, [&](int64_t offset, int64_t n, float* m, float* v) {
            std::copy_n(first.data() + offset, n, m);
            std::copy_n(second.data() + offset, n, v);
        });
    }
}

void get(Moments& moments, std::vector<float>& first, std::vector<float>& second, std::vector<int>& n_seen) {
    for (int64_t run = 0; run < moments.n_runs(); ++run) {
        moments.update(run, [&](int64_t offset, int64_t n, const float* m, const float* v) {
            for (int64_t i = 0; i < n; ++i) {
                first[static_cast<size_t>(offset + i)] = m[i];
                second[static_cast<size_t>(offset + i)] = v[i];
                ++n_seen[static_cast<size_t>(offset + i)];
            }
        });
    }
}

TEST(moments_keep_to_their_tensors) {
    const std::vector<int64_t> sizes = {1, 255, 256, 257, 40000, 3};
    for (const cpuft_moments precision : {CPUFT_MOMENTS_F32, CPUFT_MOMENTS_8BIT}) {
        Moments moments(precision, sizes);
        int64_t n = 0, n_blocks = 0;
        for (const int64_t size : sizes) n += size, n_blocks += (size + 255) / 256;
        const int64_t expected = precision == CPUFT_MOMENTS_F32 ? 8 * n : 2 * n + 8 * n_blocks;
        CHECK(moments.n_bytes() == expected, "%lld, expected %lld", (long long)moments.n_bytes(), (long long)expected);
        std::vector<float> first = test::Random(2).floats(n), second = test::Random(3).floats(n);
        size_t start = 0;
        for (size_t tensor = 0; tensor < sizes.size(); ++tensor) {  // neighbours differ by far more than the map spans
            const float size = tensor % 2 == 0 ? 1e-9f : 1e9f;
            for (size_t i = start; i < start + static_cast<size_t>(sizes[tensor]); ++i) {
                first[i] = size * (first[i] < 0 ? -1.0f : 1.0f) * (1.0f + std::fabs(first[i]));
                second[i] = size * (1.0f + std::fabs(second[i]));
            }
            start += static_cast<size_t>(sizes[tensor]);
        }
        set(moments, first, second);
        std::vector<float> got_first(first.size()), got_second(first.size());
        std::vector<int> n_seen(first.size());
        get(moments, got_first, got_second, n_seen);
        CHECK(*std::min_element(n_seen.begin(), n_seen.end()) == 1, "a parameter was left out");
        CHECK(*std::max_element(n_seen.begin(), n_seen.end()) == 1, "a parameter was seen twice");
        for (size_t i = 0; i < first.size(); ++i) {
            // Values stand between 1/6 and 1 of their block's largest: in the decade of 64 cells, 128 without sign.
            const float lost = precision == CPUFT_MOMENTS_F32 ? 0.0f : 0.45f * 6 * 1.001f;
            CHECK(std::fabs(got_first[i] - first[i]) <= lost / 64 * std::fabs(first[i]), "%g", first[i]);
            CHECK(std::fabs(got_second[i] - second[i]) <= lost / 128 * second[i], "%g", second[i]);
        }
    }
}

TEST(moments_of_any_size_stay_finite) {
    const int64_t n = 512;
    Moments moments(CPUFT_MOMENTS_8BIT, {n});
    std::vector<float> first(n), second(n), got_first(n), got_second(n);
    for (const float largest : {0.0f, FLT_TRUE_MIN, FLT_MIN, 1.0f, FLT_MAX, INFINITY}) {
        first[5] = -std::min(largest, FLT_MAX);
        second[5] = largest;
        second[6] = std::min(largest, 1e-20f);
        set(moments, first, second);
        std::vector<int> n_seen(n);
        get(moments, got_first, got_second, n_seen);
        for (size_t i = 0; i < static_cast<size_t>(n); ++i) {
            CHECK(std::isfinite(got_first[i]) && std::isfinite(got_second[i]), "%g: %g %g", largest, got_first[i],
                  got_second[i]);
            if (second[i] == 0.0f) CHECK(got_second[i] == 0.0f, "%g", got_second[i]);
        }
        CHECK(got_second[5] == std::min(largest, FLT_MAX), "%g, expected %g", got_second[5], largest);
    }
}

TEST(moments_restore_what_a_step_can_leave) {
    const std::vector<int64_t> sizes = {300, 7};
    for (const cpuft_moments precision : {CPUFT_MOMENTS_F32, CPUFT_MOMENTS_8BIT}) {
        Moments source(precision, sizes), target(precision, sizes);
        const std::vector<float> values = test::Random(4).floats(307);
        std::vector<float> squares = values;
        for (float& x : squares) x *= x;
        set(source, values, squares);
        const size_t n_bytes = static_cast<size_t>(source.n_bytes());
        std::vector<uint8_t> bytes(source.bytes(), source.bytes() + n_bytes);
        target.restore(bytes.data(), source.n_bytes());
        CHECK(std::memcmp(target.bytes(), source.bytes(), n_bytes) == 0, "the state has changed on its way");
        const auto is_refused = [&](int64_t size) {
            try {
                target.restore(bytes.data(), size);
                return false;
            } catch (const cpuft::InputError&) {
                return std::memcmp(target.bytes(), source.bytes(), n_bytes) == 0;
            }
        };
        CHECK(is_refused(source.n_bytes() - 1), "one byte is missing");
        const size_t first_of_second = precision == CPUFT_MOMENTS_F32 ? 307 : 3;
        for (const size_t position : {size_t{0}, first_of_second}) {
            for (const float bad : {NAN, -1.0f, -INFINITY}) {
                if (bad == -1.0f && position == 0 && precision == CPUFT_MOMENTS_F32) continue;  // a first moment may be
                std::memcpy(bytes.data() + position * sizeof(float), &bad, sizeof(float));
                CHECK(is_refused(source.n_bytes()), "%g at %zu is accepted", bad, position);
            }
            std::memcpy(bytes.data(), source.bytes(), n_bytes);
        }
    }
}

}  // namespace
