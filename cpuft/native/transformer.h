// Transformer: the forward and backward pass of the whole model over one micro-batch. It only calls layers.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "activations.h"
#include "adapter.h"
#include "buffer.h"
#include "compute.h"
#include "cpuft.h"
#include "layers/cross_entropy.h"
#include "layers/linear_lora.h"
#include "layers/rope.h"
#include "layout.h"
#include "model.h"

namespace cpuft {

struct Loss {
    double sum = 0.0;  // nats
    int64_t n_supervised = 0;
};

class Transformer {
  public:
    Transformer(const Model& model, Compute& compute) : model_(model), compute_(compute), rope_(model.rope) {}

    void set_activations(cpuft_activations policy) { policy_ = policy; }

    // adapter may be null in the forward-only calls: the base model alone.
    Loss forward_backward(const MicroBatch& batch, const Adapter& adapter);
    Loss forward(const MicroBatch& batch, const Adapter* adapter);
    void logits(const MicroBatch& batch, const Adapter* adapter, float* logits);
    // frozen: [T, C] out, the residual stream before the adapter's first layer.
    void forward_frozen(const MicroBatch& batch, const Adapter& adapter, float* frozen);

  private:
    enum class Purpose { kTrain, kLoss, kValues };  // kValues: of every token, in the micro-batch's order
    void begin(const MicroBatch& batch, const Adapter* adapter, Purpose purpose);
    void embed(const int32_t* tokens, float* x);
    void forward_layers(const MicroBatch& batch) { forward_layers(batch, model_.dims.n_layer); }
    // Leaves the residual stream before layer `end` in residual(end).
    void forward_layers(const MicroBatch& batch, int64_t end);
    // x: [T, C] in; x_out: [rows behind attention, C] out, or null where only the activations are wanted.
    void forward_layer(int64_t layer, const float* x, Activations& activations, float* x_out);
    // dx: [rows behind attention, C] in: gradient of the layer's output, [T, C] out: of its input.
    void backward_layer(int64_t layer, const float* x, Activations& activations, float* dx);
    void backward_attention(int64_t layer, const float* x, Activations& activations, float* dx);
    // dx: [n_predicting, C] out, or null.
    Loss head(float* dx);
    // Behind the last layer's attention only the tokens that predict a target go on: this many rows, in layout's order.
    int64_t rows_behind_attention(int64_t layer) const;
    bool drops_rows(int64_t layer) const { return rows_behind_attention(layer) < T_; }

    void linear_forward(int64_t layer, cpuft_target target, const LinearInput& input, Activations& activations,
                        bool accumulate, float* y);
    void linear_backward(int64_t layer, cpuft_target target, const float* x, int64_t n, Activations& activations,
                         const float* dy, bool accumulate, float* dx);
    const Lora* lora(int64_t layer, cpuft_target target) const {
        return adapter_ ? adapter_->lora(layer, target) : nullptr;
    }
    bool any_lora(int64_t layer, std::initializer_list<cpuft_target> targets) const;
    Dropout dropout(int64_t layer, cpuft_target target) const;
    bool kept(int64_t layer) const { return training_ && layer >= adapter_->first_layer(); }
    // Whether activations are kept as bfloat16.
    bool keeps_narrow() const { return compute_.precision != Precision::kF32; }
    // The residual stream before a layer, and a layer's activations: kept for the backward pass, or a shared slot.
    Buffer<float>& residual(int64_t layer);
    Activations& activations(int64_t layer);
    // Lends the shared slot's wide arrays to a layer whose activations are kept narrow, or takes them back.
    void exchange_wide(Activations& activations);
    AttentionShape attention_shape() const;

    const Model& model_;
    Compute& compute_;
    RopeTable rope_;
    cpuft_activations policy_ = CPUFT_ACTIVATIONS_KEEP;

    // The pass at hand.
    const Adapter* adapter_ = nullptr;
    bool training_ = false;
    int64_t T_ = 0;
    Layout layout_;

    // Activations by layer, and workspaces that all layers share. They grow to the largest pass and stay.
    std::vector<Buffer<float>> residuals_;  // [L + 1] and two shared slots
    std::vector<Activations> activations_;  // [L] and one shared slot
    LinearInput input_;
    LinearWorkspace linear_;
    HeadWorkspace head_;
    Buffer<float> h_, dh_, dx_;       // [T, C]
    Buffer<float> m_, dm_;            // [T, F]
    Buffer<float> d_o_, dq_;          // [T, H, D]
    Buffer<float> dk_, dv_;           // [T, K, D]
    Buffer<float> delta_;             // [T, H]
    Buffer<float> head_h_, head_dh_;  // [n_predicting, C]
};

}  // namespace cpuft
