// Counter-based random numbers: a value depends on its key alone, so it is the same on any thread and in any order.
#pragma once

#include <cstdint>

namespace cpuft {

// SplitMix64 (Steele, Lea & Flood 2014): the value that follows state `x`.
inline uint64_t mix64(uint64_t x) {
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

}  // namespace cpuft
