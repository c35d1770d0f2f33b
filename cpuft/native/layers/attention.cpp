#include "attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <thread>
#include <tuple>
#include <utility>

namespace cpuft {

namespace {

// Tiles of scores. Forward, keys are packed anew for each block of queries, backward, queries for each block of keys: the
// longer side halves that work. Forward keys come in blocks of kAttentionBlock, which prefixes are cut to.
constexpr int64_t kForwardQueries = 128, kForwardKeys = kAttentionBlock;
constexpr int64_t kBackwardQueries = 64, kBackwardKeys = 128;
constexpr int64_t kLongest = 128;    // of the four
constexpr int64_t kTile = 128 * 64;  // scores
// A maximum of no scores yet: finite, so that exp(-infinity - kLowest) is 0 and no NaN.
constexpr float kLowest = -std::numeric_limits<float>::max();
static_assert(kBackwardKeys % kBackwardQueries == 0, "a block of keys begins where a block of queries does");

// ---- What sees what -------------------------------------------------------------------------------------------------

using View = AttentionWorkspace::View;
using Task = AttentionWorkspace::Task;

const std::vector<View>& list_views(const Sequences& sequences, AttentionWorkspace& workspace) {
    std::vector<View>& views = workspace.views;
    views.clear();
    for (size_t s = 0; s + 1 < sequences.start.size(); ++s) {
        const int64_t first = sequences.start[s], n = sequences.start[s + 1] - first;
        View view = {0, n, 0, first, 0};
        if (!sequences.prefix.empty() && sequences.prefix[s] >= 0) {
            View& prefix = views[static_cast<size_t>(sequences.prefix[s])];
            ++prefix.n_followers;
            view = {prefix.end, prefix.end + n, prefix.first, first, 0};
        }
        views.push_back(view);
    }
    return views;
}

// All blocks of `size` of all heads, in ascending order of their positions.
std::vector<Task>& list_tasks(const std::vector<View>& views, int64_t size, int64_t n_heads,
                              AttentionWorkspace& workspace) {
    std::vector<Task>& tasks = workspace.tasks;
    tasks.clear();
    for (size_t s = 0; s < views.size(); ++s) {
        for (int64_t position = views[s].n_prefix; position < views[s].end; position += size) {
            const int64_t n = std::min(size, views[s].end - position);
            for (int64_t head = 0; head < n_heads; ++head) tasks.push_back({s, position, n, head});
        }
    }
    std::sort(tasks.begin(), tasks.end(), [](const Task& a, const Task& b) {
        return std::tuple(a.position, a.segment, a.head) < std::tuple(b.position, b.segment, b.head);
    });
    return tasks;
}

// The first key that the query at a position sees.
int64_t first_key(const AttentionShape& shape, int64_t position) {
    return shape.window == 0 ? 0 : std::max<int64_t>(0, position - shape.window + 1);
}

struct Range {
    int64_t first, last;  // [first, last), empty where last <= first
};

// Of queries [query, query + n) those that see a key, and of keys [key, key + n) those that a query sees.
Range seeing(const AttentionShape& shape, int64_t key, int64_t query, int64_t n) {
    return {std::max<int64_t>(0, key - query), shape.window == 0 ? n : std::min(n, key + shape.window - query)};
}
Range seen(const AttentionShape& shape, int64_t query, int64_t key, int64_t n) {
    return {std::max<int64_t>(0, first_key(shape, query) - key), std::min(n, query + 1 - key)};
}

// Fills what of x[0, n) lies outside a range.
void hide(float* x, int64_t n, Range visible, float value) {
    std::fill(x, x + std::min(n, visible.first), value);
    std::fill(x + std::clamp<int64_t>(visible.last, 0, n), x + n, value);
}

// ---- Small products -------------------------------------------------------------------------------------------------

// A left operand, m x k, whose rows lie `stride` apart, or whose columns do.
void pack_left(const GemmKernel& kernel, const float* source, int64_t stride, bool transposed, int64_t m, int64_t k,
               char* packed) {
    const int64_t row_stride = transposed ? 1 : stride, column_stride = transposed ? stride : 1;
    for (int64_t i = 0; i < m; i += kernel.mr, packed += kernel.a_bytes(k)) {
        const int rows = static_cast<int>(std::min<int64_t>(kernel.mr, m - i));
        kernel.pack_a(source + i * row_stride, row_stride, column_stride, nullptr, rows, k, packed);
    }
}

// A right operand, k x n, whose rows lie `stride` apart, or whose columns do.
void pack_right(const GemmKernel& kernel, const float* source, int64_t stride, bool transposed, int64_t k, int64_t n,
                char* packed) {
    for (int64_t j = 0; j < n; j += kernel.nr, packed += kernel.b_bytes(k)) {
        const int columns = static_cast<int>(std::min<int64_t>(kernel.nr, n - j));
        if (transposed) {
            kernel.pack_b_transposed(source + j * stride, stride, k, columns, packed);
        } else {
            kernel.pack_b(source + j, stride, nullptr, 0, k, columns, packed);
        }
    }
}

// c (m x n, rows c_stride apart) (+)= left (m x k) right (k x n)
void multiply(const GemmKernel& kernel, const char* left, const char* right, int64_t m, int64_t n, int64_t k, float* c,
              int64_t c_stride, bool accumulate) {
    for (int64_t j = 0; j < n; j += kernel.nr, right += kernel.b_bytes(k)) {
        const int columns = static_cast<int>(std::min<int64_t>(kernel.nr, n - j));
        const char* panel = left;
        for (int64_t i = 0; i < m; i += kernel.mr, panel += kernel.a_bytes(k)) {
            const int rows = static_cast<int>(std::min<int64_t>(kernel.mr, m - i));
            kernel.tile(k, panel, right, c + i * c_stride + j, c_stride, rows, columns, accumulate);
        }
    }
}

int64_t left_bytes(const GemmKernel& kernel, int64_t D) {
    return ceil_div(kLongest, kernel.mr) * kernel.a_bytes(std::max(kLongest, D));
}
int64_t right_bytes(const GemmKernel& kernel, int64_t D) {
    return ceil_div(std::max(kLongest, D), kernel.nr) * kernel.b_bytes(std::max(kLongest, D));
}

// What a thread works with: packed operands, each with room for any, and the values of one tile.
struct TileWorkspace {
    TileWorkspace(const GemmKernel& kernel, Compute::Scratch& scratch, int64_t D) {
        char* packed = scratch.attention_panels.reserve(scratch_operand_bytes(kernel, D));
        for (char*& operand : left) operand = std::exchange(packed, packed + left_bytes(kernel, D));
        for (char*& operand : right) operand = std::exchange(packed, packed + right_bytes(kernel, D));
        float* values = scratch.attention.reserve(scratch_tile_floats());
        for (float** tile : {&p, &dp}) *tile = std::exchange(values, values + kTile);
        for (float** row : {&slope, &maxima, &before, &sums}) *row = std::exchange(values, values + kLongest);
    }

