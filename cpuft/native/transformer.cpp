#include "transformer.h"

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

// Row rows[i] of x moves to row i (rows ascend), or back; the rows between are then zero.
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
    forward_layers(batch);
    float* dx = dx_.reserve(T_ * model_.dims.C);
    const Loss loss = head(dx);
    for (int64_t layer = model_.dims.n_layer - 1; layer >= adapter.first_layer(); --layer) {
        const float* x = residual(layer).data();
        Activations& a = activations(layer);
        if (policy_ == CPUFT_ACTIVATIONS_RECOMPUTE) {
            forward_layer(layer, x, a, nullptr);
            if (keeps_narrow()) {  // round what the other policy rounds: gradients must not depend on the policy
                narrow_activations(compute_, model_.dims, T_, a);
                widen_activations(compute_, model_.dims, T_, a);
            }
            backward_layer(layer, x, a, dx);
        } else if (keeps_narrow()) {
            exchange_wide(a);
            widen_activations(compute_, model_.dims, T_, a);
            backward_layer(layer, x, a, dx);
            exchange_wide(a);
        } else {
            backward_layer(layer, x, a, dx);
        }
    }
    return loss;
}

Loss Transformer::forward(const MicroBatch& batch, const Adapter* adapter) {
    begin(batch, adapter, Purpose::kLoss);
    if (layout_.targets.empty()) return {};
    forward_layers(batch);
    return head(nullptr);
}

void Transformer::logits(const MicroBatch& batch, const Adapter* adapter, float* logits) {
    begin(batch, adapter, Purpose::kValues);
    forward_layers(batch);
    const int64_t C = model_.dims.C;
    float* h = h_.reserve(T_ * C);
    rmsnorm_forward(compute_, residual(model_.dims.n_layer).data(), model_.output_norm.data(), model_.norm_epsilon, T_,
                    C, h);
    head_.packed_h.pack_rows(compute_, compute_.weight_gemm, h, T_, C);
    multiply_transposed(compute_, head_.packed_h, model_.head, nullptr, false, logits);
}

void Transformer::forward_frozen(const MicroBatch& batch, const Adapter& adapter, float* frozen) {
    begin(batch, &adapter, Purpose::kValues);
    forward_layers(batch, adapter.first_layer());
    std::copy_n(residual(adapter.first_layer()).data(), T_ * model_.dims.C, frozen);
}

void Transformer::begin(const MicroBatch& batch, const Adapter* adapter, Purpose purpose) {
    if (batch.frozen != nullptr && adapter == nullptr)
        refuse("frozen is the residual stream before the adapter's first layer, and the engine has no adapter");
    adapter_ = adapter;
    training_ = purpose == Purpose::kTrain;
    // Sequences that share a prefix would share its dropout masks.
    const bool dropout = training_ && batch.dropout_keys != nullptr && adapter->dropout() > 0.0f;
    layout_.set(batch, model_.dims.V, /*share_prefixes=*/purpose != Purpose::kValues && !dropout);
    T_ = layout_.T();
    rope_.grow(layout_.longest());
    residuals_.resize(static_cast<size_t>(model_.dims.n_layer) + 3);
    activations_.resize(static_cast<size_t>(model_.dims.n_layer) + 1);
}

void Transformer::embed(const int32_t* tokens, float* x) {
    const int64_t C = model_.dims.C;
    const int64_t row_bytes = static_cast<int64_t>(ggml_row_size(model_.embedding.type, C));
    compute_.for_rows(T_, [&](int64_t t, int) {
        const int32_t token = tokens[layout_.source[static_cast<size_t>(t)]];
        dequantize_segment(model_.embedding.type, static_cast<const char*>(model_.embedding.data) + token * row_bytes,
                           0, C, x + t * C);
    });
}

void Transformer::forward_layers(const MicroBatch& batch, int64_t end) {
    const int64_t values = T_ * model_.dims.C;
    const int64_t first = batch.frozen != nullptr ? adapter_->first_layer() : 0;
    float* start = residual(first).reserve(values);
    if (batch.frozen != nullptr) {
        const int64_t C = model_.dims.C;
        compute_.for_rows(T_, [&](int64_t t, int) {
            std::copy_n(batch.frozen + layout_.source[static_cast<size_t>(t)] * C, C, start + t * C);
        });
    } else {
        embed(batch.tokens, start);
    }
    for (int64_t layer = first; layer < end; ++layer) {
        const float* x = residual(layer).data();
        float* x_out = residual(layer + 1).reserve(values);
        Activations& a = activations(layer);
        const bool narrow = kept(layer) && policy_ == CPUFT_ACTIVATIONS_KEEP && keeps_narrow();
        if (narrow) exchange_wide(a);
        forward_layer(layer, x, a, x_out);
        if (!narrow) continue;
        narrow_activations(compute_, model_.dims, T_, a);
        exchange_wide(a);
    }
}

