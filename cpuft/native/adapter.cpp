#include "adapter.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "error.h"
#include "random.h"

namespace cpuft {

namespace {

void refuse_absent(const Model& model, uint32_t targets) {
    std::string known;
    for (const cpuft_target target : model.targets()) {
        targets &= ~(1u << target);
        known += (known.empty() ? "" : ", ") + std::string(kTargetNames[target].target);
    }
    for (size_t target = 0; target < CPUFT_TARGET_COUNT; ++target) {
        if ((targets >> target & 1u) == 0) continue;
        refuse("%s has no linear layers %s for an adapter; it has %s", model.file.path().c_str(),
               kTargetNames[target].target, known.c_str());
    }
}

// The adapted linear layers that have tensors of their own, in the order of the tensors.
std::vector<std::pair<int64_t, cpuft_target>> adapted_layers(const Model& model, const AdapterShape& shape) {
    std::vector<std::pair<int64_t, cpuft_target>> adapted;
    for (int64_t layer = shape.first_layer; layer < model.dims.n_layer; ++layer) {
        for (uint32_t target = 0; target < CPUFT_TARGET_COUNT; ++target) {
            if ((shape.targets >> target & 1u) != 0) adapted.emplace_back(layer, static_cast<cpuft_target>(target));
        }
    }
    return adapted;
}

}  // namespace

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
    refuse_absent(model, shape.targets);
    for (const auto& [layer, target] : adapted_layers(model, shape)) {
        int64_t rows = 0, cols = 0;
        for (const cpuft_target part : model.parts(target)) {
            const Matrix& weight = model.layers[static_cast<size_t>(layer)].linears[part].weight;
            rows += weight.rows;
            cols = weight.cols;
        }
        const std::string name = "blk." + std::to_string(layer) + "." + kTargetNames[target].tensor + ".weight";
        add(name + ".lora_a", shape.rank, cols);
        add(name + ".lora_b", rows, shape.rank);
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
    loras_.resize(static_cast<size_t>(model.dims.n_layer) * kLinearCount);
    size_t pair = 0;
    for (const auto& [layer, target] : adapted_layers(model, shape_)) attach(model, layer, target, alpha, pair++);
    initialize(seed);
}

// Linear layers whose weights are parts of one tensor share A and its dropout; each has its own rows of B.
void Adapter::attach(const Model& model, int64_t layer, cpuft_target target, float alpha, size_t pair) {
    const AdapterTensor &a = tensors_[2 * pair], &b = tensors_[2 * pair + 1];
    const std::vector<cpuft_target> parts = model.parts(target);
    const auto index = [&](cpuft_target part) { return static_cast<size_t>(layer) * kLinearCount + part; };
    int64_t b_offset = b.offset;
    for (const cpuft_target part : parts) {
        Lora& lora = loras_[index(part)];
        lora.a = parameters() + a.offset;
        lora.da = gradients() + a.offset;
        lora.b = parameters() + b_offset;
        lora.db = gradients() + b_offset;
        lora.rank = shape_.rank;
        lora.scale = alpha / static_cast<float>(shape_.rank);
        lora.dropout_salt = mix64(index(parts.front()));
        b_offset += model.layers[static_cast<size_t>(layer)].linears[part].weight.rows * shape_.rank;
    }
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

const Lora* Adapter::lora(int64_t layer, cpuft_target linear) const {
    const Lora& lora = loras_[static_cast<size_t>(layer) * kLinearCount + linear];
    return lora.rank == 0 ? nullptr : &lora;
}

void Adapter::zero_gradients(Compute& compute) {
    constexpr int64_t kRun = 16384;
    compute.pool.parallel_for((size_ + kRun - 1) / kRun, [&](int64_t run, int) {
        std::fill_n(gradients() + run * kRun, std::min(kRun, size_ - run * kRun), 0.0f);
    });
}

}  // namespace cpuft
