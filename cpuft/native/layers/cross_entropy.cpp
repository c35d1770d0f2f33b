#include "cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace cpuft {

namespace {

// Logits that exist at a time: at most 32 Mi floats, 128 MiB; 220 tokens of Qwen2.5's vocabulary of 151 936. Each chunk
// dequantizes the whole head twice, so few chunks are better: with half the size a step of 512 tokens took 7 % longer (Zen 4).
constexpr int64_t kChunkValues = int64_t{1} << 25;

// One token's loss; turns its logits into the loss's gradient, softmax(logits) - onehot(target).
double cross_entropy(const RowKernels& rows, float* logits, int32_t target, int64_t V, bool with_gradient) {
    const float largest = rows.maximum(logits, V);
    const float of_target = logits[target];
    const float sum = rows.exp_sum(logits, 1.0f, largest, V);
    if (with_gradient) {
        rows.scale(1.0f / sum, logits, V);
        logits[target] -= 1.0f;
    }
    return std::log(static_cast<double>(sum)) + static_cast<double>(largest) - static_cast<double>(of_target);
}

}  // namespace

double head_cross_entropy(Compute& compute, const Matrix& head, const float* h, const int32_t* targets, int64_t n,
                          HeadWorkspace& workspace, float* dh) {
    const int64_t V = head.rows, C = head.cols;
    const int64_t most = std::max<int64_t>(1, kChunkValues / V);
    const int64_t n_chunks = (n + most - 1) / most, chunk = (n + n_chunks - 1) / n_chunks;
    std::vector<double> losses(static_cast<size_t>(n));
    for (int64_t t0 = 0; t0 < n; t0 += chunk) {
        const int64_t size = std::min(chunk, n - t0);
        float* logits = workspace.logits.reserve(chunk * V);
        workspace.packed_h.pack_rows(compute, compute.weight_gemm, h + t0 * C, size, C);
        multiply_transposed(compute, workspace.packed_h, head, nullptr, false, logits);
        compute.pool.parallel_for(size, [&](int64_t t, int) {
            losses[static_cast<size_t>(t0 + t)] =
                cross_entropy(compute.kernels.rows, logits + t * V, targets[t0 + t], V, dh != nullptr);
        });
        if (dh == nullptr) continue;
        workspace.packed_dlogits.pack_rows(compute, compute.weight_gemm, logits, size, V, head.row_scale);
        multiply(compute, workspace.packed_dlogits, head, false, dh + t0 * C);
    }
    double sum = 0.0;
    for (const double loss : losses) sum += loss;
    return sum;
}

}  // namespace cpuft
