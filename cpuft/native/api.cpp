// The C interface: checks arguments, calls the engine, and turns exceptions into status codes and sentences.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <numeric>
#include <string>
#include <utility>

#include "adapter.h"
#include "compute.h"
#include "cpuft.h"
#include "error.h"
#include "file_mapping.h"
#include "formats.h"
#include "model.h"
#include "optimizer.h"
#include "thread_pool.h"
#include "transformer.h"
#include "vocabulary.h"

using namespace cpuft;

namespace {

constexpr std::pair<const char*, Precision> kPrecisions[] = {
    {"f32", Precision::kF32}, {"bf16", Precision::kBf16}, {"int8", Precision::kInt8}};

const char* name_of(Precision precision) {
    for (const auto& [name, known] : kPrecisions) {
        if (known == precision) return name;
    }
    return "";
}

// Bytes, where the CPU multiplies them fast and the model's own weights are rounded already (RESULTS.md, "What rounding costs
// in training").
Precision automatic_precision(const Model& model, const KernelTable& kernels) {
    const bool fast = kernels.int8 != nullptr && &kernels != &kReferenceKernels;
    return fast && model.is_quantized() ? Precision::kInt8 : Precision::kBf16;
}

// name: null for the automatic one.
Precision choose_precision(const char* name, const Model& model, const KernelTable& kernels) {
    if (name == nullptr) return automatic_precision(model, kernels);
    for (const auto& [known, precision] : kPrecisions) {
        if (std::strcmp(name, known) != 0) continue;
        if (precision == Precision::kInt8 && kernels.int8 == nullptr)
            refuse("precision int8 needs a CPU with AVX-VNNI or AVX-512-VNNI; isa \"%s\" has f32 and bf16",
                   kernels.name);
        return precision;
    }
    refuse("unknown precision \"%s\"; expected f32, bf16 or int8", name);
}

}  // namespace

struct cpuft_engine {
    cpuft_engine(const char* path, int n_threads, const KernelTable& kernels, const char* precision)
        : model(path),
          compute(n_threads, kernels, choose_precision(precision, model, kernels)),
          transformer(model, compute) {
        if (compute.precision == Precision::kInt8) model.measure_rows(compute);
    }

    Adapter& trained_adapter() {
        if (!adapter) refuse("the engine has no adapter yet; call cpuft_adapter_init first");
        return *adapter;
    }
    const Vocabulary& words() {
        if (!vocabulary) vocabulary = std::make_unique<Vocabulary>(model.file);
        return *vocabulary;
    }

    Model model;
    Compute compute;
    Transformer transformer;
    std::unique_ptr<Adapter> adapter;
    std::unique_ptr<Vocabulary> vocabulary;  // read when first asked for
    std::string description;
    std::string profile;       // what cpuft_profile last handed out
    std::string memory;        // what cpuft_memory last handed out
    int64_t n_supervised = 0;  // since the last step
};

