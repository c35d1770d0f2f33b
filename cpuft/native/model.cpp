#include "model.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <set>

#include "error.h"
#include "formats.h"
#include "gemm.h"
#include "layers/attention.h"

namespace cpuft {

const std::array<TargetName, CPUFT_TARGET_COUNT> kTargetNames = {{{"attn_q", "attn_q"},
                                                                  {"attn_k", "attn_k"},
                                                                  {"attn_v", "attn_v"},
                                                                  {"attn_output", "attn_output"},
                                                                  {"ffn_gate", "ffn_gate"},
                                                                  {"ffn_up", "ffn_up"},
                                                                  {"ffn_down", "ffn_down"},
                                                                  {"attn_qkv", "attn_qkv"},
                                                                  {"ffn_gate_up", "ffn_up"}}};

namespace {

// Reads tensors by name, checks their shapes, and remembers which were asked for.
class TensorReader {
  public:
    explicit TensorReader(const GgufFile& file) : file_(file) {}

    Matrix matrix(const std::string& name, int64_t rows, int64_t cols) {
        const Matrix found = optional(name);
        if (found.empty()) refuse("%s lacks the tensor %s", file_.path().c_str(), name.c_str());
        if (found.rows != rows || found.cols != cols) {
            refuse("%s: tensor %s has shape (%lld, %lld), but the metadata ask for (%lld, %lld)", file_.path().c_str(),
                   name.c_str(), (long long)found.rows, (long long)found.cols, (long long)rows, (long long)cols);
        }
        return found;
    }

    std::vector<float> vector(const std::string& name, int64_t size) {
        const Matrix found = matrix(name, 1, size);
        std::vector<float> values(static_cast<size_t>(size));
        dequantize_segment(found.type, found.data, 0, size, values.data());
        return values;
    }

    std::vector<float> vector_or_none(const std::string& name, int64_t size) {
        return file_.find(name).empty() ? std::vector<float>() : vector(name, size);
    }

    Matrix optional(const std::string& name) {
        asked_.insert(name);
        return file_.find(name);
    }

    // A tensor that nobody asked for takes part in this model's arithmetic in a way that the engine does not know.
    void refuse_unknown() const {
        for (const auto& [name, matrix] : file_.tensors()) {
            if (asked_.count(name) == 0) {
                refuse(
                    "%s: tensor %s is unknown for this architecture; cpuft cannot train a model that it would compute "
                    "wrongly",
                    file_.path().c_str(), name.c_str());
            }
        }
    }

