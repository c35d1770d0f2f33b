// The formulas of attention.h as plain loops in double: what tests and benchmarks compare the engine's attention with.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "layers/attention.h"

namespace reference {

using Doubles = std::vector<double>;

// The keys that token t of segment s sees, in ascending positions: its prefix, its segment up to itself, of these the last
// `window`.
inline std::vector<int64_t> visible_keys(const cpuft::AttentionShape& shape, const cpuft::Sequences& sequences,
                                         int64_t s, int64_t t) {
    std::vector<int64_t> keys;
    const auto add = [&](int64_t first, int64_t end) {
        for (int64_t j = first; j < end; ++j) keys.push_back(j);
    };
    const int64_t prefix = sequences.prefix.empty() ? -1 : sequences.prefix[static_cast<size_t>(s)];
    if (prefix >= 0)
        add(sequences.start[static_cast<size_t>(prefix)], sequences.start[static_cast<size_t>(prefix) + 1]);
    add(sequences.start[static_cast<size_t>(s)], t + 1);
    const auto n = static_cast<int64_t>(keys.size());
    if (shape.window > 0 && shape.window < n) keys.erase(keys.begin(), keys.end() - shape.window);
    return keys;
}

// Calls visit(t, h, kv_head, keys) for every token and query head.
template <class Visit>
void for_queries(const cpuft::AttentionShape& shape, const cpuft::Sequences& sequences, Visit visit) {
    for (int64_t s = 0; s < sequences.count(); ++s) {
        for (int64_t t = sequences.start[static_cast<size_t>(s)]; t < sequences.start[static_cast<size_t>(s) + 1];
             ++t) {
            const std::vector<int64_t> keys = visible_keys(shape, sequences, s, t);
            for (int64_t h = 0; h < shape.H; ++h) visit(t, h, h / (shape.H / shape.K), keys);
        }
    }
}

inline double dot(const double* x, const double* y, int64_t n) {
    double sum = 0.0;
    for (int64_t d = 0; d < n; ++d) sum += x[d] * y[d];
    return sum;
}

// scale q . k, capped.
inline double score(const cpuft::AttentionShape& shape, const double* q, const double* k) {
    const double s = static_cast<double>(shape.scale) * dot(q, k, shape.D), cap = static_cast<double>(shape.soft_cap);
    return cap > 0.0 ? cap * std::tanh(s / cap) : s;
}

// q: [T, H, D]; k, v: [T, K, D]; out: o [T, H, D], lse [T, H].
inline void attention_forward(const cpuft::AttentionShape& shape, const cpuft::Sequences& sequences, const Doubles& q,
                              const Doubles& k, const Doubles& v, Doubles& o, Doubles& lse) {
    const int64_t H = shape.H, K = shape.K, D = shape.D;
    o.assign(q.size(), 0.0);
    lse.assign(static_cast<size_t>(sequences.T() * H), 0.0);
    for_queries(shape, sequences, [&](int64_t t, int64_t h, int64_t kv_head, const std::vector<int64_t>& keys) {
        Doubles p;
        for (const int64_t j : keys) p.push_back(score(shape, &q[(t * H + h) * D], &k[(j * K + kv_head) * D]));
        const double largest = *std::max_element(p.begin(), p.end());
        double sum = 0.0;
        for (double& p_j : p) sum += p_j = std::exp(p_j - largest);
        lse[t * H + h] = largest + std::log(sum);
        for (size_t j = 0; j < keys.size(); ++j) {
            const double* v_j = &v[(keys[j] * K + kv_head) * D];
            for (int64_t d = 0; d < D; ++d) o[(t * H + h) * D + d] += p[j] / sum * v_j[d];
        }
    });
}

// d_o: [T, H, D]; out: dq [T, H, D], dk and dv [T, K, D].
inline void attention_backward(const cpuft::AttentionShape& shape, const cpuft::Sequences& sequences, const Doubles& q,
                               const Doubles& k, const Doubles& v, const Doubles& o, const Doubles& lse,
                               const Doubles& d_o, Doubles& dq, Doubles& dk, Doubles& dv) {
    const int64_t H = shape.H, K = shape.K, D = shape.D;
    dq.assign(q.size(), 0.0);
    dk.assign(k.size(), 0.0);
    dv.assign(v.size(), 0.0);
    for_queries(shape, sequences, [&](int64_t t, int64_t h, int64_t kv_head, const std::vector<int64_t>& keys) {
        const int64_t at_q = (t * H + h) * D;
        const double delta = dot(&o[at_q], &d_o[at_q], D), cap = static_cast<double>(shape.soft_cap);
        for (const int64_t j : keys) {
            const int64_t at_k = (j * K + kv_head) * D;
            const double s = score(shape, &q[at_q], &k[at_k]), p = std::exp(s - lse[t * H + h]);
            double ds = p * (dot(&d_o[at_q], &v[at_k], D) - delta) * static_cast<double>(shape.scale);
            if (cap > 0.0) ds *= 1.0 - s / cap * (s / cap);
            for (int64_t d = 0; d < D; ++d) {
                dq[at_q + d] += ds * k[at_k + d];
                dk[at_k + d] += ds * q[at_q + d];
                dv[at_k + d] += p * d_o[at_q + d];
            }
        }
    });
}

}  // namespace reference
