#include "attention.h"

#include <algorithm>
#include <cmath>
#include <tuple>

namespace cpuft {

namespace {

constexpr int64_t kBlock = kAttentionBlock;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// One block of queries or keys of one head: rows [first, first + n) of a [T, heads, D] array.
struct Block {
    const float* data;
    int64_t stride;  // floats from one token to the next
    int64_t n;
};

// The small products of attention on one thread.
class Tiles {
  public:
    Tiles(const GemmKernel& kernel, Compute::Scratch& scratch, int64_t D) : kernel_(kernel) {
        const int64_t longest = std::max(kBlock, D);
        const int64_t a_bytes = kernel.a_bytes(longest);
        a_ = scratch.attention_panels.reserve(a_bytes + ceil_div(longest, kernel.nr) * kernel.b_bytes(longest));
        b_ = a_ + a_bytes;
    }

    // c (m x n, rows c_stride apart) (+)= op(a) (m x k) * op(b) (k x n); op transposes where asked.
    void multiply(const float* a, int64_t a_stride, bool a_transposed, const float* b, int64_t b_stride,
                  bool b_transposed, int64_t m, int64_t n, int64_t k, float* c, int64_t c_stride, bool accumulate) {
        const int64_t mr = kernel_.mr, nr = kernel_.nr, slab = kernel_.b_bytes(k);
        for (int64_t j = 0; j < n; j += nr) {
            const int columns = static_cast<int>(std::min(nr, n - j));
            if (b_transposed) {
                kernel_.pack_b_transposed(b + j * b_stride, b_stride, k, columns, b_ + j / nr * slab);
            } else {
                kernel_.pack_b(b + j, b_stride, nullptr, 0, k, columns, b_ + j / nr * slab);
            }
        }
        for (int64_t i = 0; i < m; i += mr) {
            const int rows = static_cast<int>(std::min(mr, m - i));
            const int64_t row_stride = a_transposed ? 1 : a_stride, column_stride = a_transposed ? a_stride : 1;
            kernel_.pack_a(a + i * row_stride, row_stride, column_stride, nullptr, rows, k, a_);
            for (int64_t j = 0; j < n; j += nr) {
                kernel_.tile(k, a_, b_ + j / nr * slab, c + i * c_stride + j, c_stride, rows,
                             static_cast<int>(std::min(nr, n - j)), accumulate);
            }
        }
    }

