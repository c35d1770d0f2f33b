// Which arrays a pass works with. Small ones that say where a token lies, a hundred bytes for each, are left out.
#include "pass_memory.h"

#include "transformer.h"

namespace cpuft {

namespace {

constexpr uint32_t kAllLinears = (1u << kLinearCount) - 1;

// The largest of what size(linear, weight) gives for some of a layer's linear layers.
template <class Size>
int64_t largest_of(const Model& model, uint32_t linears, Size size) {
    int64_t most = 0;
    for (size_t linear = 0; linear < kLinearCount; ++linear) {
        if ((linears >> linear & 1u) != 0)
            most = std::max(most, size(linear, model.layers.back().linears[linear].weight));
    }
    return most;
}

// Tokens that go on behind the attention of the last layer.
int64_t rows_of_last(const PassSize& size) { return size.n_targets > 0 ? size.n_targets : size.T; }

// Tokens that a linear layer sees in a layer where `behind` of them go on behind attention.
int64_t rows_of(size_t linear, const PassSize& size, int64_t behind) {
    return linear >= CPUFT_TARGET_ATTN_OUTPUT ? behind : size.T;
}

}  // namespace

PassSize Transformer::pass_size(const MicroBatch& batch, bool training, bool dropout) const {
    Layout layout;
    const int64_t n_short = model_.ropes.front().n_short;
    layout.set(batch, model_.dims.V, /*share_prefixes=*/batch.supervised != nullptr && !(training && dropout), n_short);
    int64_t n_pairs = 0;
    for (const int64_t position : layout.positions) n_pairs += (position < n_short ? position : position - n_short) + 1;
    return {layout.T(), static_cast<int64_t>(layout.targets.size()), n_pairs, training, training && dropout};
}

void Transformer::count(const PassSize& size, const AdapterShape& adapter, cpuft_activations policy,
                        PassMemory& memory) {
    size_t index = 0;
    visit_arrays(size, adapter, policy, [&](MemoryPart part, const auto& array, int64_t n) {
        memory.count(index++, part, sizeof(*array.data()), n);
    });
}

void Transformer::reserve(const PassMemory& memory) {
    size_t index = 0;
    visit_arrays({}, {}, policy_, [&](MemoryPart, auto& array, int64_t) { array.reserve(memory.n(index++)); });
}

PassMemory Transformer::held() {
    PassMemory memory;
    size_t index = 0;
    visit_arrays({}, {}, policy_, [&](MemoryPart part, const auto& array, int64_t) {
        memory.count(index++, part, sizeof(*array.data()), array.capacity());
    });
    return memory;
}

template <class Visit>
void Transformer::visit_arrays(const PassSize& size, const AdapterShape& adapter, cpuft_activations policy,
                               Visit visit) {
    visit_activations(size, adapter, policy, visit);
    visit_workspaces(size, adapter, visit);
    visit_scratch(size, adapter, visit);
}

template <class Visit>
void Transformer::visit_activations(const PassSize& size, const AdapterShape& adapter, cpuft_activations policy,
                                    Visit visit) {
    const Dimensions& d = model_.dims;
    const ActivationStorage storage = activation_storage(compute_.precision);
    const bool keeps = policy == CPUFT_ACTIVATIONS_KEEP, post_norms = model_.architecture.post_norms;
    const uint32_t linears = model_.linears(adapter.targets);
    const auto part = MemoryPart::kActivations;
    // All of layer `layer` where it keeps what it makes for a backward pass; of others the attention's sums and, where
    // they are adapted, the adapter's products.
    const auto visit_layer = [&](Activations& a, int64_t rows, bool kept, bool runs, uint32_t adapted) {
        const int64_t T = kept ? size.T : 0, N = kept ? rows : 0;
        const auto stored = [&](StoredRows& array, Storage how, int64_t n_rows, int64_t n) {
            visit(part, array.memory(), StoredRows::bytes(how, n_rows, n));
        };
        stored(a.x, storage.stream, T, d.C);
        stored(a.q, storage.heads, T, d.H * d.D);
        stored(a.k, storage.heads, T, d.K * d.D);
        stored(a.v, storage.stream, T, d.K * d.D);
        visit(part, a.lse, runs ? size.T * d.H : 0);
        stored(a.o, Storage::kF32, N, d.H * d.D);
        stored(a.attn_out, storage.stream, post_norms ? N : 0, d.C);
        stored(a.mid, storage.stream, N, d.C);
        stored(a.gate, storage.mlp, N, d.F);
        stored(a.up, storage.mlp, N, d.F);
        stored(a.mlp_out, storage.stream, post_norms ? N : 0, d.C);
        for (size_t linear = 0; linear < kLinearCount; ++linear) {
            const int64_t n = (adapted >> linear & 1u) == 0 ? 0 : rows_of(linear, size, rows);
            visit(part, a.lora_u[linear], n * adapter.rank);
        }
    };
    const int64_t last = d.n_layer - 1;
    for (int64_t layer = 0; layer < d.n_layer; ++layer) {
        const bool kept = size.training && keeps && layer >= adapter.first_layer;
        const uint32_t adapted = kept ? linears : 0;
        const int64_t rows = layer == last ? rows_of_last(size) : size.T;
        visit_layer(activations_[static_cast<size_t>(layer)], rows, kept, kept, adapted);
        const bool recomputed = size.training && !keeps && layer >= adapter.first_layer;
        visit(part, checkpoints_[static_cast<size_t>(layer)], recomputed ? size.T * d.C : 0);
    }
    // The slot that layers share which keep nothing. A pass of forward_frozen runs no adapted layer.
    const bool recomputes = size.training && !keeps;
    const bool adapted = recomputes || (!size.training && size.n_targets > 0);
    visit_layer(activations_.back(), adapter.first_layer < last ? size.T : rows_of_last(size), recomputes,
                adapted || adapter.first_layer > 0, adapted ? linears : 0);
}

template <class Visit>
void Transformer::visit_workspaces(const PassSize& size, const AdapterShape& adapter, Visit visit) {
    const Dimensions& d = model_.dims;
    const GemmKernel &weight_gemm = compute_.weight_gemm, &gemm = compute_.gemm;
    const auto part = MemoryPart::kWorkspace;
    const uint32_t linears = model_.linears(adapter.targets);
    const int64_t T = size.T, trained_T = size.training ? T : 0, R = adapter.rank, n = size.n_targets;
    visit(part, x_, T * d.C);
    visit(part, dx_, trained_T * d.C);
    visit(part, work_.memory(), Workspace::floats(d, T, n, head_bytes(weight_gemm, d.V, n)));
    visit(part, attention_.delta, trained_T * d.H);
    // Tokens behind attention: most of any layer, and most of a layer that a backward pass goes through.
    const int64_t behind_any = d.n_layer > 1 ? T : rows_of_last(size);
    const int64_t behind_trained = adapter.first_layer < d.n_layer - 1 ? T : rows_of_last(size);
    const auto rows_in = [&](size_t linear, const Matrix& weight) {
        return PackedRows::bytes(weight_gemm, rows_of(linear, size, behind_any), weight.cols);
    };
    const auto rows_out = [&](size_t linear, const Matrix& weight) {
        return PackedRows::bytes(weight_gemm, rows_of(linear, size, behind_trained), weight.rows);
    };
    const auto dropped = [&](size_t linear, const Matrix& weight) {
        return rows_of(linear, size, behind_trained) * weight.cols;
    };
    const auto rows = [&](size_t linear, const Matrix&) { return rows_of(linear, size, behind_trained); };
    const auto n_out = [](size_t, const Matrix& weight) { return weight.rows; };
    const int64_t adapted_rows = largest_of(model_, linears, rows);
    const int64_t trained_rows = size.training ? adapted_rows : 0;
    visit(part, input_.packed.memory(), largest_of(model_, kAllLinears, rows_in));
    visit(part, linear_.packed_dy.memory(), size.training ? largest_of(model_, kAllLinears, rows_out) : 0);
    visit(part, linear_.dropped, size.dropout ? largest_of(model_, linears, dropped) : 0);
    visit(part, linear_.du, trained_rows * R);
    visit(part, linear_.db, size.training ? R * largest_of(model_, linears, n_out) : 0);
    visit(part, linear_.packed_u.memory(), n == 0 ? 0 : PackedRows::bytes(gemm, adapted_rows, R));
    visit(part, linear_.packed_columns.memory(), size.training ? PackedRows::bytes(gemm, R, trained_rows) : 0);
    const int64_t chunk = head_chunk(weight_gemm, d.V, n), n_blocks = ceil_div(d.V, kBlockDepth);
    visit(part, head_.h.memory(), PackedRows::bytes(weight_gemm, chunk, d.C));
    visit(part, head_.maxima, n_blocks * chunk);
    visit(part, head_.sums, n_blocks * chunk);
    visit(part, head_.target_logits, chunk);
    visit(part, head_.target_slopes, chunk);
    visit(part, head_.losses, n);
}

template <class Visit>
void Transformer::visit_scratch(const PassSize& size, const AdapterShape& adapter, Visit visit) {
    const Dimensions& d = model_.dims;
    const GemmKernel &weight_gemm = compute_.weight_gemm, &gemm = compute_.gemm;
    const auto part = MemoryPart::kThreads;
    const int64_t wide = std::max(d.C, size.training ? 2 * d.F : 0);  // a row of gate and one of up
    for (Compute::Scratch& scratch : compute_.scratch) {
        visit(part, scratch.values, std::max({wide, scratch_values(gemm), scratch_values(weight_gemm)}));
        visit(part, scratch.panel, std::max(scratch_panel_bytes(gemm), scratch_panel_bytes(weight_gemm)));
        visit(part, scratch.columns, head_chunk(weight_gemm, d.V, size.n_targets) * kColumnStride);
        visit(part, scratch.attention, scratch_tile_floats());
        visit(part, scratch.attention_panels, scratch_operand_bytes(compute_.exact_gemm, d.D));
    }
    const bool narrow = size.dropout || &gemm != &weight_gemm;
    const int64_t depth = largest_of(model_, model_.linears(adapter.targets), [&](size_t, const Matrix& weight) {
        return size.training ? std::max(weight.rows, weight.cols) : weight.cols;
    });
    visit(part, compute_.shared_panel, narrow ? narrow_panel_bytes(gemm, depth, adapter.rank) : 0);
}

}  // namespace cpuft
