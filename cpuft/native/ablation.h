// Switches for ablations, read from CPUFT_ABLATE="name=value,…". Not part of the engine.
#pragma once

#include <cstdlib>
#include <map>
#include <string>
#include <vector>
#include <cmath>
#include <algorithm>
#include <cstdint>
#include <cstring>

namespace cpuft {

inline bool ablating = false;  // float32 is what ablations are compared with

inline double knob(const std::string& name, double fallback = 0.0) {
    static const std::map<std::string, double> knobs = [] {
        std::map<std::string, double> m;
        const char* text = std::getenv("CPUFT_ABLATE");
        std::string s = text ? text : "";
        size_t at = 0;
        while (at < s.size()) {
            size_t end = s.find(',', at);
            if (end == std::string::npos) end = s.size();
            const std::string item = s.substr(at, end - at);
            const size_t eq = item.find('=');
            m[item.substr(0, eq)] = eq == std::string::npos ? 1.0 : std::atof(item.c_str() + eq + 1);
            at = end + 1;
        }
        return m;
    }();
    const auto found = knobs.find(name);
    return !ablating || found == knobs.end() ? fallback : found->second;
}

// x[i] = round(x[i] / s) s over blocks of `block`, levels = 127 for int8.
inline void fake(float* x, int64_t n, int64_t block, double levels = 127.0) {
    for (int64_t i = 0; i < n; i += block) {
        const int64_t end = std::min(n, i + block);
        float most = 0;
        for (int64_t j = i; j < end; ++j) most = std::max(most, std::fabs(x[j]));
        if (most == 0) continue;
        const float scale = static_cast<float>(most / levels), inverse = 1.0f / scale;
        for (int64_t j = i; j < end; ++j) x[j] = scale * std::nearbyint(x[j] * inverse);
    }
}


// The same, but each block's `outliers` largest stay as they are.
inline void fake_sparse(float* row, int64_t n, int64_t block, int outliers, double levels = 127.0) {
    if (outliers == 0) return fake(row, n, block, levels);
    std::vector<std::pair<float, int64_t>> order;
    std::vector<std::pair<int64_t, float>> saved;
    for (int64_t b = 0; b < n; b += block) {
        const int64_t size = std::min(block, n - b);
        order.clear();
        saved.clear();
        for (int64_t j = 0; j < size; ++j) order.push_back({-std::fabs(row[b + j]), j});
        std::partial_sort(order.begin(), order.begin() + std::min<int64_t>(outliers, size), order.end());
        for (int i = 0; i < outliers && i < size; ++i) {
            saved.push_back({order[i].second, row[b + order[i].second]});
            row[b + order[i].second] = 0;
        }
        fake(row + b, size, block, levels);
        for (auto [j, v] : saved) row[b + j] = v;
    }
}

}  // namespace cpuft