// Final norm, head and loss on the positions that predict a supervised token.
Loss Transformer::head(float* dx) {
    const int64_t C = model_.dims.C, n = static_cast<int64_t>(layout_.targets.size());
    const float* x = residual(model_.dims.n_layer).data();
    float* h = head_h_.reserve(n * C);
    rmsnorm_forward(compute_, x, model_.output_norm.data(), model_.norm_epsilon, n, C, h);
    float* dh = dx == nullptr ? nullptr : head_dh_.reserve(n * C);
    const Loss loss = {head_cross_entropy(compute_, model_.head, h, layout_.targets.data(), n, head_, dh), n};
    if (dx == nullptr) return loss;
    std::fill_n(dx, n * C, 0.0f);
    rmsnorm_backward(compute_, x, model_.output_norm.data(), model_.norm_epsilon, dh, n, C, dx);
    return loss;
}

// ---- One layer --------------------------------------------------------------------------------------------------------

void Transformer::forward_layer(int64_t layer, const float* x, Activations& a, float* x_out) {
    const Dimensions& d = model_.dims;
    const LayerWeights& weights = model_.layers[static_cast<size_t>(layer)];
    const int64_t n = rows_behind_attention(layer);
    float* h = h_.reserve(T_ * d.C);
    reserve_wide(d, T_, a);
    float *q = a.q(), *k = a.k(), *v = a.v(), *o = a.o(), *mid = a.mid(), *gate = a.gate(), *up = a.up();

    rmsnorm_forward(compute_, x, weights.attn_norm.data(), model_.norm_epsilon, T_, d.C, h);
    input_.set(compute_, h, T_, d.C);
    linear_forward(layer, CPUFT_TARGET_ATTN_Q, input_, a, false, q);
    linear_forward(layer, CPUFT_TARGET_ATTN_K, input_, a, false, k);
    linear_forward(layer, CPUFT_TARGET_ATTN_V, input_, a, false, v);
    rope_forward(compute_, rope_, layout_.positions.data(), T_, d.H, d.D, q);
    rope_forward(compute_, rope_, layout_.positions.data(), T_, d.K, d.D, k);
    attention_forward(compute_, attention_shape(), layout_.sequences, q, k, v, o, a.lse.reserve(T_ * d.H));
    copy_rows(compute_, x, T_, d.C, mid);
    if (drops_rows(layer)) {
        gather_rows(layout_.predicting, d.C, mid);
        gather_rows(layout_.predicting, d.H * d.D, o);
    }
    input_.set(compute_, o, n, d.H * d.D);
    linear_forward(layer, CPUFT_TARGET_ATTN_OUTPUT, input_, a, true, mid);

    rmsnorm_forward(compute_, mid, weights.ffn_norm.data(), model_.norm_epsilon, n, d.C, h);
    input_.set(compute_, h, n, d.C);
    linear_forward(layer, CPUFT_TARGET_FFN_GATE, input_, a, false, gate);
    linear_forward(layer, CPUFT_TARGET_FFN_UP, input_, a, false, up);
    if (x_out == nullptr && lora(layer, CPUFT_TARGET_FFN_DOWN) == nullptr) return;
    float* m = m_.reserve(T_ * d.F);
    gated_mlp_forward(compute_, gate, up, n, d.F, m);
    input_.set(compute_, m, n, d.F);
    if (x_out != nullptr) copy_rows(compute_, mid, n, d.C, x_out);
    linear_forward(layer, CPUFT_TARGET_FFN_DOWN, input_, a, true, x_out);
}

void Transformer::backward_layer(int64_t layer, const float* x, Activations& a, float* dx) {
    const Dimensions& d = model_.dims;
    const LayerWeights& weights = model_.layers[static_cast<size_t>(layer)];
    float *m = m_.reserve(T_ * d.F), *dm = dm_.reserve(T_ * d.F);
    float *h = h_.reserve(T_ * d.C), *dh = dh_.reserve(T_ * d.C);

    const int64_t n = rows_behind_attention(layer);
    gated_mlp_forward(compute_, a.gate(), a.up(), n, d.F, m);
    linear_backward(layer, CPUFT_TARGET_FFN_DOWN, m, n, a, dx, false, dm);
    float *dgate = dm, *dup = m;  // m was read for the last time
    gated_mlp_backward(compute_, a.gate(), a.up(), dm, n, d.F, dgate, dup);
    rmsnorm_forward(compute_, a.mid(), weights.ffn_norm.data(), model_.norm_epsilon, n, d.C, h);
    // Nothing below the lowest adapted linear layer needs a gradient.
    const bool attention_matters =
        layer > adapter_->first_layer() ||
        any_lora(layer, {CPUFT_TARGET_ATTN_Q, CPUFT_TARGET_ATTN_K, CPUFT_TARGET_ATTN_V, CPUFT_TARGET_ATTN_OUTPUT});
    linear_backward(layer, CPUFT_TARGET_FFN_GATE, h, n, a, dgate, false, attention_matters ? dh : nullptr);
    linear_backward(layer, CPUFT_TARGET_FFN_UP, h, n, a, dup, true, attention_matters ? dh : nullptr);
    if (!attention_matters) return;
    rmsnorm_backward(compute_, a.mid(), weights.ffn_norm.data(), model_.norm_epsilon, dh, n, d.C, dx);
    backward_attention(layer, x, a, dx);
}

