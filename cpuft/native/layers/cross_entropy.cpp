#include "cross_entropy.h"
#include "../ablation.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "../formats.h"

namespace cpuft {

namespace {

// Packed probabilities that exist at a time. Each chunk of tokens dequantizes the whole head twice, so few are better. For
// Qwen2.5's vocabulary of 151 936 a chunk has 441 tokens in bfloat16, twice as many in int8, half as many in float32.
constexpr int64_t kChunkBytes = int64_t{128} << 20;

// Logits of a chunk of n tokens in blocks of the vocabulary; leaves each block's maxima, sums and, where asked, packed
// probabilities relative to its maximum, times the slope of the cap. The target's probability is left out of those.
void visit_logits(Compute& compute, const Matrix& head, float soft_cap, const int32_t* targets, int64_t n,
                  bool with_gradient, HeadWorkspace& workspace) {
    const RowKernels& rows = compute.kernels.rows;
    compute.pool.parallel_for(ceil_div(head.rows, kBlockDepth), [&](int64_t block, int thread) {
        const auto [v0, size, logits] = multiply_transposed_columns(compute, workspace.h, head, block, thread);
        float* maxima = workspace.maxima.data() + block * n;
        float* sums = workspace.sums.data() + block * n;
        // The blocks of one thread stand for those of all.
        std::optional<Stopwatch::Lap> lap;
        if (thread == 0) lap.emplace(compute.stopwatch, Part::kCrossEntropy);
        for (int64_t t = 0; t < n; ++t) {
            float* logits_t = logits + t * kColumnStride;
            const bool has_target = targets[t] >= v0 && targets[t] < v0 + size;
            float slopes[kBlockDepth];
            if (soft_cap > 0.0f) rows.soft_cap(1.0f, soft_cap, logits_t, slopes, size);
            if (has_target) workspace.target_logits.data()[t] = logits_t[targets[t] - v0];
            maxima[t] = rows.maximum(logits_t, size);
            sums[t] = rows.exp_sum(logits_t, 1.0f, maxima[t], size);
            if (soft_cap > 0.0f) {
                rows.multiply(1.0f, logits_t, slopes, logits_t, size);
                if (has_target) workspace.target_slopes.data()[t] = slopes[targets[t] - v0];
            }
            if (has_target) logits_t[targets[t] - v0] = 0.0f;
        }
        if (!with_gradient) return;
        if (lap) lap->next(Part::kHeadProducts);
        const float* row_scale = head.row_scale == nullptr || knob("head") == 32 ? nullptr : head.row_scale + v0;
        if (knob("ap") > 0)
            for (int64_t t = 0; t < n; ++t) {
                float* row = logits + t * kColumnStride;
                for (int64_t j = 0; j < size; ++j) row[j] *= head.row_scale[v0 + j];
                fake_sparse(row, size, static_cast<int64_t>(knob("ap")), static_cast<int>(knob("op")));
                for (int64_t j = 0; j < size; ++j) row[j] /= head.row_scale[v0 + j];
            }
        workspace.probabilities.pack_block(logits, kColumnStride, v0, row_scale);
    });
}

// The loss of token t; turns its maxima into the factors that make softmax(logits) of the packed probabilities.
double normalize(int64_t t, int64_t n, int64_t n_blocks, HeadWorkspace& workspace) {
    float *maxima = workspace.maxima.data() + t, *sums = workspace.sums.data() + t;
    float largest = -INFINITY;
    for (int64_t block = 0; block < n_blocks; ++block) largest = std::max(largest, maxima[block * n]);
    double sum = 0.0;
    for (int64_t block = 0; block < n_blocks; ++block) {
        maxima[block * n] = std::exp(maxima[block * n] - largest);
        sum += static_cast<double>(maxima[block * n]) * static_cast<double>(sums[block * n]);
    }
    for (int64_t block = 0; block < n_blocks; ++block) maxima[block * n] /= static_cast<float>(sum);
    return std::log(sum) + static_cast<double>(largest) - static_cast<double>(workspace.target_logits.data()[t]);
}

}  // namespace

// Chunks are of the same size but for the last.
int64_t head_chunk(const GemmKernel& kernel, int64_t V, int64_t n) {
    if (n == 0) return 0;
    const int64_t most = std::max<int64_t>(1, kChunkBytes / (V * static_cast<int64_t>(kernel.element_size)));
    return ceil_div(n, ceil_div(n, most));
}

int64_t head_bytes(const GemmKernel& kernel, int64_t V, int64_t n) {
    return PackedRows::bytes(kernel, head_chunk(kernel, V, n), V);
}

// dh = W^T (p - onehot(target)) cap'(W h), p = softmax(logits). The target's part, p - 1 = exp(-loss) - 1 times its row of W, is added
// unrounded: for a token that is predicted well everything else cancels against it.
double head_cross_entropy(Compute& compute, const Matrix& head, float soft_cap, const float* h, const int32_t* targets,
                          int64_t n, HeadWorkspace& workspace, float* dh) {
    Stopwatch::Lap lap(compute.stopwatch, Part::kCrossEntropy);
    const GemmKernel& kernel = knob("head") == 32 ? compute.exact_gemm : compute.weight_gemm;
    const int64_t V = head.rows, C = head.cols, n_blocks = ceil_div(V, kBlockDepth);
    const int64_t chunk = head_chunk(kernel, V, n);
    double* losses = workspace.losses.reserve(n);
    for (int64_t t0 = 0; t0 < n; t0 += chunk) {
        const int64_t size = std::min(chunk, n - t0);
        lap.next(Part::kHeadProducts);
        const float* hs = h + t0 * C;
        if (knob("ah") > 0) {
            static Buffer<float> copy;
            float* y = copy.reserve(size * C);
            std::copy_n(hs, size * C, y);
            compute.for_rows(size, [&](int64_t t, int) { fake_sparse(y + t * C, C, static_cast<int64_t>(knob("ah")), static_cast<int>(knob("oh"))); });
            hs = y;
        }
        workspace.h.pack_rows(compute, kernel, hs, size, C);
        workspace.maxima.reserve(n_blocks * chunk);
        workspace.sums.reserve(n_blocks * chunk);
        workspace.target_logits.reserve(chunk);
        workspace.target_slopes.reserve(chunk);
        workspace.probabilities.borrow(workspace.probabilities_memory, kernel, size, V);
        visit_logits(compute, head, soft_cap, targets + t0, size, dh != nullptr, workspace);
        lap.next(Part::kCrossEntropy);
        compute.for_rows(size, [&](int64_t t, int) { losses[t0 + t] = normalize(t, size, n_blocks, workspace); });
        if (dh == nullptr) continue;
        workspace.probabilities.scale_blocks(compute, workspace.maxima.data());
        lap.next(Part::kHeadProducts);
        multiply(compute, {{workspace.probabilities, head}}, false, dh + t0 * C);
        lap.next(Part::kCrossEntropy);
        compute.for_rows(size, [&](int64_t t, int thread) {
            float* row = compute.scratch[static_cast<size_t>(thread)].values.reserve(C);
            dequantize_segment(head.type, head.row(targets[t0 + t]), 0, C, row);
            const float slope = soft_cap > 0.0f ? workspace.target_slopes.data()[t] : 1.0f;
            const double excess = std::expm1(-losses[t0 + t]) * static_cast<double>(slope);
            compute.kernels.rows.axpy(static_cast<float>(excess), row, dh + (t0 + t) * C, C);
        });
    }
    return std::accumulate(losses, losses + n, 0.0);
}

}  // namespace cpuft
