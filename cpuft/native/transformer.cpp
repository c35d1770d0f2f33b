#include "transformer.h"
#include "ablation.h"

#include <algorithm>
#include <cmath>

#include "error.h"
#include "formats.h"
#include "layers/gated_mlp.h"
#include "layers/rmsnorm.h"
#include "random.h"

namespace cpuft {

namespace {

void copy_rows(Compute& compute, const float* source, int64_t n_rows, int64_t n, float* target) {
    compute.for_rows(n_rows, [&](int64_t t, int) { std::copy_n(source + t * n, n, target + t * n); });
}

// Row rows[i] of x moves to row i (rows ascend), or back; the rows between are then zero. Once a pass, in the last layer.
void gather_rows(const std::vector<int64_t>& rows, int64_t n, float* x) {
    for (size_t i = 0; i < rows.size(); ++i) std::copy_n(x + rows[i] * n, n, x + static_cast<int64_t>(i) * n);
}

void scatter_rows(const std::vector<int64_t>& rows, int64_t T, int64_t n, float* x) {
    int64_t end = T;
    for (size_t i = rows.size(); i-- > 0; end = rows[i]) {
        std::copy_n(x + static_cast<int64_t>(i) * n, n, x + rows[i] * n);
        std::fill(x + (rows[i] + 1) * n, x + end * n, 0.0f);
    }
    std::fill(x, x + end * n, 0.0f);
}

}  // namespace

// ---- Whole passes --------------------------------------------------------------------------------------------------

Loss Transformer::forward_backward(const MicroBatch& batch, const Adapter& adapter) {
    begin(batch, &adapter, Purpose::kTrain);
    if (layout_.targets.empty()) return {};
    const int64_t C = model_.dims.C;
    float* x = forward_layers(batch);
    float* dx = dx_.reserve(T_ * C);
    const Loss loss = head(x, dx);
    for (int64_t layer = model_.dims.n_layer - 1; layer >= adapter.first_layer(); --layer) {
        if (!kept(layer)) {
            copy_rows(compute_, checkpoints_[static_cast<size_t>(layer)].data(), T_, C, x);
            forward_layer(layer, Wanted::kActivations, activations(layer), x);
        }
        backward_layer(layer, activations(layer), dx);
    }
    return loss;
}

Loss Transformer::forward(const MicroBatch& batch, const Adapter* adapter) {
    begin(batch, adapter, Purpose::kLoss);
    if (layout_.targets.empty()) return {};
    return head(forward_layers(batch), nullptr);
}

void Transformer::forward_hidden(const MicroBatch& batch, const Adapter* adapter, float* hidden) {
    begin(batch, adapter, Purpose::kValues);
    const float* x = forward_layers(batch);
    rmsnorm_forward(compute_, x, model_.output_norm.data(), model_.norm_epsilon, T_, model_.dims.C, hidden);
}

void Transformer::logits(const float* hidden, int64_t n, float* logits) {
    input_.set(compute_, hidden, n, model_.dims.C);
    multiply_transposed(compute_, {{input_.packed, model_.head}}, nullptr, false, logits);
    if (model_.logit_cap == 0.0f) return;
    compute_.for_rows(n, [&](int64_t t, int) {
        compute_.kernels.rows.soft_cap(1.0f, model_.logit_cap, logits + t * model_.dims.V, nullptr, model_.dims.V);
    });
}

void Transformer::forward_frozen(const MicroBatch& batch, const Adapter& adapter, float* frozen) {
    begin(batch, &adapter, Purpose::kValues);
    copy_rows(compute_, forward_layers(batch, adapter.first_layer()), T_, model_.dims.C, frozen);
}

void Transformer::begin(const MicroBatch& batch, const Adapter* adapter, Purpose purpose) {
    if (batch.frozen != nullptr && adapter == nullptr)
        refuse("frozen is the residual stream before the adapter's first layer, and the engine has no adapter");
    adapter_ = adapter;
    training_ = purpose == Purpose::kTrain;
    // Sequences that share a prefix would share its dropout masks.
    const bool dropout = training_ && batch.dropout_keys != nullptr && adapter->dropout() > 0.0f;
    const bool share_prefixes = purpose != Purpose::kValues && !dropout;
    layout_.set(batch, model_.dims.V, share_prefixes, model_.ropes.front().n_short);
    T_ = layout_.T();
    for (RopeTable& rope : ropes_) rope.grow(layout_.end_position());
    const auto n_targets = static_cast<int64_t>(layout_.targets.size());
    work_.reserve(model_.dims, T_, n_targets, head_bytes(knob("head") == 32 ? compute_.exact_gemm : compute_.weight_gemm, model_.dims.V, n_targets));
    head_.probabilities_memory = work_.head_room;
}

void Transformer::embed(const int32_t* tokens, float* x) {
    const int64_t C = model_.dims.C;
    compute_.for_rows(T_, [&](int64_t t, int) {
        const int32_t token = tokens[layout_.source[static_cast<size_t>(t)]];
        dequantize_segment(model_.embedding.type, model_.embedding.row(token), 0, C, x + t * C);
        if (model_.embedding_scale != 1.0f) compute_.kernels.rows.scale(model_.embedding_scale, x + t * C, C);
    });
}

float* Transformer::forward_layers(const MicroBatch& batch, int64_t end) {
    const int64_t C = model_.dims.C;
    const int64_t first = batch.frozen != nullptr ? adapter_->first_layer() : 0;
    float* x = x_.reserve(T_ * C);
    if (batch.frozen != nullptr) {
        compute_.for_rows(T_, [&](int64_t t, int) {
            std::copy_n(batch.frozen + layout_.source[static_cast<size_t>(t)] * C, C, x + t * C);
        });
    } else {
        embed(batch.tokens, x);
    }
    for (int64_t layer = first; layer < end; ++layer) {
        if (trained(layer) && !kept(layer))
            copy_rows(compute_, x, T_, C, checkpoints_[static_cast<size_t>(layer)].reserve(T_ * C));
        forward_layer(layer, kept(layer) ? Wanted::kBoth : Wanted::kOutput, activations(layer), x);
    }
    return x;
}

// Final norm, head and loss on the positions that predict a supervised token.
Loss Transformer::head(const float* x, float* dx) {
    const int64_t C = model_.dims.C, n = static_cast<int64_t>(layout_.targets.size());
    float* h = work_.head_h;
    rmsnorm_forward(compute_, x, model_.output_norm.data(), model_.norm_epsilon, n, C, h);
    float* dh = dx == nullptr ? nullptr : h;
    const Loss loss = {
        head_cross_entropy(compute_, model_.head, model_.logit_cap, h, layout_.targets.data(), n, head_, dh), n};
    if (dx == nullptr) return loss;
    compute_.for_rows(n, [&](int64_t t, int) { std::fill_n(dx + t * C, C, 0.0f); });
    rmsnorm_backward(compute_, x, model_.output_norm.data(), model_.norm_epsilon, dh, n, C, true, dx);
    return loss;
}

// ---- One layer --------------------------------------------------------------------------------------------------------

void Transformer::forward_layer(int64_t layer, Wanted wanted, Activations& a, float* x) {
    const Dimensions& d = model_.dims;
    const Layer& weights = model_.layers[static_cast<size_t>(layer)];
    const int64_t n = rows_behind_attention(layer);
    const bool keeps = wanted != Wanted::kOutput;
    const ActivationStorage storage = activation_storage(compute_.precision);
    float *h = work_.h, *q = work_.q, *k = work_.k, *v = work_.v, *o = work_.o, *gate = work_.gate, *up = work_.up;
    const auto store_queries_and_keys = [&] {
        a.q.store(compute_, Storage::kF32, q, T_, d.H * d.D);
        a.k.store(compute_, Storage::kF32, k, T_, d.K * d.D);
    };

    if (keeps) a.x.store(compute_, storage.other, x, T_, d.C);
    const float* seen = round_rows(compute_, storage.other, x, T_, d.C, h);
    rmsnorm_forward(compute_, seen, weights.attn_norm.data(), model_.norm_epsilon, T_, d.C, h);
    input_.set(compute_, h, T_, d.C);
    linear_forward(layer, CPUFT_TARGET_ATTN_Q, input_, a, false, q);
    linear_forward(layer, CPUFT_TARGET_ATTN_K, input_, a, false, k);
    linear_forward(layer, CPUFT_TARGET_ATTN_V, input_, a, false, v);
    const bool normed = !weights.q_norm.empty();
    if (keeps) a.v.store(compute_, storage.other, v, T_, d.K * d.D);
    round_rows(compute_, storage.other, v, T_, d.K * d.D, v);
    if (keeps && normed) store_queries_and_keys();
    forward_heads(layer, weights.q_norm, d.H, q);
    forward_heads(layer, weights.k_norm, d.K, k);
    if (keeps && !normed) store_queries_and_keys();
    attention_forward(compute_, attention_shape(layer), layout_.sequences, q, k, v, attention_, o,
                      a.lse.reserve(T_ * d.H));
    if (drops_rows(layer)) {
        gather_rows(layout_.predicting, d.C, x);
        gather_rows(layout_.predicting, d.H * d.D, o);
    }
    if (keeps) a.o.store(compute_, Storage::kF32, o, n, d.H * d.D);
    input_.set(compute_, o, n, d.H * d.D);
    forward_into_residual(layer, CPUFT_TARGET_ATTN_OUTPUT, weights.attn_post_norm, keeps, a.attn_out, a, x);

    if (keeps) a.mid.store(compute_, storage.other, x, n, d.C);
    seen = round_rows(compute_, storage.other, x, n, d.C, h);
    rmsnorm_forward(compute_, seen, weights.ffn_norm.data(), model_.norm_epsilon, n, d.C, h);
    input_.set(compute_, h, n, d.C);
    linear_forward(layer, CPUFT_TARGET_FFN_GATE, input_, a, false, gate);
    linear_forward(layer, CPUFT_TARGET_FFN_UP, input_, a, false, up);
    if (keeps) {
        a.gate.reserve(storage.mlp, n, d.F);
        a.up.reserve(storage.mlp, n, d.F);
    }
    const bool wants_output = wanted != Wanted::kActivations;
    // What a norm's backward pass reads is an activation, too.
    const bool down_matters =
        wants_output || lora(layer, CPUFT_TARGET_FFN_DOWN) != nullptr || !weights.ffn_post_norm.empty();
    float* m = down_matters ? gate : nullptr;
    gated_mlp_forward(compute_, model_.architecture.gate, storage.mlp, gate, up, n, d.F, keeps ? &a.gate : nullptr,
                      keeps ? &a.up : nullptr, m);
    if (!down_matters) return;
    input_.set(compute_, m, n, d.F);
    forward_into_residual(layer, CPUFT_TARGET_FFN_DOWN, weights.ffn_post_norm, keeps, a.mlp_out, a,
                          wants_output ? x : nullptr);
}

void Transformer::backward_layer(int64_t layer, Activations& a, float* dx) {
    const Dimensions& d = model_.dims;
    const Layer& weights = model_.layers[static_cast<size_t>(layer)];
    const int64_t n = rows_behind_attention(layer);
    float *h = work_.h, *dh = work_.dh, *dm = work_.gate, *dgate = dm, *dup = work_.up;

    // m, the input of ffn_down, is made again beside its gradient.
    const LinearWeights& down = weights.linears[CPUFT_TARGET_FFN_DOWN];
    const Lora* down_lora = lora(layer, CPUFT_TARGET_FFN_DOWN);
    const Dropout down_dropout = dropout(layer, CPUFT_TARGET_FFN_DOWN);
    const float* dy = backward_from_residual(weights.ffn_post_norm, a.mlp_out, dx);
    float* m = down_lora == nullptr ? nullptr : work_.m;
    linear_lora_backward_input(compute_, down, down_lora, down_dropout, n, a.lora_u[CPUFT_TARGET_FFN_DOWN].data(), dy,
                               linear_, false, dm);
    gated_mlp_backward(compute_, model_.architecture.gate, a.gate, a.up, dm, dgate, dup, m);
    if (m != nullptr) linear_lora_backward_a(compute_, *down_lora, down_dropout, m, n, d.F, linear_);
    float* mid = x_.data();
    a.mid.load(compute_, mid);
    rmsnorm_forward(compute_, mid, weights.ffn_norm.data(), model_.norm_epsilon, n, d.C, h);
    // Nothing below the lowest adapted linear layer needs a gradient.
    const bool attention_matters =
        layer > adapter_->first_layer() ||
        any_lora(layer, {CPUFT_TARGET_ATTN_Q, CPUFT_TARGET_ATTN_K, CPUFT_TARGET_ATTN_V, CPUFT_TARGET_ATTN_OUTPUT});
    linear_backward(layer, CPUFT_TARGET_FFN_GATE, h, n, a, dgate, false, attention_matters ? dh : nullptr);
    linear_backward(layer, CPUFT_TARGET_FFN_UP, h, n, a, dup, true, attention_matters ? dh : nullptr);
    if (!attention_matters) return;
    rmsnorm_backward(compute_, mid, weights.ffn_norm.data(), model_.norm_epsilon, dh, n, d.C, true, dx);
    backward_attention(layer, a, dx);
}

void Transformer::backward_attention(int64_t layer, Activations& a, float* dx) {
    const Dimensions& d = model_.dims;
    const Layer& weights = model_.layers[static_cast<size_t>(layer)];
    const bool input_matters = layer > adapter_->first_layer();
    const bool qkv_matter =
        input_matters || any_lora(layer, {CPUFT_TARGET_ATTN_Q, CPUFT_TARGET_ATTN_K, CPUFT_TARGET_ATTN_V});
    float *q = work_.q, *k = work_.k, *v = work_.v, *o = work_.o, *d_o = work_.d_o;
    a.o.load(compute_, o);
    const float* dy = backward_from_residual(weights.attn_post_norm, a.attn_out, dx);
    linear_backward(layer, CPUFT_TARGET_ATTN_OUTPUT, o, rows_behind_attention(layer), a, dy, false,
                    qkv_matter ? d_o : nullptr);
    if (!qkv_matter) return;
    if (drops_rows(layer)) {
        for (float* heads : {o, d_o}) scatter_rows(layout_.predicting, T_, d.H * d.D, heads);
        scatter_rows(layout_.predicting, T_, d.C, dx);
    }

    a.q.load(compute_, q);
    a.k.load(compute_, k);
    a.v.load(compute_, v);
    if (!weights.q_norm.empty()) {  // kept before the norms
        forward_heads(layer, weights.q_norm, d.H, q);
        forward_heads(layer, weights.k_norm, d.K, k);
    }
    float *dq = work_.dq, *dk = work_.dk, *dv = work_.dv;
    attention_backward(compute_, attention_shape(layer), layout_.sequences, q, k, v, o, a.lse.data(), d_o, attention_,
                       dq, dk, dv);
    backward_heads(layer, weights.q_norm, d.H, a.q, q, dq);
    backward_heads(layer, weights.k_norm, d.K, a.k, k, dk);
    float *x = x_.data(), *h = work_.h, *dh = input_matters ? work_.dh : nullptr;
    a.x.load(compute_, x);
    rmsnorm_forward(compute_, x, weights.attn_norm.data(), model_.norm_epsilon, T_, d.C, h);
    linear_backward(layer, CPUFT_TARGET_ATTN_Q, h, T_, a, dq, false, dh);
    linear_backward(layer, CPUFT_TARGET_ATTN_K, h, T_, a, dk, true, dh);
    linear_backward(layer, CPUFT_TARGET_ATTN_V, h, T_, a, dv, true, dh);
    if (input_matters)
        rmsnorm_backward(compute_, x, weights.attn_norm.data(), model_.norm_epsilon, dh, T_, d.C, true, dx);
}

// ---- Parts of a layer that some architectures have ------------------------------------------------------------------

void Transformer::forward_into_residual(int64_t layer, cpuft_target linear, const std::vector<float>& post_norm,
                                        bool keeps, StoredRows& kept, Activations& a, float* x) {
    if (post_norm.empty()) return linear_forward(layer, linear, input_, a, true, x);
    const int64_t n = input_.packed.m(), C = model_.dims.C;
    const Storage storage = activation_storage(compute_.precision).other;
    float* y = work_.h;
    linear_forward(layer, linear, input_, a, false, y);
    if (keeps) kept.store(compute_, storage, y, n, C);
    round_rows(compute_, storage, y, n, C, y);
    if (x != nullptr) rmsnorm_add(compute_, y, post_norm.data(), model_.norm_epsilon, n, C, x);
}

const float* Transformer::backward_from_residual(const std::vector<float>& post_norm, const StoredRows& kept,
                                                 const float* dx) {
    if (post_norm.empty()) return dx;
    kept.load(compute_, work_.h);
    rmsnorm_backward(compute_, work_.h, post_norm.data(), model_.norm_epsilon, dx, kept.T(), model_.dims.C, false,
                     work_.dh);
    return work_.dh;
}

void Transformer::forward_heads(int64_t layer, const std::vector<float>& norm, int64_t n_heads, float* x) {
    const int64_t D = model_.dims.D;
    if (!norm.empty()) rmsnorm_forward(compute_, x, norm.data(), model_.norm_epsilon, T_ * n_heads, D, x);
    const int rope = model_.layers[static_cast<size_t>(layer)].rope;
    if (rope == kNoRope) return;
    rope_forward(compute_, ropes_[static_cast<size_t>(rope)], layout_.positions.data(), T_, n_heads, D, x);
}

void Transformer::backward_heads(int64_t layer, const std::vector<float>& norm, int64_t n_heads,
                                 const StoredRows& stored, float* x, float* dx) {
    const int64_t D = model_.dims.D;
    const int rope = model_.layers[static_cast<size_t>(layer)].rope;
    if (rope != kNoRope)
        rope_backward(compute_, ropes_[static_cast<size_t>(rope)], layout_.positions.data(), T_, n_heads, D, dx);
    if (norm.empty()) return;
    stored.load(compute_, x);
    rmsnorm_backward(compute_, x, norm.data(), model_.norm_epsilon, dx, T_ * n_heads, D, false, dx);
}

// ---- Linear layers and where things lie --------------------------------------------------------------------------------

void Transformer::linear_forward(int64_t layer, cpuft_target linear, const LinearInput& input, Activations& a,
                                 bool accumulate, float* y) {
    const Lora* adapted = lora(layer, linear);
    float* u = adapted ? a.lora_u[linear].reserve(input.packed.m() * adapted->rank) : nullptr;
    linear_lora_forward(compute_, model_.layers[static_cast<size_t>(layer)].linears[linear], adapted,
                        dropout(layer, linear), input, linear_, accumulate, u, y);
}

void Transformer::linear_backward(int64_t layer, cpuft_target linear, const float* x, int64_t n, Activations& a,
                                  const float* dy, bool accumulate, float* dx) {
    linear_lora_backward(compute_, model_.layers[static_cast<size_t>(layer)].linears[linear], lora(layer, linear),
                         dropout(layer, linear), x, n, a.lora_u[linear].data(), dy, linear_, accumulate, dx);
}

bool Transformer::any_lora(int64_t layer, std::initializer_list<cpuft_target> linears) const {
    return std::any_of(linears.begin(), linears.end(),
                       [&](cpuft_target linear) { return lora(layer, linear) != nullptr; });
}

Dropout Transformer::dropout(int64_t layer, cpuft_target linear) const {
    const Lora* adapted = lora(layer, linear);
    if (layout_.dropout_rows.empty() || !training_ || adapted == nullptr) return {};
    const bool behind = linear >= CPUFT_TARGET_ATTN_OUTPUT && drops_rows(layer);
    return {(behind ? layout_.predicting_dropout_rows : layout_.dropout_rows).data(), adapter_->dropout(),
            adapted->dropout_salt};
}

int64_t Transformer::rows_behind_attention(int64_t layer) const {
    const bool last = layer == model_.dims.n_layer - 1;
    return last && !layout_.targets.empty() ? static_cast<int64_t>(layout_.targets.size()) : T_;
}

AttentionShape Transformer::attention_shape(int64_t layer) const {
    const Dimensions& d = model_.dims;
    return {d.H, d.K, d.D, model_.score_scale, model_.layers[static_cast<size_t>(layer)].window, model_.score_cap};
}

}  // namespace cpuft
