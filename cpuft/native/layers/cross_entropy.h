// The language-model head and its cross-entropy: logits = cap(W h), cap(x) = soft_cap tanh(x / soft_cap) or x, loss = logsumexp(logits) - logit of the target. Only
// positions whose next token is supervised come here. Logits never exist as a whole: each block of the vocabulary becomes
// exp(logit - the block's maximum) at once, packed for the product that makes the gradient; the softmax's sum, known in the
// end, is a factor for each token and block.
#pragma once

#include "../gemm.h"

namespace cpuft {

struct HeadWorkspace {
    char* probabilities_memory = nullptr;  // head_bytes of it, lent
    PackedRows h, probabilities;           // of a chunk of tokens
    Buffer<float> maxima, sums;            // [blocks of V, chunk] of logits, and of exp(logit - maximum)
    Buffer<float> target_logits;           // [chunk]
    Buffer<float> target_slopes;           // [chunk] cap' at these; where there is a cap
    Buffer<double> losses;                 // [n]
};

// The memory that packed probabilities of n tokens take, or of as many of them as are computed at a time.
int64_t head_bytes(const GemmKernel& kernel, int64_t V, int64_t n);
// How many of n tokens that is.
int64_t head_chunk(const GemmKernel& kernel, int64_t V, int64_t n);

// h: [n, C]; head: (V, C); soft_cap: 0 for none; targets: [n]. Returns the sum of the n losses in nats. Where dh: [n, C] is
// not null, it is filled with the gradient of that sum with respect to h; it may be the same array as h.
double head_cross_entropy(Compute& compute, const Matrix& head, float soft_cap, const float* h, const int32_t* targets,
                          int64_t n, HeadWorkspace& workspace, float* dh);

}  // namespace cpuft
