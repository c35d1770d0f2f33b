// The kernel tables: what one kind of CPU does in its inner loops. One table a kind, chosen once when a model is opened.
// reference.cpp holds the slow twin of every kernel; the tests run both over all remainders.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cpuft {

// Depth at which panels are cut into blocks. A multiple of 256, ggml's largest block of weights; 256 products of two bytes
// fit an int32 sum.
constexpr int64_t kBlockDepth = 256;

// Values of a row that share a scale where rows are kept as bytes. Few, so that one large value coarsens few others.
constexpr int64_t kByteBlock = 64;

// A row of weights straight to the bytes of an int8 product. n is a multiple of the format's block size.
struct Int8Reader {
    // The largest magnitude of values with these scales and the outermost codes that ggml's quantizers write, whether or not
    // the row has such a value. Not finite where a value is not.
    float (*bound)(const void* source, int64_t n);
    // out[i] = round(value[i] * inverse) within 0.51, where inverse is at most 127 / bound; 127 where a code that no quantizer
    // writes would give 128.
    void (*read)(const void* source, float inverse, int8_t* out, int64_t n);
};

// Blocks of B of one depth, one for each nr columns, `stride` bytes apart.
struct BlockRow {
    char* first;
    int64_t stride;

    char* at(int64_t i) const { return first + i * stride; }
};

// Blocks of B from rows of weights as stored, row_bytes apart, as pack_b and pack_b_transposed make them, but for scales:
// bound / 127, not the largest magnitude / 127.
struct DirectInt8 {
    const Int8Reader* (*reader)(int type);  // null for a ggml type that has none
    // B[p, j] = row p, column j, divided by row_scale[p], for k rows and n <= kBlockDepth columns, a multiple of 32.
    void (*fill_plain)(const Int8Reader& reader, const void* source, int64_t row_bytes, const float* row_scale,
                       int64_t k, int64_t n, const BlockRow& blocks);
    // B[p, j] = row j, column p, for n rows and k <= kBlockDepth columns, a multiple of 32.
    void (*fill_transposed)(const Int8Reader& reader, const void* source, int64_t row_bytes, int64_t k, int64_t n,
                            const BlockRow& blocks);
};

// A matrix product's micro-kernel and its packed formats, for one compute type: float32, bfloat16 pairs, or int8.
//
// A is packed in panels of `mr` rows, B in panels of `nr` columns, both cut into blocks of kBlockDepth along k:
//   a block of A:  [mr][a_header bytes]  [ceil(k / kr)][mr][kr]     rows past the end and values past k are zero
//   a block of B:  [nr][b_header bytes]  [ceil(k / kr)][nr][kr]     the same
//
// int8 (kr = 4): x ~ scale q, q = round(x / scale). A is signed, one scale for each row and block, and the block's largest
// value stands apart, in float32, with 0 in its place: a single one of many times the others' size, as real models'
// activations and probabilities have it, would leave these few steps. scale = max |x| / 127 of the rest. B is unsigned,
// q + 128. Headers: A has float scale[mr], int32 correction[mr] = -128 sum(q), which takes the 128 out of the sum again,
// float apart[mr] and int32 place[mr], the depth in the block of that value; B has float scale[nr], for each column and block
// where columns of B are rows of the weights, else 1.
struct GemmKernel {
    const char* name;
    int mr, nr;           // register tile: mr x nr accumulators
    int kr;               // values along k that one instruction multiplies and adds: 1 for f32, 2 for bf16, 4 for int8
    size_t element_size;  // bytes of one packed value
    int a_header, b_header;  // bytes a row of A, a column of B, in front of each block

    // One panel of A, m <= mr rows: A[i, p] = source[i * row_stride + p * column_stride] * depth_scale[p], where
    // depth_scale is null for 1 (and always null but for int8).
    void (*pack_a)(const float* source, int64_t row_stride, int64_t column_stride, const float* depth_scale, int m,
                   int64_t k, void* panel);
    // Depth [k0, k0 + k) of one block of B, n <= nr columns, from B[k0 + p, j] = source[p * stride + j] / row_scale[p]. k0
    // is a multiple of kr; row_scale: [k], read by int8 alone.
    void (*pack_b)(const float* source, int64_t stride, const float* row_scale, int64_t k0, int64_t k, int n,
                   void* block);
    // One block of B, k <= kBlockDepth, from its transpose: B[p, j] = source[j * stride + p].
    void (*pack_b_transposed)(const float* source, int64_t stride, int64_t k, int n, void* block);
    // C[i, j] (+)= sum over p of A[i, p] B[p, j] for i < m <= mr, j < n <= nr, over any depth; the blocks of A and of B
    // follow one another. C may hold anything where it is not added to.
    void (*tile)(int64_t k, const void* a, const void* b, float* c, int64_t c_stride, int m, int n, bool accumulate);
    const DirectInt8* direct;  // null where weights go through float32

    int64_t a_bytes(int64_t k) const { return panel_bytes(k, mr, a_header); }
    int64_t b_bytes(int64_t k) const { return panel_bytes(k, nr, b_header); }

