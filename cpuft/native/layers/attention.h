// Causal grouped-query attention (Vaswani et al. 2017; Ainslie et al. 2023, arXiv:2305.13245), tiled so that no T x T
// matrix exists (Dao et al. 2022, arXiv:2205.14135). Sequences of a pass lie end to end and do not see each other, but some
// may have a common beginning.
//
//   s_ij = cap(scale q_i . k_j)  (i - window < j <= i),   p_ij = exp(s_ij - lse_i),   o_i = sum_j p_ij v_j
//
// cap(s) = soft_cap tanh(s / soft_cap) (Gemma 2, arXiv:2408.00118). Positions i and j count from the beginning of a sequence.
#pragma once

#include <atomic>
#include <vector>

#include "../compute.h"

namespace cpuft {

struct AttentionShape {
    int64_t H, K, D;  // query heads, key heads, head size
    float scale;      // of the scores before their cap: 1 / sqrt(D), as a rule
    int64_t window;   // keys that a query sees, its own the last of them; 0: all before it
    float soft_cap;   // bound of the scores; 0: none
};

// Keys are met in blocks of so many, counted from the beginning of the sequence.
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

// Kept from one call to the next, so that these allocate nothing.
struct AttentionWorkspace {
    // A segment behind its prefix, by positions: [0, n_prefix) are the prefix, [n_prefix, end) the segment.
    struct View {
        int64_t n_prefix, end;
        int64_t prefix_first, first;  // tokens
        size_t n_followers;           // segments behind this one whose prefix it is
        int64_t token(int64_t position) const {
            return position < n_prefix ? prefix_first + position : first + position - n_prefix;
        }
    };
    // A unit of work: positions [position, position + n) of one segment, queries or keys, for one head.
    struct Task {
        size_t segment;
        int64_t position, n;
        int64_t head;
    };

    std::vector<View> views;  // by segment
    std::vector<Task> tasks;
    std::vector<std::atomic<int64_t>> keys_added;  // by block of queries and head
    Buffer<float> delta;                           // [T, H]
};

// What attention takes of a thread's scratch memory: floats of tiles, and bytes of packed operands.
int64_t scratch_tile_floats();
int64_t scratch_operand_bytes(const GemmKernel& kernel, int64_t D);

// q: [T, H, D]; k, v: [T, K, D]; o: [T, H, D] out; lse: [T, H] out, the logarithm of each softmax's denominator.
void attention_forward(Compute& compute, const AttentionShape& shape, const Sequences& sequences, const float* q,
                       const float* k, const float* v, AttentionWorkspace& workspace, float* o, float* lse);

// d_o: [T, H, D]. Writes dq: [T, H, D], dk and dv: [T, K, D].
void attention_backward(Compute& compute, const AttentionShape& shape, const Sequences& sequences, const float* q,
                        const float* k, const float* v, const float* o, const float* lse, const float* d_o,
                        AttentionWorkspace& workspace, float* dq, float* dk, float* dv);

}  // namespace cpuft
