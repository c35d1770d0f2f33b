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

// Which linear layers have a LoRA, and how large it is.
struct AdapterShape {
    int64_t rank = 0;
    uint32_t targets = 0;  // OR of (1 << cpuft_target)
    int64_t first_layer = 0;
};

// The matrices of an adapter, end to end: two for each adapted linear layer. Throws InputError for impossible shapes.
std::vector<AdapterTensor> adapter_tensors(const Model& model, const AdapterShape& shape);
// How many values they have, tensor by tensor.
std::vector<int64_t> tensor_sizes(const std::vector<AdapterTensor>& tensors);

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

    const AdapterShape& shape() const { return shape_; }
    int64_t first_layer() const { return shape_.first_layer; }
    float dropout() const { return dropout_; }
    // The LoRA of one linear layer (below kLinearCount), or null where it has none.
    const Lora* lora(int64_t layer, cpuft_target linear) const;
    bool adapts(int64_t layer, cpuft_target linear) const { return lora(layer, linear) != nullptr; }

    void zero_gradients(Compute& compute);
    // The L2 norm of the gradients.
    double gradient_norm(Compute& compute) { return norm(compute, gradients(), size_, norm_sums_); }

  private:
    void attach(const Model& model, int64_t layer, cpuft_target target, float alpha, size_t pair);
    void initialize(uint64_t seed);

    AdapterShape shape_;
    float dropout_;
    int64_t size_;
    std::vector<AdapterTensor> tensors_;
    std::vector<Lora> loras_;  // [layer * kLinearCount + linear layer]; rank 0 where there is none
    Buffer<float> parameters_, gradients_;
    Moments moments_;
    Buffer<double> norm_sums_;
};

}  // namespace cpuft
