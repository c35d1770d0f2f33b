// Attention against the formulas in double (attention_reference.h), and those of its backward pass against finite
// differences.
#include "layers/attention.h"

#include <algorithm>
#include <cstring>

#include "attention_reference.h"
#include "check.h"

using cpuft::AttentionShape;
using cpuft::Compute;
using cpuft::Sequences;
using test::Doubles;
using test::Random;

namespace {

AttentionShape shape_of(int64_t H, int64_t K, int64_t D, int64_t window = 0, float soft_cap = 0.0f) {
    return {H, K, D, 1.0f / std::sqrt(static_cast<float>(D)), window, soft_cap};
}

Sequences sequences_of(const std::vector<int64_t>& lengths, const std::vector<int64_t>& prefix = {}) {
    Sequences sequences{{0}, prefix};
    for (const int64_t length : lengths) sequences.start.push_back(sequences.start.back() + length);
    return sequences;
}

struct Case {
    AttentionShape shape;
    Sequences sequences;
};

std::string text_of(const Case& c, const cpuft::KernelTable& table) {
    return std::string(table.name) + ", H = " + std::to_string(c.shape.H) + ", D = " + std::to_string(c.shape.D) +
           ", window " + std::to_string(c.shape.window) + ", soft cap " + std::to_string(c.shape.soft_cap) +
           ", T = " + std::to_string(c.sequences.T());
}

// Inputs, and what the engine makes of them.
struct Pass {
    Pass(const Case& c, uint32_t seed) : shape(c.shape), sequences(c.sequences) {
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
    void forward(Compute& compute) {
        cpuft::attention_forward(compute, shape, sequences, q.data(), k.data(), v.data(), workspace, o.data(),
                                 lse.data());
    }
    void run(Compute& compute) {
        forward(compute);
        cpuft::attention_backward(compute, shape, sequences, q.data(), k.data(), v.data(), o.data(), lse.data(),
                                  d_o.data(), workspace, dq.data(), dk.data(), dv.data());
    }
    AttentionShape shape;
    Sequences sequences;
    cpuft::AttentionWorkspace workspace;
    std::vector<float> q, k, v, d_o, o, lse, dq, dk, dv;
};

// What a pass should have given.
struct Wanted {
    explicit Wanted(const Pass& pass) {
        const Doubles q = test::widen(pass.q), k = test::widen(pass.k), v = test::widen(pass.v);
        reference::attention_forward(pass.shape, pass.sequences, q, k, v, o, lse);
        reference::attention_backward(pass.shape, pass.sequences, q, k, v, o, lse, test::widen(pass.d_o), dq, dk, dv);
    }
    Doubles o, lse, dq, dk, dv;
};

void check_pass(const Case& c, uint32_t seed) {
    const Wanted wanted{Pass(c, seed)};
    for (const cpuft::KernelTable* table : test::tables()) {
        Compute compute(2, *table, cpuft::Precision::kF32);
        Pass pass(c, seed);
        pass.run(compute);
        const std::pair<const char*, double> distances[] = {
            {"o", test::distance(pass.o.data(), wanted.o)},    {"lse", test::distance(pass.lse.data(), wanted.lse)},
            {"dq", test::distance(pass.dq.data(), wanted.dq)}, {"dk", test::distance(pass.dk.data(), wanted.dk)},
            {"dv", test::distance(pass.dv.data(), wanted.dv)},
        };
        for (const auto& [name, distance] : distances)
            CHECK(distance < 5e-6, "%s: %s is off by %g", text_of(c, *table).c_str(), name, distance);
    }
}

// Ties the formulas of the reference's backward pass to the derivative, which long sequences would take minutes for.
TEST(attention_reference_is_the_derivative) {
    const Case cases[] = {
        {shape_of(2, 2, 4), sequences_of({5, 1, 3})},
        {shape_of(6, 2, 10, 4), sequences_of({7, 12})},
        {shape_of(4, 1, 16, 0, 1.5f), sequences_of({9, 2, 8})},
        {shape_of(4, 2, 6, 6, 0.7f), sequences_of({8, 5, 3, 4}, {-1, 0, 0, -1})},
        {shape_of(3, 3, 22, 1), sequences_of({17})},
    };
    for (const Case& c : cases) {
        const Pass pass(c, 21);
        const Wanted wanted(pass);
        Doubles q = test::widen(pass.q), k = test::widen(pass.k), v = test::widen(pass.v), o, lse;
        const auto loss = [&] {
            reference::attention_forward(c.shape, c.sequences, q, k, v, o, lse);
            return test::weighted_sum(pass.d_o, o);
        };
        for (auto& [x, gradient] : {std::pair{&q, &wanted.dq}, {&k, &wanted.dk}, {&v, &wanted.dv}}) {
            const Doubles differences = test::differentiate(*x, loss);
            double largest = 0.0;
            for (size_t i = 0; i < x->size(); ++i)
                largest = std::max(largest, std::fabs(differences[i] - (*gradient)[i]));
            CHECK(largest < 1e-8, "D = %lld: off by %g", (long long)c.shape.D, largest);
        }
    }
}

TEST(attention_over_few_tokens) {
    check_pass({shape_of(2, 2, 4), sequences_of({5, 1, 3})}, 22);
    check_pass({shape_of(6, 2, 10), sequences_of({7, 12})}, 22);
    check_pass({shape_of(4, 1, 16), sequences_of({9, 2, 8})}, 22);
    check_pass({shape_of(3, 3, 22), sequences_of({17})}, 22);
}

TEST(attention_over_many_blocks) {
    check_pass({shape_of(6, 2, 20), sequences_of({131, 64, 1, 65, 63})}, 23);
    check_pass({shape_of(2, 1, 64), sequences_of({300, 128, 129})}, 23);
    check_pass({shape_of(4, 4, 34), sequences_of({257, 31, 33})}, 23);
    check_pass({shape_of(2, 1, 80), sequences_of({140})}, 23);
    check_pass({shape_of(1, 1, 96), sequences_of({200})}, 23);
    check_pass({shape_of(2, 2, 128), sequences_of({90})}, 23);
    check_pass({shape_of(2, 1, 256), sequences_of({195})}, 23);
}

// Windows that end within a block, with one, and beyond several.
TEST(attention_in_a_window) {
    for (const int64_t window : {2, 5, 63, 64, 65, 128, 150, 1000})
        check_pass({shape_of(4, 2, 12, window), sequences_of({331, 70, 9})}, 24);
}

// Gemma's heads are longer than any block of queries or keys.
TEST(attention_with_long_heads) { check_pass({shape_of(2, 1, 256, 40, 3.0f), sequences_of({140, 9})}, 25); }

TEST(attention_with_a_soft_cap) {
    check_pass({shape_of(4, 2, 12, 0, 2.0f), sequences_of({140, 30})}, 25);
    check_pass({shape_of(2, 1, 33, 40, 0.5f), sequences_of({200})}, 25);
    check_pass({shape_of(2, 2, 64, 0, 50.0f), sequences_of({67})}, 25);
}

// A prefix of an odd number of blocks, one of two segments, beside a sequence of its own; windows that reach into the
// prefix from a part of the followers' tokens, and windows that never do.
const Sequences kShared = sequences_of({192, 90, 5, 130, 64, 20}, {-1, 0, 0, -1, -1, 4});

TEST(attention_behind_a_prefix) {
    for (const int64_t window : {0, 7, 70, 130, 200}) {
        check_pass({shape_of(4, 2, 12, window), kShared}, 26);
        check_pass({shape_of(2, 1, 20, window, 3.0f), kShared}, 26);
    }
}

// What lies a tile outside the window is not even read.
TEST(attention_leaves_out_what_no_window_reaches) {
    constexpr int64_t kReached = 256, kWindow = 60;  // tokens from kReached on see nothing before kReached - kWindow
    for (const cpuft::KernelTable* table : test::tables()) {
        Compute compute(2, *table, cpuft::Precision::kF32);
        Pass pass({shape_of(2, 1, 8, kWindow), sequences_of({400})}, 29);
        std::fill_n(pass.k.begin(), 128 * 8, NAN);
        std::fill_n(pass.v.begin(), 128 * 8, NAN);
        pass.run(compute);
        const auto from = [](const std::vector<float>& x, int64_t of_token) {
            return std::all_of(x.begin() + kReached * of_token, x.end(),
                               [](float value) { return std::isfinite(value); });
        };
        CHECK(from(pass.o, 16) && from(pass.dq, 16) && from(pass.dk, 8) && from(pass.dv, 8), "%s", table->name);
        CHECK(std::isnan(pass.o[0]), "%s", table->name);
    }
}

// Scores of a thousand: their exponentials must neither overflow nor vanish.
TEST(attention_with_large_scores) {
    for (const cpuft::KernelTable* table : test::tables()) {
        Compute compute(1, *table, cpuft::Precision::kF32);
        Pass pass({shape_of(2, 1, 8), sequences_of({70, 3})}, 30);
        for (float& value : pass.q) value *= 300.0f;
        const Wanted wanted(pass);
        pass.run(compute);
        // A score of a thousand is known to 2^-24 of itself, so is the logarithm of each probability.
        CHECK(test::distance(pass.o.data(), wanted.o) < 1000 * 16 * test::kRounding, "%s", table->name);
        for (const std::vector<float>* gradient : {&pass.dq, &pass.dk, &pass.dv}) {
            for (const float value : *gradient)
                CHECK(std::isfinite(value), "%s: %g", table->name, static_cast<double>(value));
        }
    }
}

TEST(attention_does_not_depend_on_threads) {
    const Case cases[] = {
        {shape_of(6, 2, 20), sequences_of({131, 64, 1, 65, 63})},
        {shape_of(4, 1, 16), sequences_of({1000})},
        {shape_of(4, 2, 16, 150, 2.0f), kShared},
    };
    for (const cpuft::KernelTable* table : test::tables()) {
        for (const Case& c : cases) {
            Pass first(c, 31);
            Compute one(1, *table, cpuft::Precision::kF32);
            first.run(one);
            for (const int threads : {2, 5}) {
                Compute compute(threads, *table, cpuft::Precision::kF32);
                Pass pass(c, 31);
                pass.run(compute);
                const bool same = std::memcmp(pass.o.data(), first.o.data(), pass.o.size() * sizeof(float)) == 0 &&
                                  std::memcmp(pass.dq.data(), first.dq.data(), pass.dq.size() * sizeof(float)) == 0 &&
                                  std::memcmp(pass.dk.data(), first.dk.data(), pass.dk.size() * sizeof(float)) == 0 &&
                                  std::memcmp(pass.dv.data(), first.dv.data(), pass.dv.size() * sizeof(float)) == 0;
                CHECK(same, "%s with %d threads", text_of(c, *table).c_str(), threads);
            }
        }
    }
}

}  // namespace
