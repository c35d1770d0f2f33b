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
#include "layers/attention.h"
#include "layers/cross_entropy.h"
#include "layers/linear_lora.h"
#include "layers/rope.h"
#include "layout.h"
#include "model.h"
#include "pass_memory.h"
#include "workspace.h"

namespace cpuft {

struct Loss {
    double sum = 0.0;  // nats
    int64_t n_supervised = 0;
};

class Transformer {
  public:
    Transformer(const Model& model, Compute& compute)
        : model_(model),
          compute_(compute),
          ropes_(model.ropes.begin(), model.ropes.end()),
          activations_(static_cast<size_t>(model.dims.n_layer) + 1),
          checkpoints_(static_cast<size_t>(model.dims.n_layer)) {}

    void set_activations(cpuft_activations policy) { policy_ = policy; }
    cpuft_activations policy() const { return policy_; }
    // Tokens that the last pass computed.
    int64_t T() const { return T_; }

    // How large a pass would be; without `supervised` it is one of forward_frozen. See cpuft_pass_size.
    PassSize pass_size(const MicroBatch& batch, bool training, bool dropout) const;
    // The arrays of a pass; they need not be there.
    void count(const PassSize& size, const AdapterShape& adapter, cpuft_activations policy, PassMemory& memory);
    // Makes them, so that passes of that size allocate nothing large.
    void reserve(const PassMemory& memory);
    // The arrays as they are, for tests.
    PassMemory held();

    // adapter may be null in the forward-only calls: the base model alone.
    Loss forward_backward(const MicroBatch& batch, const Adapter& adapter);
    Loss forward(const MicroBatch& batch, const Adapter* adapter);
    // hidden: [T, C] out, what the head multiplies.
    void forward_hidden(const MicroBatch& batch, const Adapter* adapter, float* hidden);
    // The head on n such rows; logits: [n, V] out.
    void logits(const float* hidden, int64_t n, float* logits);
    // frozen: [T, C] out, the residual stream before the adapter's first layer.
    void forward_frozen(const MicroBatch& batch, const Adapter& adapter, float* frozen);

  private:
    // Calls visit(part, array, n) with every array that passes work with, in the same order whatever the size; n is how
    // many elements this pass needs of it.
    template <class Visit>
    void visit_arrays(const PassSize& size, const AdapterShape& adapter, cpuft_activations policy, Visit visit);
    template <class Visit>
    void visit_activations(const PassSize& size, const AdapterShape& adapter, cpuft_activations policy, Visit visit);
    template <class Visit>
    void visit_workspaces(const PassSize& size, const AdapterShape& adapter, Visit visit);
    template <class Visit>
    void visit_scratch(const PassSize& size, const AdapterShape& adapter, Visit visit);

    enum class Purpose { kTrain, kLoss, kValues };       // kValues: of every token, in the micro-batch's order
    enum class Wanted { kOutput, kActivations, kBoth };  // of a layer's forward pass
    void begin(const MicroBatch& batch, const Adapter* adapter, Purpose purpose);
    void embed(const int32_t* tokens, float* x);
    // Return the residual stream behind the last layer, [rows behind attention, C], and before layer `end`, [T, C].
    float* forward_layers(const MicroBatch& batch) { return forward_layers(batch, model_.dims.n_layer); }
    float* forward_layers(const MicroBatch& batch, int64_t end);
    // x: the residual stream, [T, C] in: before the layer; out: [rows behind attention, C] behind it, or behind its
    // attention where only the activations are wanted.
    void forward_layer(int64_t layer, Wanted wanted, Activations& activations, float* x);
    // dx: [rows behind attention, C] in: gradient of the layer's output, [T, C] out: of its input.
    void backward_layer(int64_t layer, Activations& activations, float* dx);
    void backward_attention(int64_t layer, Activations& activations, float* dx);
    // The last linear layer of attention or MLP, input_ being its input: x += its output, or what the norm behind that
    // makes of it. x may be null: not wanted. kept: of the output before that norm.
    void forward_into_residual(int64_t layer, cpuft_target linear, const std::vector<float>& post_norm, bool keeps,
                               StoredRows& kept, Activations& activations, float* x);
    // The gradient of that linear layer's output: dx itself, or an array of work_.
    const float* backward_from_residual(const std::vector<float>& post_norm, const StoredRows& kept, const float* dx);
    // Queries or keys, [T, n_heads, D], as attention takes them: normed, where the layer does that, and rotated.
    void forward_heads(int64_t layer, const std::vector<float>& norm, int64_t n_heads, float* x);
    // dx: their gradient, in place; stored: x before the norm, and room for it.
    void backward_heads(int64_t layer, const std::vector<float>& norm, int64_t n_heads, const StoredRows& stored,
                        float* x, float* dx);
    // x: the residual stream behind the last layer, [n_predicting, C]; dx: [n_predicting, C] out, or null.
    Loss head(const float* x, float* dx);
    // Behind the last layer's attention only the tokens that predict a target go on: this many rows, in layout's order.
    int64_t rows_behind_attention(int64_t layer) const;
    bool drops_rows(int64_t layer) const { return rows_behind_attention(layer) < T_; }

    void linear_forward(int64_t layer, cpuft_target linear, const LinearInput& input, Activations& activations,
                        bool accumulate, float* y);
    void linear_backward(int64_t layer, cpuft_target linear, const float* x, int64_t n, Activations& activations,
                         const float* dy, bool accumulate, float* dx);
    const Lora* lora(int64_t layer, cpuft_target linear) const {
        return adapter_ ? adapter_->lora(layer, linear) : nullptr;
    }
    bool any_lora(int64_t layer, std::initializer_list<cpuft_target> linears) const;
    Dropout dropout(int64_t layer, cpuft_target linear) const;
    // Whether a backward pass goes through the layer, and whether that takes what the forward pass has kept.
    bool trained(int64_t layer) const { return training_ && layer >= adapter_->first_layer(); }
    bool kept(int64_t layer) const { return trained(layer) && policy_ == CPUFT_ACTIVATIONS_KEEP; }
    // The layer's own activations, or the slot that layers share which keep none.
    Activations& activations(int64_t layer) {
        return activations_[static_cast<size_t>(kept(layer) ? layer : model_.dims.n_layer)];
    }
    AttentionShape attention_shape(int64_t layer) const;

    const Model& model_;
    Compute& compute_;
    std::vector<RopeTable> ropes_;
    cpuft_activations policy_ = CPUFT_ACTIVATIONS_KEEP;

    // The pass at hand.
    const Adapter* adapter_ = nullptr;
    bool training_ = false;
    int64_t T_ = 0;
    Layout layout_;

    // What layers keep, and workspaces that they share. All grow to the largest pass and stay.
    std::vector<Activations> activations_;    // [L] and one shared slot
    std::vector<Buffer<float>> checkpoints_;  // [L] of [T, C]: the residual stream before a layer that is recomputed
    Buffer<float> x_, dx_;                    // [T, C] the residual stream and its gradient
    Workspace work_;
    AttentionWorkspace attention_;
    LinearInput input_;
    LinearWorkspace linear_;
    HeadWorkspace head_;
};

}  // namespace cpuft
