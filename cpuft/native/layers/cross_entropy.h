// The language-model head and its cross-entropy, in chunks of tokens: logits = W h, loss = logsumexp(logits) - logit of
// the target. Only positions whose next token is supervised come here, and no more than a chunk of logits ever exists.
#pragma once

#include "../gemm.h"

namespace cpuft {

struct HeadWorkspace {
    float* logits;           // [chunk, V], then their gradient in place
    int64_t chunk;           // tokens, as from head_chunk_size
    PackedRows& packed;      // h, then the gradient of the logits
    Buffer<double>& losses;  // [n]
};

// How many of n tokens are taken at a time: chunks of the same size but for the last. 0 for no tokens.
int64_t head_chunk_size(int64_t n, int64_t V);

// h: [n, C]; head: (V, C); targets: [n]. Returns the sum of the n losses in nats. Where dh: [n, C] is not null, it is
// filled with the gradient of that sum with respect to h; it may be the same array as h.
double head_cross_entropy(Compute& compute, const Matrix& head, const float* h, const int32_t* targets, int64_t n,
                          const HeadWorkspace& workspace, float* dh);

}  // namespace cpuft