    char *left[3], *right[5];
    float *p, *dp;                  // [keys, queries] forward, [queries, keys] backward
    float* slope;                   // [keys] derivative of the soft cap
    float *maxima, *before, *sums;  // [queries]
};

// ---- Forward ----------------------------------------------------------------------------------------------------------

// Block of queries by block of keys, in one head. Scores are made transposed, [keys, queries]: that is how pack_left reads
// the probabilities fastest, and maxima and sums of all queries advance a key at a time, with nothing to add up across lanes.
void forward_block(const Task& task, const View& view, const AttentionShape& shape, const Compute& compute,
                   TileWorkspace& w, const float* q, const float* k, const float* v, float* o, float* lse) {
    const RowKernels& rows = compute.kernels.rows;
    const int64_t D = shape.D, q_stride = shape.H * D, kv_stride = shape.K * D;
    const int64_t query = view.token(task.position), kv_offset = task.head / (shape.H / shape.K) * D;
    float* out = o + query * q_stride + task.head * D;
    char *k_left = w.left[0], *p_left = w.left[1], *q_right = w.right[0], *v_right = w.right[1];
    std::fill_n(w.maxima, task.n, kLowest);  // of the scores so far
    std::fill_n(w.sums, task.n, 0.0f);       // of exp(score - maximum)
    pack_right(compute.exact_gemm, q + query * q_stride + task.head * D, q_stride, true, D, task.n, q_right);
    const float factor = shape.soft_cap > 0.0f ? 1.0f : shape.scale;
    const int64_t begin = first_key(shape, task.position) / kForwardKeys * kForwardKeys;
    for (int64_t key = begin; key < task.position + task.n; key += kForwardKeys) {
        const int64_t n_keys = std::min(kForwardKeys, view.end - key), offset = view.token(key) * kv_stride + kv_offset;
        pack_left(compute.exact_gemm, k + offset, kv_stride, false, n_keys, D, k_left);
        multiply(compute.exact_gemm, k_left, q_right, n_keys, task.n, D, w.p, kForwardQueries, false);
        std::copy_n(w.maxima, task.n, w.before);
        for (int64_t j = 0; j < n_keys; ++j) {
            float* s = w.p + j * kForwardQueries;
            if (shape.soft_cap > 0.0f) rows.soft_cap(shape.scale, shape.soft_cap, s, nullptr, task.n);
            hide(s, task.n, seeing(shape, key + j, task.position, task.n), -INFINITY);
            rows.larger_of(factor, s, w.maxima, task.n);
        }
        for (int64_t i = 0; i < task.n; ++i) {
            if (key == begin || w.maxima[i] == w.before[i]) continue;
            const float correction = std::exp(w.before[i] - w.maxima[i]);
            w.sums[i] *= correction;
            rows.scale(correction, out + i * q_stride, D);
        }
        for (int64_t j = 0; j < n_keys; ++j) rows.exp_add(factor, w.maxima, w.p + j * kForwardQueries, w.sums, task.n);
        pack_left(compute.exact_gemm, w.p, kForwardQueries, true, task.n, n_keys, p_left);
        pack_right(compute.exact_gemm, v + offset, kv_stride, false, n_keys, D, v_right);
        multiply(compute.exact_gemm, p_left, v_right, task.n, D, n_keys, out, q_stride, key > begin);
    }
    for (int64_t i = 0; i < task.n; ++i) {
        rows.scale(1.0f / w.sums[i], out + i * q_stride, D);
        lse[(query + i) * shape.H + task.head] = w.maxima[i] + std::log(w.sums[i]);
    }
}

// ---- Backward ---------------------------------------------------------------------------------------------------------

// Blocks of keys add to dq of a block of queries in ascending order, so that its bytes do not depend on who comes first.
// Each block of queries of each head has the position up to which keys have been added.
class Turns {
  public:
    Turns(const Sequences& sequences, const std::vector<View>& views, const AttentionShape& shape,
          std::vector<std::atomic<int64_t>>& memory)
        : H_(shape.H), added_(memory) {
        const auto size = static_cast<size_t>((sequences.T() / kBackwardQueries + sequences.count()) * shape.H);
        if (added_.size() < size) added_ = std::vector<std::atomic<int64_t>>(size);
        for (size_t s = 0; s < views.size(); ++s) {
            for (int64_t query = views[s].n_prefix; query < views[s].end; query += kBackwardQueries) {
                for (int64_t head = 0; head < H_; ++head)
                    added(views[s], s, query, head).store(first_key(shape, query), std::memory_order_relaxed);
            }
        }
    }
    // A block of queries begins at a multiple of its size behind the start of its segment.
    std::atomic<int64_t>& added(const View& view, size_t segment, int64_t query, int64_t head) {
        const int64_t block = view.token(query) / kBackwardQueries + static_cast<int64_t>(segment);
        return added_[static_cast<size_t>(block * H_ + head)];
    }