namespace {

thread_local std::string last_error;

void require(bool condition, const char* sentence) {
    if (!condition) refuse("%s", sentence);
}

void require_moments(cpuft_moments moments) {
    require(moments == CPUFT_MOMENTS_F32 || moments == CPUFT_MOMENTS_8BIT, "unknown precision of moments");
}

void require_policy(cpuft_activations policy) {
    require(policy == CPUFT_ACTIVATIONS_KEEP || policy == CPUFT_ACTIVATIONS_RECOMPUTE, "unknown activation policy");
}

template <class Body>
cpuft_status guarded(Body body) {
    try {
        body();
        return CPUFT_STATUS_OK;
    } catch (const InputError& error) {
        last_error = error.what();
        return CPUFT_STATUS_INPUT;
    } catch (const std::bad_alloc&) {
        last_error = "out of memory; use shorter sequences, smaller micro-batches or the recompute policy";
        return CPUFT_STATUS_MEMORY;
    } catch (const std::exception& error) {
        last_error = error.what();
        return CPUFT_STATUS_INTERNAL;
    } catch (...) {
        last_error = "an unknown exception";
        return CPUFT_STATUS_INTERNAL;
    }
}

template <class Body>
cpuft_status guarded(const cpuft_engine* engine, Body body) {
    return guarded([&] {
        require(engine != nullptr, "the engine is closed");
        body();
    });
}

// For what reads the mapped weights. They must be those of the file that was opened, before and after, or the numbers mean
// nothing.
template <class Body>
cpuft_status guarded_pass(const cpuft_engine* engine, Body body) {
    return guarded(engine, [&] {
        const MappedReads reads;
        engine->model.file.require_unchanged();
        body();
        engine->model.file.require_unchanged();
    });
}

void forget_gradient(cpuft_engine& engine) {
    const Stopwatch::Lap lap(engine.compute.stopwatch, Part::kOptimizer);
    engine.trained_adapter().zero_gradients(engine.compute);
    engine.n_supervised = 0;
}

int thread_count(int32_t n_threads) {
    if (n_threads < 0 || n_threads > 1024) refuse("%d threads are out of range; expected 0 to 1024", n_threads);
    return n_threads == 0 ? available_cpus() : n_threads;
}

MicroBatch micro_batch(const int32_t* tokens, const uint8_t* supervised, const int64_t* lengths, int64_t n_sequences,
                       const uint64_t* keys, const float* frozen) {
    require(tokens != nullptr && lengths != nullptr, "tokens and lengths must not be null");
    return {tokens, supervised, lengths, n_sequences, keys, frozen};
}

// sizes: [n_passes, CPUFT_PASS_SIZE]
PassMemory pass_memory(Transformer& transformer, const AdapterShape& adapter, cpuft_activations policy,
                       const int64_t* sizes, int64_t n_passes) {
    require(sizes != nullptr && n_passes >= 1, "the sizes of at least one pass are needed");
    PassMemory memory;
    for (const int64_t* size = sizes; size < sizes + n_passes * CPUFT_PASS_SIZE; size += CPUFT_PASS_SIZE) {
        const int64_t T = size[CPUFT_PASS_TOKENS], n_targets = size[CPUFT_PASS_TARGETS];
        require(T >= 0 && T <= kMostTokens && n_targets >= 0 && n_targets <= T, "a pass of that size is impossible");
        transformer.count(
            {T, n_targets, size[CPUFT_PASS_PAIRS], size[CPUFT_PASS_TRAINING] != 0, size[CPUFT_PASS_DROPOUT] != 0},
            adapter, policy, memory);
    }
    return memory;
}

// A JSON object of whole numbers.
void append_entry(std::string& json, const char* name, int64_t value) {
    json += std::string(json.empty() ? "{" : ", ") + "\"" + name + "\": " + std::to_string(value);
}

}  // namespace

uint32_t cpuft_abi_version(void) { return CPUFT_ABI_VERSION; }

const char* cpuft_last_error(void) { return last_error.c_str(); }

cpuft_status cpuft_open(const char* path, int32_t n_threads, const char* isa, const char* precision,
                        cpuft_engine** engine) {
    return guarded([&] {
        require(path != nullptr && engine != nullptr, "path and engine must not be null");
        const char* chosen = isa != nullptr ? isa : std::getenv("CPUFT_ISA");
        const KernelTable& kernels = select_kernels(chosen != nullptr && *chosen != '\0' ? chosen : nullptr);
        const MappedReads reads;
        auto opened = std::make_unique<cpuft_engine>(path, thread_count(n_threads), kernels, precision);
        opened->model.file.require_unchanged();
        opened->description = "{" + opened->model.describe() + ", \"isa\": \"" + kernels.name +
                              "\", \"precision\": \"" + name_of(opened->compute.precision) + "\", \"kernel\": \"" +
                              opened->compute.weight_gemm.name +
                              "\", \"n_threads\": " + std::to_string(opened->compute.pool.size()) + "}";
        *engine = opened.release();
    });
}

void cpuft_close(cpuft_engine* engine) { delete engine; }

const char* cpuft_describe(const cpuft_engine* engine) {
    return engine == nullptr ? "{}" : engine->description.c_str();
}

cpuft_status cpuft_tokenize(cpuft_engine* engine, const char* text, int64_t n_bytes, int32_t add_special,
                            int32_t parse_special, int32_t* tokens, int64_t capacity, int64_t* n_tokens) {
    return guarded(engine, [&] {
        require(n_bytes >= 0 && (text != nullptr || n_bytes == 0) && n_tokens != nullptr,
                "text and n_tokens must not be null");
        const std::vector<int32_t> result =
            engine->words().tokenize(text, n_bytes, add_special != 0, parse_special != 0);
        *n_tokens = static_cast<int64_t>(result.size());
        if (*n_tokens <= capacity) std::copy(result.begin(), result.end(), tokens);
    });
}