  private:
    const GemmKernel& kernel_;
    char* a_;
    char* b_;
};

using Task = AttentionTask;

// The tasks of a segment know what lies before and after it.
Task segment_of(const Sequences& sequences, int64_t s) {
    const auto start = [&](int64_t segment) { return sequences.start[static_cast<size_t>(segment)]; };
    Task task{start(s), start(s + 1), {0, 0}, {0, 0}, 0, 0, 0};
    if (sequences.prefix.empty()) return task;
    const auto prefix = [&](int64_t segment) { return sequences.prefix[static_cast<size_t>(segment)]; };
    if (prefix(s) >= 0) task.before = {start(prefix(s)), start(prefix(s) + 1)};
    int64_t end = s + 1;
    while (end < sequences.count() && prefix(end) == s) ++end;
    task.after = {start(s + 1), start(end)};
    return task;
}

// Later blocks see more keys, so they are handed out first: the pass does not end waiting for one long task.
void list_tasks(const Sequences& sequences, int64_t n_heads, std::vector<Task>& tasks) {
    tasks.clear();
    for (int64_t s = 0; s < sequences.count(); ++s) {
        Task task = segment_of(sequences, s);
        for (task.head = 0; task.head < n_heads; ++task.head) {
            for (task.block = task.first; task.block < task.last; task.block += kBlock) {
                task.n = std::min(kBlock, task.last - task.block);
                tasks.push_back(task);
            }
        }
    }
    std::sort(tasks.begin(), tasks.end(), [](const Task& a, const Task& b) {
        return std::tuple(-a.keys_seen(), a.block, a.head) < std::tuple(-b.keys_seen(), b.block, b.head);
    });
}

// s[i, j] = scale q_i . k_j, -infinity where the key comes after the query.
void scores(Tiles& tiles, const Block& q, int64_t q_first, const Block& k, int64_t k_first, const AttentionShape& shape,
            const RowKernels& rows, float* s) {
    tiles.multiply(q.data, q.stride, false, k.data, k.stride, true, q.n, k.n, shape.D, s, kBlock, false);
    for (int64_t i = 0; i < q.n; ++i) {
        rows.scale(shape.scale, s + i * kBlock, k.n);
        for (int64_t j = std::max<int64_t>(0, q_first + i + 1 - k_first); j < k.n; ++j) s[i * kBlock + j] = -INFINITY;
    }
}

// p[i, j] = exp(s_ij - lse_i), zero where the key comes after the query.
void probabilities(Tiles& tiles, const Block& q, int64_t q_first, const Block& k, int64_t k_first, const float* lse,
                   int64_t lse_stride, const AttentionShape& shape, const RowKernels& rows, float* p) {
    scores(tiles, q, q_first, k, k_first, shape, rows, p);
    for (int64_t i = 0; i < q.n; ++i) rows.exp_sum(p + i * kBlock, lse[i * lse_stride], k.n);
}

// ds[i, j] = scale p_ij (dp_ij - delta_i), in place of dp.
void score_gradients(const float* p, const float* delta, int64_t delta_stride, float scale, int64_t n_queries,
                     int64_t n_keys, float* dp) {
    for (int64_t i = 0; i < n_queries; ++i) {
        const float delta_i = delta[i * delta_stride];
        for (int64_t j = 0; j < n_keys; ++j)
            dp[i * kBlock + j] = scale * p[i * kBlock + j] * (dp[i * kBlock + j] - delta_i);
    }
}

void forward_block(const Task& task, const AttentionShape& shape, const RowKernels& rows, Tiles& tiles, float* scratch,
                   const float* q, const float* k, const float* v, float* o, float* lse) {
    const int64_t D = shape.D, q_stride = shape.H * D, kv_stride = shape.K * D,
                  kv_head = task.head / (shape.H / shape.K);
    float* s = scratch;                   // [kBlock, kBlock]
    float* maxima = s + kBlock * kBlock;  // [kBlock] running maximum of each row
    float* sums = maxima + kBlock;        // [kBlock] running sum of exp(s - maximum)
    std::fill_n(maxima, kBlock, -INFINITY);
    std::fill_n(sums, kBlock, 0.0f);
    const Block queries = {q + task.block * q_stride + task.head * D, q_stride, task.n};
    float* out = o + task.block * q_stride + task.head * D;
    bool accumulate = false;
    task.for_keys([&](int64_t j, int64_t n_keys) {
        const Block keys = {k + j * kv_stride + kv_head * D, kv_stride, n_keys};
        scores(tiles, queries, task.block, keys, j, shape, rows, s);
        for (int64_t i = 0; i < task.n; ++i) {
            const float largest = std::max(maxima[i], rows.maximum(s + i * kBlock, keys.n));
            const float correction = std::exp(maxima[i] - largest);
            sums[i] = sums[i] * correction + rows.exp_sum(s + i * kBlock, largest, keys.n);
            if (accumulate) rows.scale(correction, out + i * q_stride, D);
            maxima[i] = largest;
        }
        tiles.multiply(s, kBlock, false, v + j * kv_stride + kv_head * D, kv_stride, false, task.n, D, keys.n, out,
                       q_stride, accumulate);
        accumulate = true;
    });
    for (int64_t i = 0; i < task.n; ++i) {
        rows.scale(1.0f / sums[i], out + i * q_stride, D);
        lse[(task.block + i) * shape.H + task.head] = maxima[i] + std::log(sums[i]);
    }
}

struct BackwardArrays {
    const float *q, *k, *v, *d_o, *lse, *delta;
};

// dk and dv of one block of keys: over all query heads that share it and all later queries.
void backward_keys(const Task& task, const AttentionShape& shape, const RowKernels& rows, Tiles& tiles, float* scratch,
                   const BackwardArrays& x, float* dk, float* dv) {
    const int64_t D = shape.D, q_stride = shape.H * D, kv_stride = shape.K * D, group = shape.H / shape.K;
    float *p = scratch, *dp = scratch + kBlock * kBlock;
    const int64_t kv_offset = task.block * kv_stride + task.head * D;
    const Block keys = {x.k + kv_offset, kv_stride, task.n};
    bool accumulate = false;
    for (int64_t head = task.head * group; head < (task.head + 1) * group; ++head) {
        task.for_queries([&](int64_t i, int64_t n_queries) {
            const int64_t q_offset = i * q_stride + head * D, row = i * shape.H + head;
            const Block queries = {x.q + q_offset, q_stride, n_queries};
            probabilities(tiles, queries, i, keys, task.block, x.lse + row, shape.H, shape, rows, p);
            tiles.multiply(p, kBlock, true, x.d_o + q_offset, q_stride, false, task.n, D, queries.n, dv + kv_offset,
                           kv_stride, accumulate);
            tiles.multiply(x.d_o + q_offset, q_stride, false, x.v + kv_offset, kv_stride, true, queries.n, task.n, D,
                           dp, kBlock, false);
            score_gradients(p, x.delta + row, shape.H, shape.scale, queries.n, task.n, dp);
            tiles.multiply(dp, kBlock, true, queries.data, q_stride, false, task.n, D, queries.n, dk + kv_offset,
                           kv_stride, accumulate);
            accumulate = true;
        });
    }
}

// dq of one block of queries: over all keys up to it. The scores are made once more rather than summed across threads.
void backward_queries(const Task& task, const AttentionShape& shape, const RowKernels& rows, Tiles& tiles,
                      float* scratch, const BackwardArrays& x, float* dq) {
    const int64_t D = shape.D, q_stride = shape.H * D, kv_stride = shape.K * D,
                  kv_head = task.head / (shape.H / shape.K);
    float *p = scratch, *dp = scratch + kBlock * kBlock;
    const int64_t q_offset = task.block * q_stride + task.head * D, row = task.block * shape.H + task.head;
    const Block queries = {x.q + q_offset, q_stride, task.n};
    bool accumulate = false;
    task.for_keys([&](int64_t j, int64_t n_keys) {
        const int64_t kv_offset = j * kv_stride + kv_head * D;
        const Block keys = {x.k + kv_offset, kv_stride, n_keys};
        probabilities(tiles, queries, task.block, keys, j, x.lse + row, shape.H, shape, rows, p);
        tiles.multiply(x.d_o + q_offset, q_stride, false, x.v + kv_offset, kv_stride, true, task.n, keys.n, D, dp,
                       kBlock, false);
        score_gradients(p, x.delta + row, shape.H, shape.scale, task.n, keys.n, dp);
        tiles.multiply(dp, kBlock, false, keys.data, kv_stride, false, task.n, D, keys.n, dq + q_offset, q_stride,
                       accumulate);
        accumulate = true;
    });
}

constexpr int64_t kScratchFloats = 2 * kBlock * kBlock + 2 * kBlock;

}  // namespace

void attention_forward(Compute& compute, const AttentionShape& shape, const Sequences& sequences, const float* q,
                       const float* k, const float* v, AttentionWorkspace& workspace, float* o, float* lse) {
    const Stopwatch::Lap lap(compute.stopwatch, Part::kAttention);
    std::vector<Task>& tasks = workspace.query_tasks;
    list_tasks(sequences, shape.H, tasks);
    compute.pool.parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t index, int thread) {
        Compute::Scratch& scratch = compute.scratch[static_cast<size_t>(thread)];
        Tiles tiles(compute.gemm, scratch, shape.D);
        forward_block(tasks[static_cast<size_t>(index)], shape, compute.kernels.rows, tiles,
                      scratch.attention.reserve(kScratchFloats), q, k, v, o, lse);
    });
}

