#include "adapter.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "error.h"
#include "random.h"

namespace cpuft {

std::vector<AdapterTensor> adapter_tensors(const Model& model, const AdapterShape& shape) {
    if (shape.rank < 1 || shape.rank > 4096)
        refuse("LoRA rank %lld is out of range; expected 1 to 4096", (long long)shape.rank);
    if (shape.targets == 0 || shape.targets >= (1u << CPUFT_TARGET_COUNT))
        refuse("the set of LoRA targets, %u, is empty or names unknown layers", shape.targets);
    if (shape.first_layer < 0 || shape.first_layer >= model.dims.n_layer) {
        refuse("first adapted layer %lld is out of range; the model has layers 0 to %lld", (long long)shape.first_layer,
               (long long)model.dims.n_layer - 1);
    }
    std::vector<AdapterTensor> tensors;
    int64_t offset = 0;
    const auto add = [&](const std::string& name, int64_t rows, int64_t cols) {
        tensors.push_back({name, rows, cols, offset});
        offset += rows * cols;
    };
    for (int64_t layer = shape.first_layer; layer < model.dims.n_layer; ++layer) {
        for (size_t target = 0; target < CPUFT_TARGET_COUNT; ++target) {
            if (!shape.adapts(layer, target)) continue;
            const Matrix& weight = model.layers[static_cast<size_t>(layer)].linears[target].weight;
            const std::string name = "blk." + std::to_string(layer) + "." + kTargetNames[target] + ".weight";
            add(name + ".lora_a", shape.rank, weight.cols);
            add(name + ".lora_b", weight.rows, shape.rank);
        }
    }
    return tensors;
}

std::vector<int64_t> tensor_sizes(const std::vector<AdapterTensor>& tensors) {
    std::vector<int64_t> sizes;
    for (const AdapterTensor& tensor : tensors) sizes.push_back(tensor.rows * tensor.cols);
    return sizes;
}

Adapter::Adapter(const Model& model, int32_t rank, float alpha, float dropout, uint32_t targets, int32_t first_layer,
                 uint64_t seed, cpuft_moments moments)
    : shape_{rank, targets, first_layer}, dropout_(dropout), tensors_(adapter_tensors(model, shape_)) {
    if (!std::isfinite(alpha) || alpha <= 0.0f)
        refuse("LoRA alpha %g is no positive number", static_cast<double>(alpha));
    if (!(dropout >= 0.0f && dropout < 1.0f))
        refuse("LoRA dropout %g is out of range; expected 0 <= dropout < 1", static_cast<double>(dropout));
    const std::vector<int64_t> sizes = tensor_sizes(tensors_);
    size_ = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
    for (Buffer<float>* array : {&parameters_, &gradients_}) std::fill_n(array->reserve(size_), size_, 0.0f);
    moments_ = Moments(moments, sizes);
    loras_.resize(static_cast<size_t>(model.dims.n_layer * CPUFT_TARGET_COUNT));
    auto tensor = tensors_.begin();
    for (size_t i = 0; i < loras_.size(); ++i) {
        if (!shape_.adapts(static_cast<int64_t>(i / CPUFT_TARGET_COUNT), i % CPUFT_TARGET_COUNT)) continue;
        Lora& lora = loras_[i];
        lora.rank = rank;
        lora.scale = alpha / static_cast<float>(rank);
        lora.a = parameters() + tensor->offset;
        lora.da = gradients() + tensor++->offset;
        lora.b = parameters() + tensor->offset;
        lora.db = gradients() + tensor++->offset;
    }
    initialize(seed);
}

// A ~ U(-1/sqrt(n_in), 1/sqrt(n_in)), B = 0: the adapter starts as the identity.
void Adapter::initialize(uint64_t seed) {
    for (size_t i = 0; i < tensors_.size(); i += 2) {
        const AdapterTensor& a = tensors_[i];
        const float bound = 1.0f / std::sqrt(static_cast<float>(a.cols));
        for (int64_t j = 0; j < a.rows * a.cols; ++j) {
            const uint64_t bits = mix64(mix64(seed + i) + static_cast<uint64_t>(j));
            const float unit =
                static_cast<float>(bits >> 40) / 16777216.0f;  // 24 bits: [0, 1) without rounding up to 1
            parameters()[a.offset + j] = bound * (2.0f * unit - 1.0f);
        }
    }
}

const Lora* Adapter::lora(int64_t layer, cpuft_target target) const {
    const Lora& lora = loras_[static_cast<size_t>(layer) * CPUFT_TARGET_COUNT + static_cast<size_t>(target)];
    return lora.rank == 0 ? nullptr : &lora;
}

void Adapter::zero_gradients(Compute& compute) {
    constexpr int64_t kRun = 16384;
    compute.pool.parallel_for((size_ + kRun - 1) / kRun, [&](int64_t run, int) {
        std::fill_n(gradients() + run * kRun, std::min(kRun, size_ - run * kRun), 0.0f);
    });
}

}  // namespace cpuft