cpuft_status cpuft_detokenize(cpuft_engine* engine, const int32_t* tokens, int64_t n_tokens, int32_t render_special,
                              char* text, int64_t capacity, int64_t* n_bytes) {
    return guarded(engine, [&] {
        require(n_tokens >= 0 && (tokens != nullptr || n_tokens == 0) && n_bytes != nullptr,
                "tokens and n_bytes must not be null");
        const std::string result = engine->words().detokenize(tokens, n_tokens, render_special != 0);
        *n_bytes = static_cast<int64_t>(result.size());
        if (*n_bytes <= capacity) std::copy(result.begin(), result.end(), text);
    });
}

cpuft_status cpuft_adapter_init(cpuft_engine* engine, int32_t rank, float alpha, float dropout, uint32_t targets,
                                int32_t first_layer, uint64_t seed, cpuft_moments moments) {
    return guarded(engine, [&] {
        require_moments(moments);
        engine->adapter =
            std::make_unique<Adapter>(engine->model, rank, alpha, dropout, targets, first_layer, seed, moments);
        engine->n_supervised = 0;
    });
}

int64_t cpuft_adapter_count(const cpuft_engine* engine) {
    return engine != nullptr && engine->adapter ? static_cast<int64_t>(engine->adapter->tensors().size()) : 0;
}

cpuft_status cpuft_adapter_tensor(const cpuft_engine* engine, int64_t i, const char** name, int64_t* rows,
                                  int64_t* cols, int64_t* offset) {
    return guarded(engine, [&] {
        require(i >= 0 && i < cpuft_adapter_count(engine), "the adapter has no tensor of that number");
        const AdapterTensor& tensor = engine->adapter->tensors()[static_cast<size_t>(i)];
        *name = tensor.name.c_str();
        *rows = tensor.rows;
        *cols = tensor.cols;
        *offset = tensor.offset;
    });
}

cpuft_status cpuft_parameters(cpuft_engine* engine, float** values, int64_t* n) {
    return guarded(engine, [&] {
        *values = engine->trained_adapter().parameters();
        *n = engine->adapter->size();
    });
}

cpuft_status cpuft_gradients(cpuft_engine* engine, float** values, int64_t* n) {
    return guarded(engine, [&] {
        *values = engine->trained_adapter().gradients();
        *n = engine->adapter->size();
    });
}

cpuft_status cpuft_optimizer_state(cpuft_engine* engine, const uint8_t** bytes, int64_t* n_bytes) {
    return guarded(engine, [&] {
        *bytes = engine->trained_adapter().moments().bytes();
        *n_bytes = engine->adapter->moments().n_bytes();
    });
}

cpuft_status cpuft_set_optimizer_state(cpuft_engine* engine, const uint8_t* bytes, int64_t n_bytes) {
    return guarded(engine, [&] {
        require(bytes != nullptr, "the bytes of an optimizer state must not be null");
        engine->trained_adapter().moments().restore(bytes, n_bytes);
    });
}

cpuft_status cpuft_set_activations(cpuft_engine* engine, cpuft_activations policy) {
    return guarded(engine, [&] {
        require_policy(policy);
        engine->transformer.set_activations(policy);
    });
}

cpuft_status cpuft_forward_backward(cpuft_engine* engine, const int32_t* tokens, const uint8_t* supervised,
                                    const int64_t* lengths, int64_t n_sequences, const uint64_t* dropout_keys,
                                    const float* frozen, double* loss_sum, int64_t* n_supervised) {
    bool added = false;
    const cpuft_status status = guarded_pass(engine, [&] {
        const Stopwatch::Lap lap(engine->compute.stopwatch, Part::kOther);
        require(supervised != nullptr, "supervised must not be null");
        const Loss loss = engine->transformer.forward_backward(
            micro_batch(tokens, supervised, lengths, n_sequences, dropout_keys, frozen), engine->trained_adapter());
        added = true;
        engine->n_supervised += loss.n_supervised;
        *loss_sum = loss.sum;
        *n_supervised = loss.n_supervised;
    });
    if (status != CPUFT_STATUS_OK && added) forget_gradient(*engine);  // of weights that were none
    return status;
}

