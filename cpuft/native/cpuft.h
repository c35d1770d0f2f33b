/* cpuft.h: the C interface of the native training engine.
 *
 * What it does: opens a (quantized) GGUF model, attaches a LoRA adapter to it, and computes the loss and the adapter's
 * exact gradient for a micro-batch of token sequences. The base weights are memory-mapped and stay as they are.
 *
 * Intended use, in four steps:
 *   1. cpuft_open, then cpuft_adapter_init; fill cpuft_parameters to start from known values.
 *   2. For each micro-batch: cpuft_forward_backward. Losses come back as SUMS, with the number of tokens they cover.
 *   3. Once per optimizer step: cpuft_step. It divides the accumulated gradient by the accumulated number of supervised
 *      tokens once, so the result does not depend on how the examples were grouped into micro-batches.
 *   4. Read cpuft_parameters to save the adapter; cpuft_close.
 *
 * Conventions: every fallible function returns a cpuft_status and, on failure, leaves a sentence for cpuft_last_error
 * (per thread). Matrices are row-major. All pointers handed out stay the engine's property; each says how long it lives.
 * One engine may be used by one thread at a time. No exception and no abort crosses this interface.
 */
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CPUFT_ABI_VERSION 5
#define CPUFT_API __attribute__((visibility("default")))

typedef struct cpuft_engine cpuft_engine;

typedef enum cpuft_status {
    CPUFT_STATUS_OK = 0,
    CPUFT_STATUS_INPUT = 1,    /* the caller's data or file is at fault; the sentence says how to mend it */
    CPUFT_STATUS_MEMORY = 2,   /* an allocation failed */
    CPUFT_STATUS_INTERNAL = 3, /* our own fault */
} cpuft_status;

/* The linear layers that an adapter can attach to; an adapter's targets are a bitwise OR of (1 << value). A model has
 * either the fused tensors, whose matrices lie one above the other and share one A, or the single ones. */
typedef enum cpuft_target {
    CPUFT_TARGET_ATTN_Q = 0,
    CPUFT_TARGET_ATTN_K = 1,
    CPUFT_TARGET_ATTN_V = 2,
    CPUFT_TARGET_ATTN_OUTPUT = 3,
    CPUFT_TARGET_FFN_GATE = 4,
    CPUFT_TARGET_FFN_UP = 5,
    CPUFT_TARGET_FFN_DOWN = 6,
    CPUFT_TARGET_ATTN_QKV = 7,    /* tensor attn_qkv: q, k and v */
    CPUFT_TARGET_FFN_GATE_UP = 8, /* tensor ffn_up: gate and up */
    CPUFT_TARGET_COUNT = 9,
} cpuft_target;

/* What of a layer's activations survives from the forward to the backward pass. The gradient does not depend on it. */
typedef enum cpuft_activations {
    CPUFT_ACTIVATIONS_KEEP = 0,      /* everything the backward pass reads: fastest */
    CPUFT_ACTIVATIONS_RECOMPUTE = 1, /* each layer's input only; the layer runs forward again: least memory */
} cpuft_activations;

/* How AdamW's first and second moments are kept from one step to the next. A step computes in float32 in either. */
typedef enum cpuft_moments {
    CPUFT_MOMENTS_F32 = 0,  /* 8 bytes a parameter */
    CPUFT_MOMENTS_8BIT = 1, /* block-wise dynamic quantization (Dettmers et al. 2022, arXiv:2110.02861): 2.03 bytes */
} cpuft_moments;

/* What decides how much memory and time a pass takes: the entries of its size. */
typedef enum cpuft_pass_size_entry {
    CPUFT_PASS_TOKENS = 0,   /* that it computes: see cpuft_pass_tokens */
    CPUFT_PASS_TARGETS = 1,  /* of these, how many predict a supervised one */
    CPUFT_PASS_PAIRS = 2,    /* pairs of a query and a key that it sees, in one head */
    CPUFT_PASS_TRAINING = 3, /* 1 with a backward pass, 0 without */
    CPUFT_PASS_DROPOUT = 4,  /* 1 with dropout, 0 without */
    CPUFT_PASS_SIZE = 5,     /* how many entries there are */
} cpuft_pass_size_entry;

/* ---- Version and errors -------------------------------------------------------------------------------------- */

CPUFT_API uint32_t cpuft_abi_version(void);