void Transformer::backward_attention(int64_t layer, const float* x, Activations& a, float* dx) {
    const Dimensions& d = model_.dims;
    const LayerWeights& weights = model_.layers[static_cast<size_t>(layer)];
    const bool input_matters = layer > adapter_->first_layer();
    const bool qkv_matter =
        input_matters || any_lora(layer, {CPUFT_TARGET_ATTN_Q, CPUFT_TARGET_ATTN_K, CPUFT_TARGET_ATTN_V});
    float* d_o = d_o_.reserve(T_ * d.H * d.D);
    linear_backward(layer, CPUFT_TARGET_ATTN_OUTPUT, a.o(), rows_behind_attention(layer), a, dx, false,
                    qkv_matter ? d_o : nullptr);
    if (!qkv_matter) return;
    if (drops_rows(layer)) {
        for (float* heads : {a.o(), d_o}) scatter_rows(layout_.predicting, T_, d.H * d.D, heads);
        scatter_rows(layout_.predicting, T_, d.C, dx);
    }

    float *dq = dq_.reserve(T_ * d.H * d.D), *dk = dk_.reserve(T_ * d.K * d.D), *dv = dv_.reserve(T_ * d.K * d.D);
    attention_backward(compute_, attention_shape(), layout_.sequences, a.q(), a.k(), a.v(), a.o(), a.lse.data(), d_o,
                       delta_.reserve(T_ * d.H), dq, dk, dv);
    rope_backward(compute_, rope_, layout_.positions.data(), T_, d.H, d.D, dq);
    rope_backward(compute_, rope_, layout_.positions.data(), T_, d.K, d.D, dk);
    float *h = h_.data(), *dh = input_matters ? dh_.data() : nullptr;
    rmsnorm_forward(compute_, x, weights.attn_norm.data(), model_.norm_epsilon, T_, d.C, h);
    linear_backward(layer, CPUFT_TARGET_ATTN_Q, h, T_, a, dq, false, dh);
    linear_backward(layer, CPUFT_TARGET_ATTN_K, h, T_, a, dk, true, dh);
    linear_backward(layer, CPUFT_TARGET_ATTN_V, h, T_, a, dv, true, dh);
    if (input_matters) rmsnorm_backward(compute_, x, weights.attn_norm.data(), model_.norm_epsilon, dh, T_, d.C, dx);
}

// ---- Linear layers and where things lie --------------------------------------------------------------------------------

void Transformer::linear_forward(int64_t layer, cpuft_target target, LinearInput& input, Activations& a,
                                 bool accumulate, float* y) {
    const Lora* adapted = lora(layer, target);
    float* u = adapted ? a.lora_u[target].reserve(input.T() * adapted->rank) : nullptr;
    linear_lora_forward(compute_, model_.layers[static_cast<size_t>(layer)].linears[target], adapted,
                        dropout(layer, target), input, linear_, accumulate, u, y);
}

void Transformer::linear_backward(int64_t layer, cpuft_target target, const float* x, int64_t n, Activations& a,
                                  const float* dy, bool accumulate, float* dx) {
    linear_lora_backward(compute_, model_.layers[static_cast<size_t>(layer)].linears[target], lora(layer, target),
                         dropout(layer, target), x, n, a.lora_u[target].data(), dy, linear_, accumulate, dx);
}

bool Transformer::any_lora(int64_t layer, std::initializer_list<cpuft_target> targets) const {
    return std::any_of(targets.begin(), targets.end(),
                       [&](cpuft_target target) { return lora(layer, target) != nullptr; });
}

Dropout Transformer::dropout(int64_t layer, cpuft_target target) const {
    if (layout_.dropout_rows.empty() || !training_) return {};
    const bool behind = target >= CPUFT_TARGET_ATTN_OUTPUT && drops_rows(layer);
    return {(behind ? layout_.predicting_dropout_rows : layout_.dropout_rows).data(), adapter_->dropout(),
            mix64(static_cast<uint64_t>(layer * CPUFT_TARGET_COUNT + target))};
}

int64_t Transformer::rows_behind_attention(int64_t layer) const {
    const bool last = layer == model_.dims.n_layer - 1;
    return last && !layout_.targets.empty() ? static_cast<int64_t>(layout_.targets.size()) : T_;
}

Buffer<float>& Transformer::residual(int64_t layer) {
    const int64_t shared = model_.dims.n_layer + 1 + layer % 2;  // a layer reads one slot and writes the other
    return residuals_[static_cast<size_t>(kept(layer) ? layer : shared)];
}

Activations& Transformer::activations(int64_t layer) {
    const bool own = kept(layer) && policy_ == CPUFT_ACTIVATIONS_KEEP;
    return activations_[static_cast<size_t>(own ? layer : model_.dims.n_layer)];
}

void Transformer::exchange_wide(Activations& a) { std::swap(a.wide, activations_.back().wide); }

AttentionShape Transformer::attention_shape() const {
    // No architecture that is read has a window or caps its scores.
    return {model_.dims.H, model_.dims.K, model_.dims.D, 1.0f / std::sqrt(static_cast<float>(model_.dims.D)), 0, 0.0f};
}

}  // namespace cpuft
