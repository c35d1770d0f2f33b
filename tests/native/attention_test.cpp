// Attention against the formula in double, and its backward pass against finite differences of that formula.
#include "layers/attention.h"

#include <algorithm>
#include <cstring>

#include "check.h"

using cpuft::AttentionShape;
using cpuft::Compute;
using cpuft::Sequences;
using test::Doubles;
using test::Random;

namespace {

// o_i = sum_j softmax_j(scale q_i . k_j) v_j over j <= i of the same sequence; lse as in attention.h.
void naive_forward(const AttentionShape& shape, const Sequences& sequences, const Doubles& q, const Doubles& k,
                   const Doubles& v, Doubles& o, Doubles* lse) {
    const auto [H, K, D, scale] = shape;
    for (int64_t s = 0; s < sequences.count(); ++s) {
        const int64_t first = sequences.start[static_cast<size_t>(s)],
                      end = sequences.start[static_cast<size_t>(s) + 1];
        for (int64_t i = first; i < end; ++i) {
            for (int64_t h = 0; h < H; ++h) {
                const double* q_ih = &q[static_cast<size_t>((i * H + h) * D)];
                const int64_t kv_head = h / (H / K);
                Doubles scores;
                for (int64_t j = first; j <= i; ++j) {
                    const double* k_j = &k[static_cast<size_t>((j * K + kv_head) * D)];
                    double score = 0.0;
                    for (int64_t d = 0; d < D; ++d) score += q_ih[d] * k_j[d];
                    scores.push_back(score * static_cast<double>(scale));
                }
                const double largest = *std::max_element(scores.begin(), scores.end());
                double sum = 0.0;
                for (double& score : scores) sum += score = std::exp(score - largest);
                if (lse != nullptr) (*lse)[static_cast<size_t>(i * H + h)] = largest + std::log(sum);
                for (int64_t d = 0; d < D; ++d) {
                    double value = 0.0;
                    for (int64_t j = first; j <= i; ++j) {
                        value +=
                            scores[static_cast<size_t>(j - first)] * v[static_cast<size_t>((j * K + kv_head) * D + d)];
                    }
                    o[static_cast<size_t>((i * H + h) * D + d)] = value / sum;
                }
            }
        }
    }
}

AttentionShape shape_of(int64_t H, int64_t K, int64_t D) { return {H, K, D, 1.0f / std::sqrt(static_cast<float>(D))}; }

struct Case {
    AttentionShape shape;
    std::vector<int64_t> lengths;
};

Sequences sequences_of(const std::vector<int64_t>& lengths) {
    Sequences sequences{{0}, {}};
    for (const int64_t length : lengths) sequences.start.push_back(sequences.start.back() + length);
    return sequences;
}

// Inputs, and what the engine makes of them.
struct Pass {
    Pass(const Case& c, uint32_t seed) : shape(c.shape), sequences(sequences_of(c.lengths)) {
        Random random(seed);
        const int64_t T = sequences.T(), of_q = T * shape.H * shape.D, of_k = T * shape.K * shape.D;
        q = random.floats(of_q, 2.0f);
        k = random.floats(of_k);
        v = random.floats(of_k);
        d_o = random.floats(of_q);
        o.assign(q.size(), NAN);  // every output must be written
        lse.assign(static_cast<size_t>(T * shape.H), NAN);
        dq = o;
        dk.assign(k.size(), NAN);
        dv = dk;
    }
    void run(Compute& compute) {
        cpuft::attention_forward(compute, shape, sequences, q.data(), k.data(), v.data(), workspace, o.data(),
                                 lse.data());
        cpuft::attention_backward(compute, shape, sequences, q.data(), k.data(), v.data(), o.data(), lse.data(),
                                  d_o.data(), workspace, dq.data(), dk.data(), dv.data());
    }
    AttentionShape shape;
    Sequences sequences;
    cpuft::AttentionWorkspace workspace;
    std::vector<float> q, k, v, d_o, o, lse, dq, dk, dv;
};

const Case kSmall[] = {
    {shape_of(1, 1, 2), {1}},        {shape_of(2, 2, 4), {5, 1, 3}}, {shape_of(6, 2, 10), {7, 12}},
    {shape_of(4, 1, 16), {9, 2, 8}}, {shape_of(3, 3, 22), {17}},
};

TEST(attention_backward_is_the_derivative) {
    for (const cpuft::KernelTable* table : test::tables()) {
        Compute compute(2, *table, cpuft::Precision::kF32);
        for (const Case& c : kSmall) {
            Pass pass(c, 21);
            pass.run(compute);
            Doubles q = test::widen(pass.q), k = test::widen(pass.k), v = test::widen(pass.v), o(q.size());
            const auto loss = [&] {
                naive_forward(pass.shape, pass.sequences, q, k, v, o, nullptr);
                return test::weighted_sum(pass.d_o, o);
            };
            loss();
            CHECK(test::distance(pass.o.data(), o) < 1e-6, "%s o, D = %lld", table->name, (long long)pass.shape.D);
            // The gradient of a token that sees only itself is zero; such a case has no direction to compare.
            const bool has_scores = *std::max_element(c.lengths.begin(), c.lengths.end()) > 1;
            if (has_scores) {
                const double dq = test::distance(pass.dq.data(), test::differentiate(q, loss));
                CHECK(dq < 5e-6, "%s dq is off by %g, D = %lld", table->name, dq, (long long)pass.shape.D);
                const double dk = test::distance(pass.dk.data(), test::differentiate(k, loss));
                CHECK(dk < 5e-6, "%s dk is off by %g, D = %lld", table->name, dk, (long long)pass.shape.D);
            }
            const double dv = test::distance(pass.dv.data(), test::differentiate(v, loss));
            CHECK(dv < 5e-6, "%s dv is off by %g, D = %lld", table->name, dv, (long long)pass.shape.D);
        }
    }
}

// dv_j = sum_i p_ij do_i, ds_ij = p_ij (do_i . v_j - do_i . o_i) scale, in double: finite differences of long sequences
// would take minutes. The test above ties these formulas' implementation to the derivative.
void naive_backward(const Pass& pass, const Doubles& o, const Doubles& lse, Doubles& dq, Doubles& dk, Doubles& dv) {
    const auto [H, K, D, scale] = pass.shape;
    const auto row = [D = D](const auto& x, int64_t t, int64_t heads, int64_t h) {
        return x.data() + (t * heads + h) * D;
    };
    for (int64_t s = 0; s < pass.sequences.count(); ++s) {
        const int64_t first = pass.sequences.start[static_cast<size_t>(s)];
        for (int64_t i = first; i < pass.sequences.start[static_cast<size_t>(s) + 1]; ++i) {
            for (int64_t h = 0; h < H; ++h) {
                const int64_t g = h / (H / K);
                const float *q_i = row(pass.q, i, H, h), *do_i = row(pass.d_o, i, H, h);
                double delta = 0.0;
                for (int64_t d = 0; d < D; ++d) delta += static_cast<double>(do_i[d]) * row(o, i, H, h)[d];
                for (int64_t j = first; j <= i; ++j) {
                    const float *k_j = row(pass.k, j, K, g), *v_j = row(pass.v, j, K, g);
                    double score = 0.0, dp = 0.0;
                    for (int64_t d = 0; d < D; ++d) {
                        score += static_cast<double>(q_i[d]) * static_cast<double>(k_j[d]);
                        dp += static_cast<double>(do_i[d]) * static_cast<double>(v_j[d]);
                    }
                    const double p = std::exp(score * static_cast<double>(scale) - lse[static_cast<size_t>(i * H + h)]);
                    const double ds = p * (dp - delta) * static_cast<double>(scale);
                    for (int64_t d = 0; d < D; ++d) {
                        dq[static_cast<size_t>((i * H + h) * D + d)] += ds * static_cast<double>(k_j[d]);
                        dk[static_cast<size_t>((j * K + g) * D + d)] += ds * static_cast<double>(q_i[d]);
                        dv[static_cast<size_t>((j * K + g) * D + d)] += p * static_cast<double>(do_i[d]);
                    }
                }
            }
        }
    }
}

TEST(attention_over_many_blocks) {
    const Case cases[] = {
        {shape_of(6, 2, 20), {131, 64, 1, 65, 63}},
        {shape_of(2, 1, 64), {300, 128, 129}},
        {shape_of(4, 4, 34), {257, 31, 33}},
    };
    for (const Case& c : cases) {
        Pass wanted(c, 22);
        Doubles o(wanted.q.size()), lse(wanted.lse.size());
        Doubles dq(wanted.q.size()), dk(wanted.k.size()), dv(wanted.k.size());
        naive_forward(wanted.shape, wanted.sequences, test::widen(wanted.q), test::widen(wanted.k),
                      test::widen(wanted.v), o, &lse);
        naive_backward(wanted, o, lse, dq, dk, dv);
        for (const cpuft::KernelTable* table : test::tables()) {
            Compute compute(2, *table, cpuft::Precision::kF32);
            Pass pass(c, 22);
            pass.run(compute);
            const double distances[] = {test::distance(pass.o.data(), o), test::distance(pass.lse.data(), lse),
                                        test::distance(pass.dq.data(), dq), test::distance(pass.dk.data(), dk),
                                        test::distance(pass.dv.data(), dv)};
            const char* names[] = {"o", "lse", "dq", "dk", "dv"};
            for (int i = 0; i < 5; ++i) {
                CHECK(distances[i] < 5e-6, "%s %s is off by %g, D = %lld", table->name, names[i], distances[i],
                      (long long)pass.shape.D);
            }
        }
    }
}

// Scores of a thousand: their exponentials must neither overflow nor vanish.
TEST(attention_with_large_scores) {
    for (const cpuft::KernelTable* table : test::tables()) {
        Compute compute(1, *table, cpuft::Precision::kF32);
        Pass pass({shape_of(2, 1, 8), {70, 3}}, 23);
        for (float& value : pass.q) value *= 300.0f;
        Doubles o(pass.q.size());
        naive_forward(pass.shape, pass.sequences, test::widen(pass.q), test::widen(pass.k), test::widen(pass.v), o,
                      nullptr);
        pass.run(compute);
        // A score of a thousand is known to 2^-24 of itself, so is the logarithm of each probability.
        CHECK(test::distance(pass.o.data(), o) < 1000 * 16 * test::kRounding, "%s", table->name);
        for (const std::vector<float>* gradient : {&pass.dq, &pass.dk, &pass.dv}) {
            for (const float value : *gradient)
                CHECK(std::isfinite(value), "%s: %g", table->name, static_cast<double>(value));
        }
    }
}

TEST(attention_does_not_depend_on_threads) {
    for (const cpuft::KernelTable* table : test::tables()) {
        const Case c = {shape_of(6, 2, 20), {131, 64, 1, 65, 63}};
        Pass first(c, 24);
        Compute one(1, *table, cpuft::Precision::kF32);
        first.run(one);
        for (const int threads : {2, 5}) {
            Compute compute(threads, *table, cpuft::Precision::kF32);
            Pass pass(c, 24);
            pass.run(compute);
            const bool same = std::memcmp(pass.o.data(), first.o.data(), pass.o.size() * sizeof(float)) == 0 &&
                              std::memcmp(pass.dq.data(), first.dq.data(), pass.dq.size() * sizeof(float)) == 0 &&
                              std::memcmp(pass.dk.data(), first.dk.data(), pass.dk.size() * sizeof(float)) == 0 &&
                              std::memcmp(pass.dv.data(), first.dv.data(), pass.dv.size() * sizeof(float)) == 0;
            CHECK(same, "%s with %d threads", table->name, threads);
        }
    }
}

}  // namespace