/* The last failure on this thread as one English sentence, without a final newline. Valid until the next call. */
CPUFT_API const char* cpuft_last_error(void);

/* ---- Model --------------------------------------------------------------------------------------------------- */

/* path:      a GGUF file of a known architecture.
 * n_threads: worker threads, >= 1; 0 takes every CPU this process may run on.
 * isa:       "reference", "avx2", "avxvnni", "avx512", "avx512vnni", "avx512bf16" or NULL for the fastest this CPU has.
 *            Environment variable CPUFT_ISA, where set, stands in for NULL.
 * precision: how far values are rounded. "f32": not at all. "bf16": to bfloat16, in matrix products where the CPU
 *            multiplies it fast, and in the activations that are kept for the backward pass. "int8": also to int8, with a
 *            scale for every 256 values, in products with base weights; the adapter's own products and gradients stay as
 *            with bf16. NULL: int8 where the CPU multiplies bytes fast and the model's linear layers are quantized, else
 *            bf16. Sums, norms, softmax and the optimizer are float32, sums of losses float64.
 * engine:    out; owned by the caller until cpuft_close.
 * The file is mapped. Each pass below refuses one that was cut or written to since, also where that happens while it runs:
 * what it was to give then means nothing, and the gradient is forgotten. A new file in its place does no harm. While this
 * call or a pass runs, SIGBUS has a handler here, which hands on what comes from elsewhere.
 * A forked child may use and close the engine, with the calling thread alone. */
CPUFT_API cpuft_status cpuft_open(const char* path, int32_t n_threads, const char* isa, const char* precision,
                                  cpuft_engine** engine);
CPUFT_API void cpuft_close(cpuft_engine* engine);

/* A JSON object: architecture, n_layer, n_embd, n_ff, n_head, n_head_kv, head_size, n_vocab, n_ctx_train, n_params,
 * tied_head, post_norms (of attention and MLP), targets (those that the model has, by name), weight_bytes,
 * prefix_block, isa, precision, kernel, n_threads. Lives as long as the engine. */
CPUFT_API const char* cpuft_describe(const cpuft_engine* engine);

/* ---- Tokenizer (the model's own, run by llama.cpp) -------------------------------------------------------------- */

/* text:     UTF-8, n_bytes long. add_special: add the BOS/EOS tokens that the model's metadata asks for.
 * parse_special: read control tokens such as <|im_start|> in the text as tokens, not as characters.
 * tokens:   out, capacity entries; n_tokens: out, how many there are. Where capacity is too small nothing is written,
 *           the status is OK and n_tokens > capacity tells the size that is needed. */
CPUFT_API cpuft_status cpuft_tokenize(cpuft_engine* engine, const char* text, int64_t n_bytes, int32_t add_special,
                                      int32_t parse_special, int32_t* tokens, int64_t capacity, int64_t* n_tokens);
/* The inverse; control tokens are rendered as text where render_special is set. Same rule for a small capacity. */
CPUFT_API cpuft_status cpuft_detokenize(cpuft_engine* engine, const int32_t* tokens, int64_t n_tokens,
                                        int32_t render_special, char* text, int64_t capacity, int64_t* n_bytes);

/* ---- Adapter --------------------------------------------------------------------------------------------------- */

/* Attaches a fresh adapter: y = W x + (alpha / rank) B A dropout(x). A is drawn from U(-1/sqrt(n_in), 1/sqrt(n_in)) with
 * `seed`, B is zero (Hu et al. 2021, arXiv:2106.09685; the initialization of PEFT). Replaces an earlier adapter, its
 * gradients and its optimizer state.
 * targets: OR of (1 << cpuft_target), each of which the model must have. layers: the adapter sits on layers first_layer <= l < n_layer.
 * moments: the precision of its optimizer state. */
CPUFT_API cpuft_status cpuft_adapter_init(cpuft_engine* engine, int32_t rank, float alpha, float dropout,
                                          uint32_t targets, int32_t first_layer, uint64_t seed, cpuft_moments moments);

/* How many tensors the adapter has: two for each adapted linear layer. */
CPUFT_API int64_t cpuft_adapter_count(const cpuft_engine* engine);
/* Tensor i: its name in llama.cpp's adapter files ("blk.0.attn_q.weight.lora_a"), its shape (rows x cols; A is
 * rank x n_in, B is n_out x rank) and where it starts in the flat views below, in floats. */