  private:
    int64_t H_;
    std::vector<std::atomic<int64_t>>& added_;
};

struct BackwardArrays {
    const float *q, *k, *v, *d_o, *lse, *delta;
    float *dq, *dk, *dv;
};

// p_ij = exp(s_ij - lse_i) in w.p and ds_ij in w.dp, from raw q_i . k_j and do_i . v_j there.
void score_gradients(const AttentionShape& shape, const RowKernels& rows, const float* lse, const float* delta,
                     int64_t query, int64_t n_queries, int64_t key, int64_t n_keys, TileWorkspace& w) {
    for (int64_t i = 0; i < n_queries; ++i) {
        float *p = w.p + i * kBackwardKeys, *dp = w.dp + i * kBackwardKeys;
        const bool capped = shape.soft_cap > 0.0f;
        if (capped) rows.soft_cap(shape.scale, shape.soft_cap, p, w.slope, n_keys);
        hide(p, n_keys, seen(shape, query + i, key, n_keys), -INFINITY);
        rows.exp_sum(p, capped ? 1.0f : shape.scale, lse[i * shape.H], n_keys);
        rows.softmax_backward(p, delta[i * shape.H], shape.scale, dp, n_keys);
        if (capped) rows.multiply(1.0f, dp, w.slope, dp, n_keys);
    }
}

// Everything that one block of keys contributes to: its dk and dv, over all queries that see it, and their dq.
void backward_block(const Task& task, const std::vector<View>& views, const AttentionShape& shape,
                    const Compute& compute, TileWorkspace& w, const BackwardArrays& x, Turns& turns) {
    const GemmKernel& gemm = compute.exact_gemm;
    const int64_t D = shape.D, q_stride = shape.H * D, kv_stride = shape.K * D, group = shape.H / shape.K;
    const int64_t key = task.position, n_keys = task.n;
    char *q_left = w.left[0], *do_left = w.left[1], *s_left = w.left[2];
    char *q_right = w.right[0], *do_right = w.right[1];
    char *k_transposed = w.right[2], *v_transposed = w.right[3], *k_right = w.right[4];
    const int64_t kv_offset = views[task.segment].token(key) * kv_stride + task.head * D;
    pack_right(gemm, x.k + kv_offset, kv_stride, true, D, n_keys, k_transposed);
    pack_right(gemm, x.v + kv_offset, kv_stride, true, D, n_keys, v_transposed);
    pack_right(gemm, x.k + kv_offset, kv_stride, false, n_keys, D, k_right);
    bool accumulate = false;
    const auto add = [&](size_t segment, int64_t query, int64_t n, int64_t head) {
        const int64_t token = views[segment].token(query), offset = token * q_stride + head * D;
        const int64_t of_row = token * shape.H + head;
        pack_left(gemm, x.q + offset, q_stride, false, n, D, q_left);
        pack_left(gemm, x.d_o + offset, q_stride, false, n, D, do_left);
        multiply(gemm, q_left, k_transposed, n, n_keys, D, w.p, kBackwardKeys, false);
        multiply(gemm, do_left, v_transposed, n, n_keys, D, w.dp, kBackwardKeys, false);
        score_gradients(shape, compute.kernels.rows, x.lse + of_row, x.delta + of_row, query, n, key, n_keys, w);

        pack_left(gemm, w.p, kBackwardKeys, true, n_keys, n, s_left);
        pack_right(gemm, x.d_o + offset, q_stride, false, n, D, do_right);
        multiply(gemm, s_left, do_right, n_keys, D, n, x.dv + kv_offset, kv_stride, accumulate);

        pack_left(gemm, w.dp, kBackwardKeys, true, n_keys, n, s_left);
        pack_right(gemm, x.q + offset, q_stride, false, n, D, q_right);
        multiply(gemm, s_left, q_right, n_keys, D, n, x.dk + kv_offset, kv_stride, accumulate);
        accumulate = true;

        pack_left(gemm, w.dp, kBackwardKeys, false, n, n_keys, s_left);
        std::atomic<int64_t>& added = turns.added(views[segment], segment, query, head);
        while (added.load(std::memory_order_acquire) < key) std::this_thread::yield();
        multiply(gemm, s_left, k_right, n, D, n_keys, x.dq + offset, q_stride, key > first_key(shape, query));
        added.store(key + n_keys, std::memory_order_release);
    };
    for (int64_t head = task.head * group; head < (task.head + 1) * group; ++head) {
        for (size_t s = task.segment; s <= task.segment + views[task.segment].n_followers; ++s) {
            const int64_t last =
                shape.window == 0 ? views[s].end : std::min(views[s].end, key + n_keys - 1 + shape.window);
            for (int64_t query = std::max(key, views[s].n_prefix); query < last; query += kBackwardQueries)
                add(s, query, std::min(kBackwardQueries, views[s].end - query), head);
        }
    }
}

}  // namespace

int64_t scratch_tile_floats() { return 2 * kTile + 4 * kLongest; }

int64_t scratch_operand_bytes(const GemmKernel& kernel, int64_t D) {
    return 3 * left_bytes(kernel, D) + 5 * right_bytes(kernel, D);
}

void attention_forward(Compute& compute, const AttentionShape& shape, const Sequences& sequences, const float* q,
                       const float* k, const float* v, AttentionWorkspace& workspace, float* o, float* lse) {
    const Stopwatch::Lap lap(compute.stopwatch, Part::kAttention);
    const std::vector<View>& views = list_views(sequences, workspace);
    std::vector<Task>& tasks = list_tasks(views, kForwardQueries, shape.H, workspace);
    // Later blocks see more keys, so they are handed out first: the pass does not end waiting for one long task.
    std::reverse(tasks.begin(), tasks.end());
    compute.pool.parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t index, int thread) {
        const Task& task = tasks[static_cast<size_t>(index)];
        TileWorkspace tiles(compute.exact_gemm, compute.scratch[static_cast<size_t>(thread)], shape.D);
        forward_block(task, views[task.segment], shape, compute, tiles, q, k, v, o, lse);
    });
}

// With delta_i = sum_d o_id do_id:  dp_ij = do_i . v_j,  ds_ij = p_ij (dp_ij - delta_i) scale (1 - tanh^2 where capped),
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
    // A task may wait for one that was handed out before it, so none may fail: memory is reserved first.
    for (Compute::Scratch& scratch : compute.scratch) TileWorkspace(compute.exact_gemm, scratch, D);
    const std::vector<View>& views = list_views(sequences, workspace);
    const std::vector<Task>& tasks = list_tasks(views, kBackwardKeys, shape.K, workspace);
    const BackwardArrays arrays = {q, k, v, d_o, lse, delta, dq, dk, dv};
    Turns turns(sequences, views, shape, workspace.keys_added);
    compute.pool.parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t index, int thread) {
        TileWorkspace tiles(compute.exact_gemm, compute.scratch[static_cast<size_t>(thread)], D);
        backward_block(tasks[static_cast<size_t>(index)], views, shape, compute, tiles, arrays, turns);
    });
}

}  // namespace cpuft
