#include "model.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "error.h"
#include "formats.h"
#include "gemm.h"
#include "layers/attention.h"

namespace cpuft {

const std::array<const char*, CPUFT_TARGET_COUNT> kTargetNames = {"attn_q",   "attn_k", "attn_v",  "attn_output",
                                                                  "ffn_gate", "ffn_up", "ffn_down"};

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

float positive(const GgufFile& file, const std::string& key, double otherwise) {
    const double value = file.real_or(key, otherwise);
    if (!std::isfinite(value) || value <= 0.0) {
        refuse("%s: metadata key %s is %g, expected a positive number", file.path().c_str(), key.c_str(), value);
    }
    return static_cast<float>(value);
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
    if (file.integer_or(prefix + "attention.value_length", d.D) != d.D) {
        refuse("%s: value heads of another size than key heads are not supported", file.path().c_str());
    }
    d.V = embedding.rows;
    d.n_ctx_train = read("context_length", INT64_MAX);
    return d;
}

RopeFacts read_rope(const GgufFile& file, const std::string& prefix, const Architecture& architecture, int64_t D,
                    TensorReader& tensors) {
    RopeFacts rope{};
    rope.pairs = architecture.rope_pairs;
    const std::string dims_key = prefix + "rope.dimension_count";
    rope.n_rotated = bounded(file, dims_key, file.integer_or(dims_key, D), 2, D);
    if (rope.n_rotated % 2 != 0) refuse("%s: metadata key %s is odd", file.path().c_str(), dims_key.c_str());
    rope.base = positive(file, prefix + "rope.freq_base", 10000.0);
    rope.position_scale = 1.0f;
    const std::string type_key = prefix + "rope.scaling.type";
    const std::string type = file.has(type_key) ? file.text(type_key) : "none";
    if (type == "linear") {
        rope.position_scale = 1.0f / positive(file, prefix + "rope.scaling.factor", 1.0);
    } else if (type != "none") {
        refuse("%s: RoPE scaling \"%s\" is not supported (none, linear and Llama 3's factors are)", file.path().c_str(),
               printable(type).c_str());
    }
    rope.factors = tensors.vector_or_none("rope_freqs.weight", rope.n_rotated / 2);
    for (const float factor : rope.factors) {
        if (!std::isfinite(factor) || factor <= 0.0f)
            refuse("%s: rope_freqs.weight must be positive", file.path().c_str());
    }
    return rope;
}

LayerWeights read_layer(int64_t layer, const Dimensions& d, TensorReader& tensors) {
    const std::string block = "blk." + std::to_string(layer) + ".";
    const std::array<int64_t, CPUFT_TARGET_COUNT> outs = {d.H * d.D, d.K * d.D, d.K * d.D, d.C, d.F, d.F, d.C};
    const std::array<int64_t, CPUFT_TARGET_COUNT> ins = {d.C, d.C, d.C, d.H * d.D, d.C, d.C, d.F};
    LayerWeights weights;
    weights.attn_norm = tensors.vector(block + "attn_norm.weight", d.C);
    weights.ffn_norm = tensors.vector(block + "ffn_norm.weight", d.C);
    for (size_t target = 0; target < CPUFT_TARGET_COUNT; ++target) {
        const std::string name = block + kTargetNames[target];
        weights.linears[target].weight = tensors.matrix(name + ".weight", outs[target], ins[target]);
        weights.linears[target].bias = tensors.vector_or_none(name + ".bias", outs[target]);
    }
    return weights;
}

}  // namespace

Model::Model(const std::string& path)
    : file(path), architecture(find_architecture(file.text("general.architecture"), path)) {
    const std::string prefix = std::string(architecture.name) + ".";
    if (file.integer_or("split.count", 1) > 1)
        refuse("%s is one part of a split model; join the parts with llama-gguf-split first", path.c_str());
    if (file.integer_or(prefix + "expert_count", 0) > 0)
        refuse("%s is a mixture of experts, which cpuft does not train", path.c_str());

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
    norm_epsilon = positive(file, prefix + "attention.layer_norm_rms_epsilon", 1e-5);
    rope = read_rope(file, prefix, architecture, dims.D, tensors);
    for (int64_t layer = 0; layer < dims.n_layer; ++layer) layers.push_back(read_layer(layer, dims, tensors));
    tensors.refuse_unknown();
    for (const auto& [name, matrix] : file.tensors()) n_params += matrix.rows * matrix.cols;
}

bool Model::is_quantized() const {
    return std::any_of(layers.begin(), layers.end(), [](const LayerWeights& layer) {
        return std::any_of(layer.linears.begin(), layer.linears.end(),
                           [](const LinearWeights& linear) { return ggml_is_quantized(linear.weight.type); });
    });
}

void Model::measure_rows(Compute& compute) {
    head_row_scale = row_scales(compute, head);
    head.row_scale = head_row_scale.data();
    for (LayerWeights& layer : layers) {
        for (LinearWeights& linear : layer.linears) {
            linear.row_scale = row_scales(compute, linear.weight);
            linear.weight.row_scale = linear.row_scale.data();
        }
    }
}

std::string Model::describe() const {
    char json[1024];
    snprintf(json, sizeof json,
             "\"architecture\": \"%s\", \"n_layer\": %lld, \"n_embd\": %lld, \"n_ff\": %lld, \"n_head\": %lld, "
             "\"n_head_kv\": %lld, "
             "\"head_size\": %lld, \"n_vocab\": %lld, \"n_ctx_train\": %lld, \"n_params\": %lld, \"tied_head\": %s, "
             "\"weight_bytes\": %lld, \"prefix_block\": %lld",
             architecture.name, (long long)dims.n_layer, (long long)dims.C, (long long)dims.F, (long long)dims.H,
             (long long)dims.K, (long long)dims.D, (long long)dims.V, (long long)dims.n_ctx_train, (long long)n_params,
             tied_head ? "true" : "false", (long long)file.data_bytes(), (long long)kAttentionBlock);
    return json;
}

}  // namespace cpuft
