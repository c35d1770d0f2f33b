// Which tokens a pass computes, and attention over segments that share a prefix against attention over whole sequences.
#include "layout.h"

#include <algorithm>
#include <cstring>
#include <tuple>

#include "check.h"
#include "error.h"

using cpuft::Compute;
using cpuft::kAttentionBlock;
using cpuft::Layout;
using cpuft::MicroBatch;
using cpuft::Sequences;
using test::Doubles;
using test::Random;

namespace {

constexpr int64_t kVocabulary = 1000;

// Sequences of which the tokens from `supervised_from` (one each) to `supervised_to` are supervised.
struct Batch {
    void add(const std::vector<int32_t>& sequence, size_t supervised_from, size_t supervised_to) {
        for (size_t i = 0; i < sequence.size(); ++i) supervised.push_back(i >= supervised_from && i < supervised_to);
        tokens.insert(tokens.end(), sequence.begin(), sequence.end());
        lengths.push_back(static_cast<int64_t>(sequence.size()));
    }
    MicroBatch view(const uint64_t* keys = nullptr) const {
        return {tokens.data(), supervised.data(), lengths.data(), static_cast<int64_t>(lengths.size()), keys, nullptr};
    }
    std::vector<int32_t> tokens;
    std::vector<uint8_t> supervised;
    std::vector<int64_t> lengths;
};

std::vector<int32_t> sequence_of(Random& random, const std::vector<int32_t>& beginning, size_t n_more) {
    std::vector<int32_t> tokens = beginning;
    for (size_t i = 0; i < n_more; ++i) tokens.push_back(random.below(kVocabulary));
    return tokens;
}

// Every supervised token has its predecessor in the pass, which predicts it; all before it is there once, in order.
void check_covers(const Layout& layout, const Batch& batch) {
    std::vector<int32_t> wanted;
    int64_t first = 0;
    for (const int64_t length : batch.lengths) {
        for (int64_t t = first + 1; t < first + length; ++t) {
            if (batch.supervised[static_cast<size_t>(t)]) wanted.push_back(batch.tokens[static_cast<size_t>(t)]);
        }
        first += length;
    }
    auto got = layout.targets;
    std::sort(wanted.begin(), wanted.end());
    std::sort(got.begin(), got.end());
    CHECK(got == wanted, "%zu targets, expected %zu", got.size(), wanted.size());
    for (size_t i = 0; i < layout.predicting.size(); ++i) {
        const auto source = static_cast<size_t>(layout.source[static_cast<size_t>(layout.predicting[i])]);
        CHECK(batch.supervised[source + 1] == 1 && batch.tokens[source + 1] == layout.targets[i], "target %zu", i);
    }
    for (int64_t s = 0; s < layout.sequences.count(); ++s) {
        const auto begin = static_cast<size_t>(layout.sequences.start[static_cast<size_t>(s)]);
        const auto end = static_cast<size_t>(layout.sequences.start[static_cast<size_t>(s) + 1]);
        const int64_t prefix = layout.sequences.prefix[static_cast<size_t>(s)];
        int64_t position = 0;
        if (prefix >= 0)
            position = layout.sequences.start[static_cast<size_t>(prefix) + 1] -
                       layout.sequences.start[static_cast<size_t>(prefix)];
        const bool in_whole_blocks = position % kAttentionBlock == 0;
        CHECK(in_whole_blocks, "a prefix of length %lld", (long long)position);
        for (size_t t = begin; t < end; ++t) CHECK(layout.positions[t] == position++, "position of token %zu", t);
    }
}

// Sequences of more than n_short tokens, however many of them are computed, have rows of their own in the table of RoPE, and
// share no prefix with shorter ones.
TEST(layout_keeps_long_sequences_apart) {
    Random random(37);
    const auto beginning = sequence_of(random, {}, 130);
    Batch batch;
    batch.add(sequence_of(random, beginning, 20), 140, 145);
    batch.add(sequence_of(random, beginning, 21), 140, 145);
    batch.add(sequence_of(random, beginning, 20), 140, 145);
    Layout layout;
    const int64_t n_short = 150;
    layout.set(batch.view(), kVocabulary, true, n_short);
    CHECK(layout.T() == 3 * 144 - 128, "%lld tokens", (long long)layout.T());
    CHECK(layout.end_position() == n_short + 144, "end %lld", (long long)layout.end_position());
    for (int64_t t = 0; t < layout.T(); ++t) {
        const int64_t source = layout.source[static_cast<size_t>(t)];
        const bool is_long = source >= 150 && source < 301;
        const int64_t place = source - (source < 150 ? 0 : is_long ? 150 : 301);
        CHECK(layout.positions[static_cast<size_t>(t)] == place + (is_long ? n_short : 0), "token %lld", (long long)t);
    }
}

TEST(layout_leaves_out_what_nothing_needs) {
    Random random(31);
    Batch batch;
    batch.add(sequence_of(random, {}, 20), 5, 9);  // tokens 0 to 7 predict 5 to 8
    batch.add(sequence_of(random, {}, 7), 7, 7);   // nothing supervised
    batch.add(sequence_of(random, {}, 3), 0, 3);   // a first token never counts: 2 targets, 2 tokens
    Layout layout;
    layout.set(batch.view(), kVocabulary, true);
    check_covers(layout, batch);
    CHECK(layout.T() == 8 + 2 && layout.targets.size() == 4 + 2, "%lld tokens", (long long)layout.T());
    MicroBatch values = batch.view();
    values.supervised = nullptr;
    layout.set(values, kVocabulary, false);
    CHECK(layout.T() == 30 && layout.targets.empty(), "without targets all tokens stay");
}

TEST(layout_shares_prefixes) {
    Random random(32);
    const auto prompt = sequence_of(random, {}, 150), other = sequence_of(random, {}, 70);
    Batch batch;
    for (const size_t more : {40, 60, 50}) batch.add(sequence_of(random, prompt, more), 160, 150 + more);
    for (const size_t more : {30, 20}) batch.add(sequence_of(random, other, more), 75, 70 + more);
    batch.add(sequence_of(random, prompt, 10), 100, 130);  // supervised within the prompt: it shares what is before
    Layout layout;
    layout.set(batch.view(), kVocabulary, true);
    check_covers(layout, batch);
    // Of 128 common tokens three sequences share two blocks; with the last one they would share one, which saves less.
    const int64_t whole = 189 + 209 + 199 + 99 + 89 + 129;
    CHECK(layout.T() == whole - 2 * 128 - 64, "%lld tokens", (long long)layout.T());
    layout.set(batch.view(), kVocabulary, false);
    check_covers(layout, batch);
    CHECK(layout.T() == whole, "%lld tokens without sharing", (long long)layout.T());
}

TEST(layout_never_shares_what_predicts_a_target) {
    Random random(33);
    const auto prompt = sequence_of(random, {}, 200);
    for (const size_t supervised_from : {1, 63, 64, 65, 128, 129}) {
        Batch batch;
        batch.add(prompt, supervised_from, 200);
        batch.add(prompt, supervised_from, 150);
        Layout layout;
        layout.set(batch.view(), kVocabulary, true);
        check_covers(layout, batch);
    }
}

TEST(layout_refuses_impossible_batches) {
    Batch batch;
    batch.add({1, 2, 3}, 1, 3);
    Layout layout;
    const auto refused = [&](const MicroBatch& view) {
        try {
            layout.set(view, kVocabulary, true);
        } catch (const cpuft::InputError&) {
            return true;
        }
        return false;
    };
    CHECK(!refused(batch.view()), "a good batch");
    for (const int64_t length : {int64_t{0}, int64_t{-1}, int64_t{1} << 40}) {
        batch.lengths[0] = length;
        CHECK(refused(batch.view()), "length %lld", (long long)length);
    }
    batch.lengths[0] = 3;
    for (const int32_t token : {-1, static_cast<int32_t>(kVocabulary)}) {
        batch.tokens[1] = token;
        CHECK(refused(batch.view()), "token %d", token);
    }
}

// Rows [first, first + n) of x, each `width` long, onto the end of `out`.
void append(const std::vector<float>& x, int64_t first, int64_t n, int64_t width, std::vector<float>& out) {
    out.insert(out.end(), x.begin() + first * width, x.begin() + (first + n) * width);
}

// Three segments behind one prefix, against the three whole sequences: the same bytes forward; backward the same gradients,
// whose terms may be added in another order, and for the prefix the sum of the three.
void check_shared_prefix(const cpuft::AttentionShape& shape, int64_t prefix) {
    const int64_t H = shape.H, K = shape.K, D = shape.D;
    const std::vector<int64_t> own = {70, 1, 133};
    Sequences shared{{0, prefix}, {-1}}, whole{{0}, {}};
    for (const int64_t n : own) {
        shared.start.push_back(shared.T() + n);
        shared.prefix.push_back(0);
        whole.start.push_back(whole.T() + prefix + n);
    }
    for (const cpuft::KernelTable* table : test::tables()) {
        Compute compute(2, *table, cpuft::Precision::kF32);
        Random random(34);
        struct Arrays {
            std::vector<float> q, k, v, d_o, o, lse, dq, dk, dv;
        } one, many;
        one.q = random.floats(shared.T() * H * D);
        one.k = random.floats(shared.T() * K * D);
        one.v = random.floats(shared.T() * K * D);
        one.d_o = random.floats(shared.T() * H * D);
        // What follows the prefix decides its gradient too; here the prefix has none of its own, as it predicts nothing.
        std::fill_n(one.d_o.begin(), prefix * H * D, 0.0f);
        for (size_t s = 0; s < own.size(); ++s) {
            for (const auto& [from, to, width] :
                 {std::tuple(&one.q, &many.q, H * D), std::tuple(&one.k, &many.k, K * D),
                  std::tuple(&one.v, &many.v, K * D), std::tuple(&one.d_o, &many.d_o, H * D)}) {
                append(*from, 0, prefix, width, *to);
                append(*from, shared.start[s + 1], own[s], width, *to);
            }
        }
        for (auto& [sequences, x] : {std::pair<const Sequences&, Arrays&>(shared, one), {whole, many}}) {
            x.o.assign(x.q.size(), NAN);
            x.dq = x.o;
            x.lse.assign(static_cast<size_t>(sequences.T() * H), NAN);
            cpuft::AttentionWorkspace workspace;
            x.dk.assign(x.k.size(), NAN);
            x.dv = x.dk;
            cpuft::attention_forward(compute, shape, sequences, x.q.data(), x.k.data(), x.v.data(), workspace,
                                     x.o.data(), x.lse.data());
            cpuft::attention_backward(compute, shape, sequences, x.q.data(), x.k.data(), x.v.data(), x.o.data(),
                                      x.lse.data(), x.d_o.data(), workspace, x.dq.data(), x.dk.data(), x.dv.data());
        }
        Doubles dk(static_cast<size_t>(prefix * K * D)), dv = dk;
        for (size_t s = 0; s < own.size(); ++s) {
            const int64_t a = shared.start[s + 1], b = whole.start[s] + prefix;
            const auto same = [&](const std::vector<float>& x, const std::vector<float>& y, int64_t width) {
                return std::memcmp(x.data() + a * width, y.data() + b * width,
                                   static_cast<size_t>(own[s] * width) * sizeof(float)) == 0;
            };
            CHECK(same(one.o, many.o, H * D) && same(one.lse, many.lse, H), "%s forward, window %lld", table->name,
                  (long long)shape.window);
            const auto off = [&](const std::vector<float>& x, const std::vector<float>& y, int64_t width) {
                const Doubles wanted(y.begin() + b * width, y.begin() + (b + own[s]) * width);
                return test::distance(x.data() + a * width, wanted);
            };
            const double worst =
                std::max({off(one.dq, many.dq, H * D), off(one.dk, many.dk, K * D), off(one.dv, many.dv, K * D)});
            CHECK(worst < 1e-6, "%s backward of a segment: %g, window %lld", table->name, worst,
                  (long long)shape.window);
            for (size_t i = 0; i < dk.size(); ++i) {
                const size_t at = static_cast<size_t>(whole.start[s] * K * D) + i;
                dk[i] += static_cast<double>(many.dk[at]);
                dv[i] += static_cast<double>(many.dv[at]);
            }
        }
        CHECK(test::distance(one.dk.data(), dk) < 1e-6 && test::distance(one.dv.data(), dv) < 1e-6,
              "%s backward of the prefix: %g, %g", table->name, test::distance(one.dk.data(), dk),
              test::distance(one.dv.data(), dv));
    }
}

TEST(attention_over_a_shared_prefix) {
    for (const int64_t window : {0, 7, 100, 150}) {
        for (const int64_t blocks : {2, 3}) {  // of which a tile of keys holds two
            check_shared_prefix({4, 2, 16, 0.25f, window, window == 100 ? 3.0f : 0.0f}, blocks * kAttentionBlock);
        }
    }
}

}  // namespace
