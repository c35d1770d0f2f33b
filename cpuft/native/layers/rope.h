// Rotary position embedding (Su et al. 2021, arXiv:2104.09864): pairs of values of each head are turned by an angle that
// grows with the position: position * base^(-2i / n_rotated) / factor_i. LongRoPE has other factors for long sequences, and
// multiplies what is turned by a constant.
#pragma once

#include <vector>

#include "../compute.h"
#include "../model.h"

namespace cpuft {

// Cosines and sines of all angles up to a position, times the magnitude; grown as needed. Row p has those of position p; in a
// sequence of more than n_short tokens, row n_short + p.
class RopeTable {
  public:
    explicit RopeTable(const RopeFacts& facts) : facts_(facts) {}
    void grow(int64_t n_rows);
    const RopeFacts& facts() const { return facts_; }
    const float* cosines(int64_t row) const { return cosines_.data() + row * facts_.n_rotated / 2; }
    const float* sines(int64_t row) const { return sines_.data() + row * facts_.n_rotated / 2; }

  private:
    const RopeFacts& facts_;
    std::vector<float> cosines_, sines_;  // [n_rows, n_rotated / 2]
};

// x: [T, n_heads, D], turned in place; positions: [T] rows of the table
void rope_forward(Compute& compute, const RopeTable& table, const int32_t* positions, int64_t T, int64_t n_heads,
                  int64_t D, float* x);

// The gradient of a rotation is the rotation back, with the same magnitude.
void rope_backward(Compute& compute, const RopeTable& table, const int32_t* positions, int64_t T, int64_t n_heads,
                   int64_t D, float* dx);

}  // namespace cpuft