  private:
    const GgufFile& file_;
    std::set<std::string> asked_;
};

int64_t bounded(const GgufFile& file, const std::string& key, int64_t value, int64_t low, int64_t high) {
    if (value < low || value > high) {
        refuse("%s: metadata key %s is %lld, expected %lld to %lld", file.path().c_str(), key.c_str(), (long long)value,
               (long long)low, (long long)high);
    }
    return value;
}

float positive(const GgufFile& file, const std::string& key, double value) {
    if (!(value > 0.0 && value <= static_cast<double>(std::numeric_limits<float>::max()))) {
        refuse("%s: metadata key %s is %g, expected a positive number", file.path().c_str(), key.c_str(), value);
    }
    return static_cast<float>(value);
}

float positive_or(const GgufFile& file, const std::string& key, double otherwise) {
    return positive(file, key, file.real_or(key, otherwise));
}

// 0 stands for none.
float read_cap(const GgufFile& file, const std::string& key, std::optional<float> otherwise) {
    const double cap = otherwise ? file.real_or(key, static_cast<double>(*otherwise)) : 0.0;
    return cap == 0.0 ? 0.0f : positive(file, key, cap);
}

// What llama.cpp reads for every architecture and the engine does not compute.
void refuse_unsupported(const GgufFile& file, const std::string& prefix) {
    const char* path = file.path().c_str();
    if (file.integer_or("split.count", 1) > 1)
        refuse("%s is one part of a split model; join the parts with llama-gguf-split first", path);
    if (file.integer_or(prefix + "expert_count", 0) != 0)
        refuse("%s is a mixture of experts, which cpuft does not train", path);
    if (file.integer_or(prefix + "nextn_predict_layers", 0) != 0)
        refuse("%s has layers that predict tokens behind the next one, which cpuft does not train", path);
    if (file.integer_or(prefix + "attention.causal", 1) == 0)
        refuse("%s is no language model: its tokens see those behind them, too", path);
}

Dimensions read_dimensions(const GgufFile& file, const std::string& prefix, const Matrix& embedding) {
    const auto read = [&](const char* name, int64_t high) {
        const std::string key = prefix + name;
        return bounded(file, key, file.integer(key), 1, high);
    };
    Dimensions d{};
    d.n_layer = read("block_count", 4096);
    d.C = read("embedding_length", 1 << 20);
    d.F = read("feed_forward_length", 1 << 22);
    d.H = read("attention.head_count", 4096);
    const std::string kv_key = prefix + "attention.head_count_kv";
    d.K = bounded(file, kv_key, file.integer_or(kv_key, d.H), 1, d.H);
    if (d.H % d.K != 0)
        refuse("%s: %lld query heads are no multiple of %lld key heads", file.path().c_str(), (long long)d.H,
               (long long)d.K);
    const std::string size_key = prefix + "attention.key_length";
    if (!file.has(size_key) && d.C % d.H != 0)
        refuse("%s lacks the metadata key %s", file.path().c_str(), size_key.c_str());
    d.D = bounded(file, size_key, file.integer_or(size_key, d.C / d.H), 2, 4096);
    for (const char* name : {"attention.value_length", "attention.key_length_swa", "attention.value_length_swa"}) {
        if (file.integer_or(prefix + name, d.D) != d.D) {
            refuse("%s: metadata key %s%s: heads of another size than the %lld of %s are not supported",
                   file.path().c_str(), prefix.c_str(), name, (long long)d.D, size_key.c_str());
        }
    }
    d.V = embedding.rows;
    d.n_ctx_train = read("context_length", INT64_MAX);
    return d;
}

std::vector<float> read_factors(const GgufFile& file, const std::string& name, int64_t size, TensorReader& tensors) {
    std::vector<float> factors = tensors.vector_or_none(name, size);
    for (const float factor : factors) {
        if (!std::isfinite(factor) || factor <= 0.0f)
            refuse("%s: %s must be positive", file.path().c_str(), name.c_str());
    }
    return factors;
}

RopeFacts read_rope(const GgufFile& file, const std::string& prefix, const Architecture& architecture,
                    const Dimensions& d, TensorReader& tensors) {
    RopeFacts rope{};
    rope.pairs = architecture.rope_pairs;
    const std::string dims_key = prefix + "rope.dimension_count";
    rope.n_rotated = bounded(file, dims_key, file.integer_or(dims_key, d.D), 2, d.D);
    if (rope.n_rotated % 2 != 0) refuse("%s: metadata key %s is odd", file.path().c_str(), dims_key.c_str());
    if (file.integer_or(dims_key + "_swa", rope.n_rotated) != rope.n_rotated)
        refuse("%s: metadata key %s_swa: layers that rotate less or more than others are not supported",
               file.path().c_str(), dims_key.c_str());
    rope.base = positive_or(file, prefix + "rope.freq_base", 10000.0);
    rope.magnitude = positive_or(file, prefix + "rope.scaling.attn_factor", 1.0);
    const std::string type_key = prefix + "rope.scaling.type";
    const std::string type = file.has(type_key) ? file.text(type_key) : "linear";
    if (type != "none" && type != "linear" && type != "longrope") {
        refuse("%s: RoPE scaling \"%s\" is not supported (none, linear, longrope and Llama 3's factors are)",
               file.path().c_str(), printable(type).c_str());
    }
    // Files of 2023 have the other key; 0 stands for none.
    const std::string factor_key =
        prefix + (file.has(prefix + "rope.scaling.factor") ? "rope.scaling.factor" : "rope.scale_linear");
    const double factor = type == "none" ? 1.0 : file.real_or(factor_key, 1.0);
    rope.position_scale = factor == 0.0 ? 1.0f : 1.0f / positive(file, factor_key, factor);
    const std::string long_name = "rope_factors_long.weight", short_name = "rope_factors_short.weight";
    if (type != "longrope" && file.find(long_name).empty() && file.find(short_name).empty()) {
        rope.factors = read_factors(file, "rope_freqs.weight", rope.n_rotated / 2, tensors);
        return rope;
    }
    rope.factors = read_factors(file, short_name, rope.n_rotated / 2, tensors);
    rope.long_factors = read_factors(file, long_name, rope.n_rotated / 2, tensors);
    for (const auto& [name, factors] : {std::pair(short_name, rope.factors), std::pair(long_name, rope.long_factors)}) {
        if (factors.empty()) refuse("%s lacks the tensor %s of its LongRoPE", file.path().c_str(), name.c_str());
    }
    const std::string short_key = prefix + "rope.scaling.original_context_length";
    rope.n_short = bounded(file, short_key, file.integer_or(short_key, d.n_ctx_train), 1, 1 << 24);
    return rope;
}

// What layers with a window rotate by.
RopeFacts read_window_rope(const GgufFile& file, const std::string& prefix, const Architecture& architecture,
                           RopeFacts rope) {
    if (architecture.window_rope_base > 0.0f) {
        rope.base = architecture.window_rope_base;
        rope.position_scale = 1.0f;
    }
    rope.base = positive_or(file, prefix + "rope.freq_base_swa", static_cast<double>(rope.base));
    return rope;
}

// [n_layer] as AttentionShape has them.
std::vector<int64_t> read_windows(const GgufFile& file, const std::string& prefix, const Architecture& architecture,
                                  int64_t n_layer) {
    std::vector<int64_t> windows(static_cast<size_t>(n_layer), 0);
    if (architecture.window_period == 0) return windows;
    const std::string key = prefix + "attention.sliding_window", pattern_key = key + "_pattern";
    const int64_t window = bounded(file, key, file.integer_or(key, architecture.window), 0, INT32_MAX);
    if (file.is_list(pattern_key)) {
        const std::vector<int64_t> pattern = file.integers(pattern_key);
        if (pattern.size() != windows.size()) {
            refuse("%s: metadata key %s has %zu entries, but the model %lld layers", file.path().c_str(),
                   pattern_key.c_str(), pattern.size(), (long long)n_layer);
        }
        for (size_t layer = 0; layer < windows.size(); ++layer) windows[layer] = pattern[layer] != 0 ? window : 0;
        return windows;
    }
    const int64_t period =
        bounded(file, pattern_key, file.integer_or(pattern_key, architecture.window_period), 0, INT32_MAX);
    for (int64_t layer = 0; layer < n_layer; ++layer) {
        const bool has_window = period == 0 || layer % period < period - 1;
        windows[static_cast<size_t>(layer)] = has_window ? window : 0;
    }
    return windows;
}

void read_norms(const std::string& block, const Architecture& architecture, const Dimensions& d, TensorReader& tensors,
                Layer& layer) {
    layer.attn_norm = tensors.vector(block + "attn_norm.weight", d.C);
    layer.ffn_norm = tensors.vector(block + "ffn_norm.weight", d.C);
    if (architecture.post_norms) {
        layer.attn_post_norm = tensors.vector(block + "post_attention_norm.weight", d.C);
        layer.ffn_post_norm = tensors.vector(block + "post_ffw_norm.weight", d.C);
    }
    if (architecture.qk_norms) {
        layer.q_norm = tensors.vector(block + "attn_q_norm.weight", d.D);
        layer.k_norm = tensors.vector(block + "attn_k_norm.weight", d.D);
    }
}

// One tensor with the rows of the linear layers `parts`.
void read_linears(const std::string& name, const std::vector<cpuft_target>& parts, const Dimensions& d,
                  TensorReader& tensors, Layer& layer) {
    const std::array<int64_t, kLinearCount> outs = {d.H * d.D, d.K * d.D, d.K * d.D, d.C, d.F, d.F, d.C};
    const std::array<int64_t, kLinearCount> ins = {d.C, d.C, d.C, d.H * d.D, d.C, d.C, d.F};
    int64_t n_out = 0;
    for (const cpuft_target part : parts) n_out += outs[part];
    const Matrix weight = tensors.matrix(name + ".weight", n_out, ins[parts.front()]);
    const std::vector<float> bias = tensors.vector_or_none(name + ".bias", n_out);
    int64_t first = 0;
    for (const cpuft_target part : parts) {
        LinearWeights& linear = layer.linears[part];
        linear.weight = weight.slice(first, outs[part]);
        if (!bias.empty()) linear.bias.assign(bias.begin() + first, bias.begin() + first + outs[part]);
        first += outs[part];
    }
}

}  // namespace

Model::Model(const std::string& path)
    : file(path), architecture(find_architecture(file.text("general.architecture"), path)) {
    const std::string prefix = std::string(architecture.name) + ".";
    refuse_unsupported(file, prefix);
    const size_t n_tokens = file.texts("tokenizer.ggml.tokens").size();
    TensorReader tensors(file);
    embedding = tensors.optional("token_embd.weight");
    if (embedding.empty())
        refuse("%s lacks the tensor token_embd.weight; a vocabulary-only file cannot be trained", path.c_str());
    if (embedding.rows != static_cast<int64_t>(n_tokens)) {
        refuse("%s: the vocabulary has %zu tokens, but token_embd.weight has %lld rows", path.c_str(), n_tokens,
               (long long)embedding.rows);
    }
    dims = read_dimensions(file, prefix, embedding);
    embedding = tensors.matrix("token_embd.weight", dims.V, dims.C);
    head = tensors.optional("output.weight");
    tied_head = head.empty();
    head = tied_head ? embedding : tensors.matrix("output.weight", dims.V, dims.C);
    output_norm = tensors.vector("output_norm.weight", dims.C);
    const std::string epsilon_key = prefix + "attention.layer_norm_rms_epsilon";
    norm_epsilon = positive(file, epsilon_key, file.real(epsilon_key));
    embedding_scale = architecture.scaled_embedding ? std::sqrt(static_cast<float>(dims.C)) : 1.0f;
    // The quotient of whole numbers, as llama.cpp takes it.
    const int64_t score_size = dims.n_layer == architecture.layers_of_widest ? dims.C / dims.H : dims.D;
    score_scale = 1.0f / std::sqrt(static_cast<float>(score_size));
    score_cap = read_cap(file, prefix + "attn_logit_softcapping", architecture.score_cap);
    logit_cap = read_cap(file, prefix + "final_logit_softcapping", architecture.logit_cap);
    ropes.push_back(read_rope(file, prefix, architecture, dims, tensors));
    if (architecture.window_period != 0) ropes.push_back(read_window_rope(file, prefix, architecture, ropes.front()));
    const std::vector<int64_t> windows = read_windows(file, prefix, architecture, dims.n_layer);
    fused_qkv = !file.find("blk.0.attn_qkv.weight").empty();
    for (int64_t number = 0; number < dims.n_layer; ++number) {
        const std::string block = "blk." + std::to_string(number) + ".";
        Layer& layer = layers.emplace_back();
        layer.window = windows[static_cast<size_t>(number)];
        layer.rope = layer.window > 0 ? 1 : 0;
        if (architecture.rope_skips != 0 && (number + 1) % architecture.rope_skips == 0) layer.rope = kNoRope;
        read_norms(block, architecture, dims, tensors, layer);
        for (size_t target = 0; target < CPUFT_TARGET_COUNT; ++target) {
            const std::vector<cpuft_target> held = parts(static_cast<cpuft_target>(target));
            if (!held.empty()) read_linears(block + kTargetNames[target].tensor, held, dims, tensors, layer);
        }
    }
    tensors.refuse_unknown();
    for (const auto& [name, matrix] : file.tensors()) n_params += matrix.rows * matrix.cols;
}

uint32_t Model::linears(uint32_t targets) const {
    uint32_t linears = 0;
    for (uint32_t target = 0; target < CPUFT_TARGET_COUNT; ++target) {
        if ((targets >> target & 1u) == 0) continue;
        for (const cpuft_target part : parts(static_cast<cpuft_target>(target))) linears |= 1u << part;
    }
    return linears;
}

bool Model::is_quantized() const {
    return std::any_of(layers.begin(), layers.end(), [](const Layer& layer) {
        return std::any_of(layer.linears.begin(), layer.linears.end(),
                           [](const LinearWeights& linear) { return ggml_is_quantized(linear.weight.type); });
    });
}

std::vector<cpuft_target> Model::parts(cpuft_target target) const {
    switch (target) {
        case CPUFT_TARGET_ATTN_QKV:
            if (!fused_qkv) return {};
            return {CPUFT_TARGET_ATTN_Q, CPUFT_TARGET_ATTN_K, CPUFT_TARGET_ATTN_V};
        case CPUFT_TARGET_FFN_GATE_UP:
            if (!architecture.fused_gate_up) return {};
            return {CPUFT_TARGET_FFN_GATE, CPUFT_TARGET_FFN_UP};
        case CPUFT_TARGET_ATTN_Q:
        case CPUFT_TARGET_ATTN_K:
        case CPUFT_TARGET_ATTN_V:
            if (fused_qkv) return {};
            return {target};
        case CPUFT_TARGET_FFN_GATE:
        case CPUFT_TARGET_FFN_UP:
            if (architecture.fused_gate_up) return {};
            return {target};
        default:
            return {target};
    }
}

std::vector<cpuft_target> Model::targets() const {
    std::vector<cpuft_target> targets;
    for (uint32_t target = 0; target < CPUFT_TARGET_COUNT; ++target) {
        if (!parts(static_cast<cpuft_target>(target)).empty()) targets.push_back(static_cast<cpuft_target>(target));
    }
    return targets;
}

void Model::measure_rows(Compute& compute) {
    head_row_scale = row_scales(compute, head);
    head.row_scale = head_row_scale.data();
    for (Layer& layer : layers) {
        for (LinearWeights& linear : layer.linears) {
            linear.row_scale = row_scales(compute, linear.weight);
            linear.weight.row_scale = linear.row_scale.data();
        }
    }
}

std::string Model::describe() const {
    std::string names;
    for (const cpuft_target target : targets())
        names += (names.empty() ? "\"" : ", \"") + std::string(kTargetNames[target].target) + "\"";
    char json[1024];
    snprintf(json, sizeof json,
             "\"architecture\": \"%s\", \"n_layer\": %lld, \"n_embd\": %lld, \"n_ff\": %lld, \"n_head\": %lld, "
             "\"n_head_kv\": %lld, "
             "\"head_size\": %lld, \"n_vocab\": %lld, \"n_ctx_train\": %lld, \"n_params\": %lld, \"tied_head\": %s, "
             "\"post_norms\": %s, \"targets\": [%s], \"weight_bytes\": %lld, \"prefix_block\": %lld",
             architecture.name, (long long)dims.n_layer, (long long)dims.C, (long long)dims.F, (long long)dims.H,
             (long long)dims.K, (long long)dims.D, (long long)dims.V, (long long)dims.n_ctx_train, (long long)n_params,
             tied_head ? "true" : "false", architecture.post_norms ? "true" : "false", names.c_str(),
             (long long)file.data_bytes(), (long long)kAttentionBlock);
    return json;
}

}  // namespace cpuft
