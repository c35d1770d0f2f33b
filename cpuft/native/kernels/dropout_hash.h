// The dropout mask: a hash of (key, index), so that a mask can be made again in the backward pass, on any thread and in
// any grouping, without being stored.
#pragma once

#include <cstdint>

namespace cpuft {
namespace {

// One row's 32-bit stream seed and step from its 64-bit key.
struct DropoutStream {
    uint32_t low, high;
};

inline DropoutStream dropout_stream(uint64_t key) {
    return {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)};
}

// 32 bits for value `index` of a row: two rounds of a multiply-xorshift mix (constants of Wellons' "lowbias32" search).
inline uint32_t dropout_hash(DropoutStream stream, uint32_t index) {
    uint32_t h = index * 0x9E3779B9u + stream.low;
    h ^= h >> 16;
    h *= 0x7FEB352Du;
    h ^= stream.high;
    h ^= h >> 15;
    h *= 0x846CA68Bu;
    h ^= h >> 16;
    return h;
}

}  // namespace
}  // namespace cpuft