CPUFT_API cpuft_status cpuft_adapter_tensor(const cpuft_engine* engine, int64_t i, const char** name, int64_t* rows,
                                            int64_t* cols, int64_t* offset);

/* Flat float32 views of n values, writable, laid out by cpuft_adapter_tensor. Valid until the next cpuft_adapter_init
 * or cpuft_close. Gradients are those of the loss SUM over all tokens since the last cpuft_step. */
CPUFT_API cpuft_status cpuft_parameters(cpuft_engine* engine, float** values, int64_t* n);
CPUFT_API cpuft_status cpuft_gradients(cpuft_engine* engine, float** values, int64_t* n);

/* The optimizer state as bytes, for checkpoints, in the machine's byte order; n values, laid out as in the views above.
 *   CPUFT_MOMENTS_F32:  float first[n], second[n]
 *   CPUFT_MOMENTS_8BIT: float first_scales[b], second_scales[b]; uint8 first_codes[n], second_codes[n]
 * where a tensor has one scale for each 256 of its values, and b is the number of scales of all tensors. The bytes can be
 * read until the next cpuft_adapter_init or cpuft_close and change with every cpuft_step. */
CPUFT_API cpuft_status cpuft_optimizer_state(cpuft_engine* engine, const uint8_t** bytes, int64_t* n_bytes);
/* Copies a state of an adapter of the same tensors and precision of moments; another size, and values that no step
 * leaves, are refused and nothing changes. */
CPUFT_API cpuft_status cpuft_set_optimizer_state(cpuft_engine* engine, const uint8_t* bytes, int64_t n_bytes);

/* ---- Training --------------------------------------------------------------------------------------------------- */

/* Sets the activation policy for the following passes (KEEP at first). */
CPUFT_API cpuft_status cpuft_set_activations(cpuft_engine* engine, cpuft_activations policy);

/* One micro-batch: n_sequences token sequences laid end to end, without padding. Attention does not cross from one
 * sequence to another and positions restart at 0.
 * tokens:       [sum(lengths)]
 * supervised:   [sum(lengths)] 1 where the token is a target, that is, where the loss -log p(token | tokens before it
 *               in its sequence) counts. A sequence's first token has nothing before it and never counts.
 * lengths:      [n_sequences], each >= 1
 * dropout_keys: [n_sequences] or NULL for no dropout: a number that selects a sequence's dropout masks, so that they do
 *               not depend on how sequences are grouped into micro-batches.
 * frozen:       [sum(lengths), n_embd] as cpuft_forward_frozen gives it, so that the layers below the adapter do not
 *               run; or NULL to compute it. Results are the same, byte for byte.
 * loss_sum:     out, sum of the losses of all supervised tokens, in nats
 * n_supervised: out, how many there were
 * Adds the gradient of loss_sum to the gradients. */
CPUFT_API cpuft_status cpuft_forward_backward(cpuft_engine* engine, const int32_t* tokens, const uint8_t* supervised,
                                              const int64_t* lengths, int64_t n_sequences, const uint64_t* dropout_keys,
                                              const float* frozen, double* loss_sum, int64_t* n_supervised);

/* The loss alone, without dropout and without gradients. */
CPUFT_API cpuft_status cpuft_forward(cpuft_engine* engine, const int32_t* tokens, const uint8_t* supervised,
                                     const int64_t* lengths, int64_t n_sequences, const float* frozen, double* loss_sum,
                                     int64_t* n_supervised);

/* How many tokens the last pass computed: fewer than it was given where no supervised token needs them or sequences share
 * a beginning (native/layout.h); 0 before any pass. */
CPUFT_API int64_t cpuft_pass_tokens(const cpuft_engine* engine);

/* frozen: out, [sum(lengths), n_embd]: the residual stream before the adapter's first layer. Training does not change it,
 * and a sequence's rows do not depend, in a single bit, on the sequences beside it or on the number of threads. */
CPUFT_API cpuft_status cpuft_forward_frozen(cpuft_engine* engine, const int32_t* tokens, const int64_t* lengths,
                                            int64_t n_sequences, float* frozen);

