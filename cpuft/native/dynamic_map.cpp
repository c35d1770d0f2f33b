#include "dynamic_map.h"

#include <algorithm>
#include <limits>

namespace cpuft {

DynamicMap::DynamicMap(bool has_sign) {
    constexpr int kDecades = 7;
    const uint32_t zero = has_sign ? 127 : 0;  // the code of 0
    uint32_t code = zero;
    values_[code++] = 0.0f;
    double divisor = 1e6;
    for (int decade = 0; decade < kDecades; ++decade, divisor /= 10.0) {
        const uint32_t n_cells = (has_sign ? 1u : 2u) << decade;
        for (uint32_t cell = 0; cell < n_cells; ++cell)
            values_[code++] = static_cast<float>((0.1 + 0.9 * (cell + 0.5) / n_cells) / divisor);
    }
    values_[code] = 1.0f;
    for (uint32_t i = 0; i < zero; ++i) values_[i] = -values_[2 * zero - i];

    for (uint32_t i = 0; i < 255; ++i) thresholds_[i] = 0.5f * (values_[i] + values_[i + 1]);
    thresholds_[255] = std::numeric_limits<float>::infinity();
    if (!has_sign) thresholds_[0] = 0.0f;

    for (uint32_t bucket = 0; bucket < first_codes_.size(); ++bucket) {
        const bool is_negative = bucket >= first_codes_.size() / 2;  // then the least number has the most mantissa bits
        const uint32_t bits = (bucket + is_negative) * (1u << kBucketShift) - is_negative;
        float least;
        std::memcpy(&least, &bits, sizeof least);
        const auto threshold = std::lower_bound(thresholds_.begin(), thresholds_.end() - 1, least);
        first_codes_[bucket] = static_cast<uint8_t>(threshold - thresholds_.begin());  // how many thresholds are below
    }
}

const DynamicMap& DynamicMap::with_sign() {
    static const DynamicMap map(true);
    return map;
}

const DynamicMap& DynamicMap::without_sign() {
    static const DynamicMap map(false);
    return map;
}

}  // namespace cpuft
