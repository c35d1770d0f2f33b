// The language-model head and its cross-entropy, in chunks of tokens: logits = W h, loss = logsumexp(logits) - logit of
// the target. Only positions whose next token is supervised come here, and no more than a chunk of logits ever exists.
#pragma once

#include "../gemm.h"

namespace cpuft {

struct HeadWorkspace {
    Buffer<float> logits;  // [chunk, V], then their gradient in place
    PackedRows packed_h, packed_dlogits;
};

// h: [n, C]; head: (V, C); targets: [n]. Returns the sum of the n losses in nats. Where dh: [n, C] is not null, it is
// filled with the gradient of that sum with respect to h.
double head_cross_entropy(Compute& compute, const Matrix& head, const float* h, const int32_t* targets, int64_t n,
                          HeadWorkspace& workspace, float* dh);

}  // namespace cpuft
