// Causal grouped-query attention (Vaswani et al. 2017; Ainslie et al. 2023, arXiv:2305.13245), tiled so that no T x T
// matrix exists (Dao et al. 2022, arXiv:2205.14135). Sequences of a pass lie end to end and do not see each other, but some
// may have a common beginning.
//
//   s_ij = scale q_i . k_j  (j <= i),   p_ij = exp(s_ij - lse_i),   o_i = sum_j p_ij v_j
#pragma once

#include <algorithm>
#include <vector>

#include "../compute.h"

namespace cpuft {

struct AttentionShape {
    int64_t H, K, D;  // query heads, key heads, head size
    float scale;      // 1 / sqrt(D)
};

// Rows of queries and keys in a tile. 64 x 64 scores are 16 KiB, half of an L1 cache.
constexpr int64_t kAttentionBlock = 64;

// The sequences of a pass: segment s is tokens [start[s], start[s + 1]), seen by itself and, where prefix[t] = s, by the
// segments t whose beginning it is. These follow their prefix directly; a prefix has none of its own, and its length is a
// multiple of kAttentionBlock. prefix may be empty: no segment has one.
struct Sequences {
    std::vector<int64_t> start;   // [count + 1]
    std::vector<int64_t> prefix;  // [count], -1 for none
    int64_t count() const { return static_cast<int64_t>(start.size()) - 1; }
    int64_t T() const { return start.back(); }
};

struct TokenRange {
    int64_t first, last;  // tokens [first, last)
};

// A unit of work: one block of one segment for one head.
struct AttentionTask {
    int64_t first, last;  // the segment's tokens
    TokenRange before;    // its prefix, all of which it sees
    TokenRange after;     // the segments whose prefix it is, all of which see it
    int64_t head;
    int64_t block;  // the block's first token
    int64_t n;      // tokens in the block

    // Blocks of keys that this block of queries sees, and of queries that see this block of keys, in ascending order.
    template <class Visit>
    void for_keys(Visit visit) const {
        for_blocks(before, visit);
        for (int64_t j = first; j < block + n; j += kAttentionBlock) visit(j, std::min(kAttentionBlock, last - j));
    }
    template <class Visit>
    void for_queries(Visit visit) const {
        for_blocks({block, last}, visit);
        for_blocks(after, visit);
    }
    int64_t keys_seen() const { return before.last - before.first + block - first; }

  private:
    template <class Visit>
    static void for_blocks(TokenRange range, Visit visit) {
        for (int64_t i = range.first; i < range.last; i += kAttentionBlock)
            visit(i, std::min(kAttentionBlock, range.last - i));
    }
};

// Kept from one call to the next, so that these allocate nothing.
struct AttentionWorkspace {
    std::vector<AttentionTask> query_tasks, key_tasks;
    Buffer<float> delta;  // [T, H]
};

// q: [T, H, D]; k, v: [T, K, D]; o: [T, H, D] out; lse: [T, H] out, the logarithm of each softmax's denominator.
void attention_forward(Compute& compute, const AttentionShape& shape, const Sequences& sequences, const float* q,
                       const float* k, const float* v, AttentionWorkspace& workspace, float* o, float* lse);

// d_o: [T, H, D]. Writes dq: [T, H, D], dk and dv: [T, K, D].
void attention_backward(Compute& compute, const AttentionShape& shape, const Sequences& sequences, const float* q,
                        const float* k, const float* v, const float* o, const float* lse, const float* d_o,
                        AttentionWorkspace& workspace, float* dq, float* dk, float* dv);

}  // namespace cpuft