// With delta_i = sum_d o_id do_id:  dp_ij = do_i . v_j,  ds_ij = p_ij (dp_ij - delta_i) scale,
// dv_j = sum_i p_ij do_i,  dk_j = sum_i ds_ij q_i,  dq_i = sum_j ds_ij k_j
void attention_backward(Compute& compute, const AttentionShape& shape, const Sequences& sequences, const float* q,
                        const float* k, const float* v, const float* o, const float* lse, const float* d_o,
                        AttentionWorkspace& workspace, float* dq, float* dk, float* dv) {
    const Stopwatch::Lap lap(compute.stopwatch, Part::kAttention);
    const int64_t D = shape.D;
    float* delta = workspace.delta.reserve(sequences.T() * shape.H);
    compute.for_rows(sequences.T(), [&](int64_t t, int) {
        for (int64_t h = 0; h < shape.H; ++h) {
            const int64_t offset = (t * shape.H + h) * D;
            delta[t * shape.H + h] = compute.kernels.rows.dot(o + offset, d_o + offset, D);
        }
    });
    const BackwardArrays arrays = {q, k, v, d_o, lse, delta};
    std::vector<Task>&query_tasks = workspace.query_tasks, &key_tasks = workspace.key_tasks;
    list_tasks(sequences, shape.H, query_tasks);
    list_tasks(sequences, shape.K, key_tasks);
    const int64_t n_key_tasks = static_cast<int64_t>(key_tasks.size());
    compute.pool.parallel_for(n_key_tasks + static_cast<int64_t>(query_tasks.size()), [&](int64_t index, int thread) {
        Compute::Scratch& scratch = compute.scratch[static_cast<size_t>(thread)];
        Tiles tiles(compute.gemm, scratch, D);
        float* tile = scratch.attention.reserve(kScratchFloats);
        if (index < n_key_tasks) {
            // The first blocks of keys are seen by the most queries: this list runs from its end.
            backward_keys(key_tasks[static_cast<size_t>(n_key_tasks - 1 - index)], shape, compute.kernels.rows, tiles,
                          tile, arrays, dk, dv);
        } else {
            backward_queries(query_tasks[static_cast<size_t>(index - n_key_tasks)], shape, compute.kernels.rows, tiles,
                             tile, arrays, dq);
        }
    });
}

}  // namespace cpuft
