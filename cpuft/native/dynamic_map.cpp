#include "dynamic_map.h"

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
    if (!has_sign) thresholds_[0] = 0.0f;
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