/* hidden: out, [sum(lengths), n_embd]: the residual stream behind the last layer, normed: what the head multiplies. */
CPUFT_API cpuft_status cpuft_forward_hidden(cpuft_engine* engine, const int32_t* tokens, const int64_t* lengths,
                                            int64_t n_sequences, float* hidden);

/* The head on rows of cpuft_forward_hidden, as many at a time as the caller has room for: their grouping changes no bit.
 * hidden: [n, n_embd]; logits: out, [n, n_vocab]. */
CPUFT_API cpuft_status cpuft_logits(cpuft_engine* engine, const float* hidden, int64_t n, float* logits);

/* One AdamW step (Loshchilov & Hutter 2019, arXiv:1711.05101, with decoupled decay) on
 * gradient / (supervised tokens accumulated), clipped to max_grad_norm in L2 (0: not clipped); then zeroes gradients and
 * token count. step: 1 for the first step; it drives the bias correction. grad_norm: out, before clipping.
 * A gradient that is not finite is refused and nothing changes. */
CPUFT_API cpuft_status cpuft_step(cpuft_engine* engine, int64_t step, float learning_rate, float beta1, float beta2,
                                  float epsilon, float weight_decay, float max_grad_norm, double* grad_norm);

/* Forgets the accumulated gradient and token count. */
CPUFT_API cpuft_status cpuft_zero_gradients(cpuft_engine* engine);

/* ---- Memory ----------------------------------------------------------------------------------------------------- */

/* How large a pass over a micro-batch would be, without running it; arguments as for cpuft_forward_backward.
 * supervised: NULL for cpuft_forward_frozen, which computes every token.
 * training, dropout: 1 or 0. size: out, [CPUFT_PASS_SIZE]. */
CPUFT_API cpuft_status cpuft_pass_size(cpuft_engine* engine, const int32_t* tokens, const uint8_t* supervised,
                                       const int64_t* lengths, int64_t n_sequences, int32_t training, int32_t dropout,
                                       int64_t* size);
/* What passes of these sizes and an adapter take, without taking it; the engine needs no adapter.
 * rank, targets, first_layer, moments: as for cpuft_adapter_init. sizes: [n_passes, CPUFT_PASS_SIZE].
 * json: out, an object of bytes: base (the weights in the mapped file), adapter, gradients, optimizer, activations
 *       (from the forward to the backward pass), workspace (of one layer at a time, and of the head), threads (scratch
 *       memory). The sum is what lies in memory while the largest pass runs. Lives until the next call. */
CPUFT_API cpuft_status cpuft_memory(cpuft_engine* engine, int32_t rank, uint32_t targets, int32_t first_layer,
                                    cpuft_moments moments, cpuft_activations policy, const int64_t* sizes,
                                    int64_t n_passes, const char** json);
/* Reserves what passes of these sizes take, with the engine's adapter and policy. Without this call memory grows with the
 * passes, and may be scattered where larger ones come late. */
CPUFT_API cpuft_status cpuft_reserve(cpuft_engine* engine, const int64_t* sizes, int64_t n_passes);

/* ---- Profile ---------------------------------------------------------------------------------------------------- */

/* Where the calls of the section above spent their time since the last cpuft_profile (or cpuft_open).
 * json: out, an object of nanoseconds by part: base_products (with the packing of their rows, and the adapter's part of the
 *       same sums), adapter_products, adapter_elementwise, head_products, cross_entropy, attention, rmsnorm, rope,
 *       gated_mlp, storage, optimizer, other. Wall time of the calling thread, each moment counted once, so that all parts together
 *       make the time of the calls. Lives until the next call. */
CPUFT_API cpuft_status cpuft_profile(cpuft_engine* engine, const char** json);

/* ---- Weight formats (for merge and quantize) ---------------------------------------------------------------------- */

/* type: a ggml_type by number. rows x cols values; cols must be a multiple of the type's block size.
 * source_bytes / target_bytes: the size of the buffer, checked against the shape. importance: NULL or [cols].
 * n_threads as in cpuft_open. */
CPUFT_API cpuft_status cpuft_dequantize(int32_t type, const void* source, int64_t source_bytes, int64_t rows,
                                        int64_t cols, float* target, int32_t n_threads);
CPUFT_API cpuft_status cpuft_quantize(int32_t type, const float* source, int64_t rows, int64_t cols,
                                      const float* importance, void* target, int64_t target_bytes, int32_t n_threads);

#ifdef __cplusplus
}
#endif