cpuft_status cpuft_forward(cpuft_engine* engine, const int32_t* tokens, const uint8_t* supervised,
                           const int64_t* lengths, int64_t n_sequences, const float* frozen, double* loss_sum,
                           int64_t* n_supervised) {
    return guarded_pass(engine, [&] {
        const Stopwatch::Lap lap(engine->compute.stopwatch, Part::kOther);
        require(supervised != nullptr, "supervised must not be null");
        const Loss loss = engine->transformer.forward(
            micro_batch(tokens, supervised, lengths, n_sequences, nullptr, frozen), engine->adapter.get());
        *loss_sum = loss.sum;
        *n_supervised = loss.n_supervised;
    });
}

int64_t cpuft_pass_tokens(const cpuft_engine* engine) { return engine == nullptr ? 0 : engine->transformer.T(); }

cpuft_status cpuft_forward_frozen(cpuft_engine* engine, const int32_t* tokens, const int64_t* lengths,
                                  int64_t n_sequences, float* frozen) {
    return guarded_pass(engine, [&] {
        const Stopwatch::Lap lap(engine->compute.stopwatch, Part::kOther);
        require(frozen != nullptr, "frozen must not be null");
        engine->transformer.forward_frozen(micro_batch(tokens, nullptr, lengths, n_sequences, nullptr, nullptr),
                                           engine->trained_adapter(), frozen);
    });
}

cpuft_status cpuft_forward_hidden(cpuft_engine* engine, const int32_t* tokens, const int64_t* lengths,
                                  int64_t n_sequences, float* hidden) {
    return guarded_pass(engine, [&] {
        const Stopwatch::Lap lap(engine->compute.stopwatch, Part::kOther);
        require(hidden != nullptr, "hidden must not be null");
        engine->transformer.forward_hidden(micro_batch(tokens, nullptr, lengths, n_sequences, nullptr, nullptr),
                                           engine->adapter.get(), hidden);
    });
}

cpuft_status cpuft_logits(cpuft_engine* engine, const float* hidden, int64_t n, float* logits) {
    return guarded_pass(engine, [&] {
        const Stopwatch::Lap lap(engine->compute.stopwatch, Part::kOther);
        require(hidden != nullptr && logits != nullptr, "hidden and logits must not be null");
        require(n >= 1 && n <= kMostTokens, "logits of that many rows are impossible");
        engine->transformer.logits(hidden, n, logits);
    });
}

cpuft_status cpuft_step(cpuft_engine* engine, int64_t step, float learning_rate, float beta1, float beta2,
                        float epsilon, float weight_decay, float max_grad_norm, double* grad_norm) {
    return guarded(engine, [&] {
        const Stopwatch::Lap lap(engine->compute.stopwatch, Part::kOptimizer);
        Adapter& adapter = engine->trained_adapter();
        require(step >= 1, "steps count from 1");
        require(std::isfinite(learning_rate) && learning_rate >= 0.0f,
                "the learning rate must be a finite number >= 0");
        require(beta1 >= 0.0f && beta1 < 1.0f && beta2 >= 0.0f && beta2 < 1.0f, "AdamW's betas must be in [0, 1)");
        require(std::isfinite(epsilon) && epsilon > 0.0f, "AdamW's epsilon must be a positive number");
        require(std::isfinite(weight_decay) && weight_decay >= 0.0f, "the weight decay must be a finite number >= 0");
        require(std::isfinite(max_grad_norm) && max_grad_norm >= 0.0f, "max_grad_norm must be a finite number >= 0");
        require(engine->n_supervised > 0, "no supervised token since the last step; there is no gradient to follow");
        const double per_token = 1.0 / static_cast<double>(engine->n_supervised);
        const double size = adapter.gradient_norm(engine->compute) * per_token;
        require(std::isfinite(size),
                "the gradient is not finite; lower the learning rate or look for broken values in the base model");
        const double clip = max_grad_norm > 0.0f && size > static_cast<double>(max_grad_norm)
                                ? static_cast<double>(max_grad_norm) / size
                                : 1.0;
        adamw_step(engine->compute, {learning_rate, beta1, beta2, epsilon, weight_decay}, step,
                   static_cast<float>(per_token * clip), adapter.gradients(), adapter.parameters(), adapter.moments());
        engine->n_supervised = 0;
        *grad_norm = size;
    });
}

