// Adapter: the LoRA matrices of a model, with their gradients and optimizer state, as flat arrays.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "buffer.h"
#include "layers/linear_lora.h"
#include "model.h"
#include "moments.h"
#include "optimizer.h"

namespace cpuft {

struct AdapterTensor {
    std::string name;  // as in llama.cpp's adapter files: blk.0.attn_q.weight.lora_a
    int64_t rows, cols, offset;
};

class Adapter {
  public:
    // As cpuft_adapter_init. Throws InputError for impossible values.
    Adapter(const Model& model, int32_t rank, float alpha, float dropout, uint32_t targets, int32_t first_layer,
            uint64_t seed, cpuft_moments moments);

    const std::vector<AdapterTensor>& tensors() const { return tensors_; }
    int64_t size() const { return size_; }
    float* parameters() { return parameters_.data(); }
    float* gradients() { return gradients_.data(); }
    Moments& moments() { return moments_; }

    int64_t first_layer() const { return first_layer_; }
    int64_t rank() const { return rank_; }
    float dropout() const { return dropout_; }
    // The LoRA of one linear layer (below kLinearCount), or null where it has none.
    const Lora* lora(int64_t layer, cpuft_target linear) const;
    bool adapts(int64_t layer, cpuft_target linear) const { return lora(layer, linear) != nullptr; }

    void zero_gradients(Compute& compute);
    // The L2 norm of the gradients.
    double gradient_norm(Compute& compute) { return norm(compute, gradients(), size_, norm_sums_); }

  private:
    void add_tensor(const std::string& name, int64_t rows, int64_t cols);
    void attach(const Model& model, int64_t layer, cpuft_target target, float alpha, size_t pair);
    void initialize(uint64_t seed);

    int64_t rank_, first_layer_, size_ = 0;
    float dropout_;
    std::vector<AdapterTensor> tensors_;
    std::vector<Lora> loras_;  // [layer * kLinearCount + linear layer]; rank 0 where there is none
    Buffer<float> parameters_, gradients_;
    Moments moments_;
    Buffer<double> norm_sums_;
};

}  // namespace cpuft
