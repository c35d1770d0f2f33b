// DynamicMap: the 256 values in [-1, 1] or [0, 1] that an 8-bit code can stand for, dense near 1 and reaching down to
// 1e-6 (dynamic quantization; Dettmers et al. 2022, arXiv:2110.02861, sections 1.3 and 2.2).
//
// The paper lays a code out in bits: a sign, then e zeros and a one that say "times 10^-e", then a fraction that cuts
// (0.1, 1) into equal cells, whose midpoints are the values. e zeros leave 6 - e bits: the decade below 1 has 64 values,
// the next 32, and so on. A map without sign gives that bit to the fraction, so each of its decades has twice as many.
// The two codes that have no one to end the zeros mean 0 and 1. Here codes are numbered in the order of their values.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>

namespace cpuft {

class DynamicMap {
  public:
    static const DynamicMap& with_sign();
    static const DynamicMap& without_sign();

    float value(uint8_t code) const { return values_[code]; }

    // The code whose value is nearest to x; the lower one where two are. Outside of the map it is the first or the last.
    // Without sign only 0 itself becomes 0: the smallest value stands for all that are smaller still. A second moment
    // that was rounded to 0 would leave the next step nothing to divide by (the zero-point problem; Li et al. 2023,
    // arXiv:2309.01507).
    uint8_t nearest(float x) const {
        uint32_t bits;
        std::memcpy(&bits, &x, sizeof bits);
        const uint8_t code = first_codes_[bits >> kBucketShift];
        return static_cast<uint8_t>(code + (x > thresholds_[code]));
    }

  private:
    explicit DynamicMap(bool has_sign);

    // Floats that share sign, exponent and 7 bits of the mantissa are a bucket. It is narrower than the distance of two
    // thresholds anywhere (1/256 against 1/190 below 1), so one comparison tells its codes apart.
    static constexpr int kBucketShift = 16;

    std::array<float, 256> values_;      // ascending
    std::array<float, 256> thresholds_;  // [i] lies between values i and i + 1; the last is infinite
    std::array<uint8_t, 1 << (32 - kBucketShift)> first_codes_;  // of each bucket's least number
};

}  // namespace cpuft
