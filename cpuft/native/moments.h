// Moments: AdamW's first and second moments of all parameters, in float32 or block-wise in 8 bits.
//
// In 8 bits a moment is its block's largest absolute value times one of the 256 values of a DynamicMap (Dettmers et al.
// 2022, arXiv:2110.02861). A block is 256 parameters of one tensor, fewer at the tensor's end, so that tensors of
// different sizes do not share a scale: 2 + 8 / 256 bytes a parameter instead of 8.
#pragma once

#include <cstdint>
#include <vector>

#include "buffer.h"
#include "cpuft.h"

namespace cpuft {

class Moments {
  public:
    Moments() = default;
    // All zero. tensor_sizes: how many parameters each tensor has; tensors lie end to end.
    Moments(cpuft_moments precision, const std::vector<int64_t>& tensor_sizes);
    // The memory that this takes.
    static int64_t bytes_of(cpuft_moments precision, const std::vector<int64_t>& tensor_sizes);

    // The state as cpuft_optimizer_state lays it out.
    const uint8_t* bytes() const { return state_.data(); }
    int64_t n_bytes() const { return n_bytes_; }
    // Takes over a state that bytes() showed. Throws InputError where no state of these tensors has such bytes.
    void restore(const uint8_t* bytes, int64_t n_bytes);

    // Runs of parameters, each inside of one tensor: what one task of a step updates.
    int64_t n_runs() const { return static_cast<int64_t>(runs_.size()); }

    // Calls change(offset, n, first, second) for consecutive parts of a run: n parameters from `offset` on with their
    // moments in float32, which change() updates in place. Only the moments of this run are touched.
    template <class Change>
    void update(int64_t run, Change change) {
        const Run& r = runs_[static_cast<size_t>(run)];
        if (precision_ == CPUFT_MOMENTS_F32) {
            change(r.offset, r.size, floats() + r.offset, floats() + n_ + r.offset);
            return;
        }
        float first[kBlock], second[kBlock];
        for (int64_t start = 0, block = r.first_block; start < r.size; start += kBlock, ++block) {
            const int64_t offset = r.offset + start, n = r.size - start < kBlock ? r.size - start : kBlock;
            dequantize(block, offset, n, first, second);
            change(offset, n, first, second);
            quantize(block, offset, n, first, second);
        }
    }

  private:
    static constexpr int64_t kBlock = 256;        // the paper takes 2048; this is for tensors as small as LoRA's
    static constexpr int64_t kRun = 64 * kBlock;  // 64 KiB of each float32 array
    struct Run {
        int64_t offset, size, first_block;
    };

    void dequantize(int64_t block, int64_t offset, int64_t n, float* first, float* second) const;
    void quantize(int64_t block, int64_t offset, int64_t n, const float* first, const float* second);

    // F32: [first n | second n]. 8BIT: [first scales n_blocks | second scales n_blocks], then the codes.
    float* floats() { return reinterpret_cast<float*>(state_.data()); }
    const float* floats() const { return reinterpret_cast<const float*>(state_.data()); }
    // 8BIT: [first n | second n]
    uint8_t* codes() { return state_.data() + 2 * n_blocks_ * static_cast<int64_t>(sizeof(float)); }
    const uint8_t* codes() const { return state_.data() + 2 * n_blocks_ * static_cast<int64_t>(sizeof(float)); }

    cpuft_moments precision_ = CPUFT_MOMENTS_F32;
    int64_t n_ = 0, n_blocks_ = 0, n_bytes_ = 0;
    std::vector<Run> runs_;
    Buffer<uint8_t> state_;
};

}  // namespace cpuft