cpuft_status cpuft_zero_gradients(cpuft_engine* engine) {
    return guarded(engine, [&] { forget_gradient(*engine); });
}

cpuft_status cpuft_pass_size(cpuft_engine* engine, const int32_t* tokens, const uint8_t* supervised,
                             const int64_t* lengths, int64_t n_sequences, int32_t training, int32_t dropout,
                             int64_t* size) {
    return guarded(engine, [&] {
        require(size != nullptr, "size must not be null");
        const MicroBatch batch = micro_batch(tokens, supervised, lengths, n_sequences, nullptr, nullptr);
        const PassSize pass = engine->transformer.pass_size(batch, training != 0, dropout != 0);
        size[CPUFT_PASS_TOKENS] = pass.T;
        size[CPUFT_PASS_TARGETS] = pass.n_targets;
        size[CPUFT_PASS_PAIRS] = pass.n_pairs;
        size[CPUFT_PASS_TRAINING] = pass.training;
        size[CPUFT_PASS_DROPOUT] = pass.dropout;
    });
}

cpuft_status cpuft_memory(cpuft_engine* engine, int32_t rank, uint32_t targets, int32_t first_layer,
                          cpuft_moments moments, cpuft_activations policy, const int64_t* sizes, int64_t n_passes,
                          const char** json) {
    return guarded(engine, [&] {
        require(json != nullptr, "json must not be null");
        require_moments(moments);
        require_policy(policy);
        const AdapterShape shape{rank, targets, first_layer};
        const std::vector<int64_t> tensors = tensor_sizes(adapter_tensors(engine->model, shape));
        const auto floats =
            static_cast<int64_t>(sizeof(float)) * std::accumulate(tensors.begin(), tensors.end(), int64_t{0});
        const MemoryParts parts = pass_memory(engine->transformer, shape, policy, sizes, n_passes).bytes();
        std::string& memory = engine->memory;
        memory.clear();
        append_entry(memory, "base", engine->model.file.data_bytes());
        append_entry(memory, "adapter", floats);
        append_entry(memory, "gradients", floats);
        append_entry(memory, "optimizer", Moments::bytes_of(moments, tensors));
        for (size_t part = 0; part < parts.size(); ++part) append_entry(memory, kMemoryPartNames[part], parts[part]);
        memory += "}";
        *json = memory.c_str();
    });
}

cpuft_status cpuft_reserve(cpuft_engine* engine, const int64_t* sizes, int64_t n_passes) {
    return guarded(engine, [&] {
        Transformer& transformer = engine->transformer;
        const AdapterShape& shape = engine->trained_adapter().shape();
        transformer.reserve(pass_memory(transformer, shape, transformer.policy(), sizes, n_passes));
    });
}

cpuft_status cpuft_profile(cpuft_engine* engine, const char** json) {
    return guarded(engine, [&] {
        require(json != nullptr, "json must not be null");
        const Stopwatch::Nanoseconds taken = engine->compute.stopwatch.take();
        std::string& profile = engine->profile;
        profile.clear();
        for (size_t part = 0; part < taken.size(); ++part) append_entry(profile, kPartNames[part], taken[part]);
        profile += "}";
        *json = profile.c_str();
    });
}

cpuft_status cpuft_dequantize(int32_t type, const void* source, int64_t source_bytes, int64_t rows, int64_t cols,
                              float* target, int32_t n_threads) {
    return guarded([&] {
        require(source != nullptr && target != nullptr, "source and target must not be null");
        dequantize(type, source, source_bytes, rows, cols, target, thread_count(n_threads));
    });
}

cpuft_status cpuft_quantize(int32_t type, const float* source, int64_t rows, int64_t cols, const float* importance,
                            void* target, int64_t target_bytes, int32_t n_threads) {
    return guarded([&] {
        require(source != nullptr && target != nullptr, "source and target must not be null");
        quantize(type, source, rows, cols, importance, target, target_bytes, thread_count(n_threads));
    });
}