  private:
    // Bytes of a panel of depth k; for k a multiple of kBlockDepth also where the block that follows begins.
    int64_t panel_bytes(int64_t k, int width, int header) const {
        const int64_t n_blocks = (k + kBlockDepth - 1) / kBlockDepth, n_steps = (k + kr - 1) / kr;
        return width * (n_blocks * header + n_steps * kr * static_cast<int64_t>(element_size));
    }
};

// Loops over one row of n values. Sums run in an order fixed by n alone.
struct RowKernels {
    float (*dot)(const float* x, const float* y, int64_t n);
    float (*maximum)(const float* x, int64_t n);
    // The largest magnitude; not finite where any x[i] is not.
    float (*largest_magnitude)(const float* x, int64_t n);
    // maxima[i] = max(maxima[i], factor * x[i])
    void (*larger_of)(float factor, const float* x, float* maxima, int64_t n);
    // x[i] = exp(factor * x[i] - shifts[i]), and the same added to sums[i].
    void (*exp_add)(float factor, const float* shifts, float* x, float* sums, int64_t n);
    // x[i] = exp(factor * x[i] - shift); returns the sum of the results.
    float (*exp_sum)(float* x, float factor, float shift, int64_t n);
    // x[i] = cap * tanh(factor * x[i] / cap); slope[i] = 1 - tanh^2 of the same, unless slope is null.
    void (*soft_cap)(float factor, float cap, float* x, float* slope, int64_t n);
    // dp[i] = factor * p[i] * (dp[i] - delta)
    void (*softmax_backward)(const float* p, float delta, float factor, float* dp, int64_t n);
    // y[i] += factor * x[i]
    void (*axpy)(float factor, const float* x, float* y, int64_t n);
    // x[i] *= factor
    void (*scale)(float factor, float* x, int64_t n);
    // y[i] = factor * x[i] * weight[i]
    void (*multiply)(float factor, const float* x, const float* weight, float* y, int64_t n);
    // out[i] = silu(gate[i]) * up[i], silu(z) = z / (1 + exp(-z))
    void (*silu_multiply)(const float* gate, const float* up, float* out, int64_t n);
    // dgate and dup from dout, and out again unless it is null; each may be the array that holds dout.
    void (*silu_multiply_backward)(const float* gate, const float* up, const float* dout, float* dgate, float* dup,
                                   float* out, int64_t n);
    // out[i] = gelu(gate[i]) * up[i], gelu(z) = z (1 + tanh(sqrt(2 / pi) (z + 0.044715 z^3))) / 2, and its gradients as above.
    void (*gelu_multiply)(const float* gate, const float* up, float* out, int64_t n);
    void (*gelu_multiply_backward)(const float* gate, const float* up, const float* dout, float* dgate, float* dup,
                                   float* out, int64_t n);
    // To bfloat16, rounded to nearest, ties to even (NaN stays NaN), and back.
    void (*narrow)(const float* x, uint16_t* out, int64_t n);
    void (*widen)(const uint16_t* x, float* out, int64_t n);
    // To bfloat16 and back at once, the same values; out may be x.
    void (*round_to_bf16)(const float* x, float* out, int64_t n);
    // The same with the upper 24 bits of each value, 16 of them in `high`.
    void (*narrow_24)(const float* x, uint16_t* high, uint8_t* low, int64_t n);
    void (*widen_24)(const uint16_t* high, const uint8_t* low, float* out, int64_t n);
    void (*round_to_24)(const float* x, float* out, int64_t n);
    // To bytes and back: x[i] ~ scales[i / kByteBlock] * out[i], rounded to nearest.
    void (*to_bytes)(const float* x, int8_t* out, float* scales, int64_t n);
    void (*from_bytes)(const int8_t* x, const float* scales, float* out, int64_t n);
    void (*round_to_bytes)(const float* x, float* out, int64_t n);  // as round_to_bf16
    // out[i] = x[i] * factor where the mask of (key, i) keeps the value, else 0. threshold: keep when a 32-bit hash is >= it.
    void (*dropout)(const float* x, uint64_t key, uint32_t threshold, float factor, float* out, int64_t n);
};

// Values [0, n) of a row of weights to float32; n is a multiple of the format's block size. The type of ggml's own readers.
using WeightReader = void (*)(const void* source, float* out, int64_t n);

struct KernelTable {
    const char* name;
    GemmKernel f32;
    const GemmKernel* bf16;  // null where the CPU has no native bfloat16 product
    const GemmKernel* int8;  // null where it has no dot product of bytes
    RowKernels rows;
    // The reader of a ggml type, or null where ggml's own serves.
    WeightReader (*weight_reader)(int type);
};

extern const KernelTable kReferenceKernels;
#if defined(__x86_64__)
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvxVnniKernels;
extern const KernelTable kAvx512Kernels;
extern const KernelTable kAvx512VnniKernels;
extern const KernelTable kAvx512Bf16Kernels;
#endif

// isa: a table's name, or null for the fastest that this CPU runs. Throws InputError for an unknown or unsupported name.
const KernelTable& select_kernels(const char* isa);

}  // namespace cpuft
