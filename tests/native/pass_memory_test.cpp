// What a pass is predicted to take is what it takes, array by array, and once it is reserved a pass makes no other arrays.
#include "pass_memory.h"

#include <algorithm>

#include "adapter.h"
#include "check.h"
#include "model.h"
#include "transformer.h"

namespace {

using namespace cpuft;

constexpr int64_t kLength = 150;

struct Example {
    Example() : tokens(kLength), supervised(kLength) {
        for (int64_t t = 0; t < kLength; ++t) {
            tokens[static_cast<size_t>(t)] = static_cast<int32_t>(t * 7 % 200);
            supervised[static_cast<size_t>(t)] = t > 100;
        }
    }
    MicroBatch batch(const uint64_t* keys, bool frozen) const {
        return {tokens.data(), frozen ? nullptr : supervised.data(), &kLength, 1, keys, nullptr};
    }
    std::vector<int32_t> tokens;
    std::vector<uint8_t> supervised;
};

// A pass of one kind with one adapter.
struct Case {
    Precision precision;
    cpuft_activations policy;
    bool all_targets;     // or the queries' alone
    int32_t first_layer;  // from the end where negative
    float dropout;
    enum { kTrain, kLoss, kFrozen } kind;
};

std::vector<Case> cases() {
    std::vector<Case> all;
    for (const auto precision : {Precision::kF32, Precision::kBf16, Precision::kInt8}) {
        for (const auto policy : {CPUFT_ACTIVATIONS_KEEP, CPUFT_ACTIVATIONS_RECOMPUTE}) {
            for (const float dropout : {0.0f, 0.1f}) {
                all.push_back({precision, policy, true, 0, dropout, Case::kTrain});
                all.push_back({precision, policy, true, -1, dropout, Case::kTrain});
            }
            all.push_back({precision, policy, false, 1, 0.0f, Case::kTrain});
        }
        all.push_back({precision, CPUFT_ACTIVATIONS_KEEP, true, 0, 0.1f, Case::kLoss});
        all.push_back({precision, CPUFT_ACTIVATIONS_KEEP, true, -1, 0.0f, Case::kFrozen});
    }
    return all;
}

void run(const Case& c, Transformer& transformer, const Adapter& adapter) {
    const Example example;
    const uint64_t key = 1;
    const MicroBatch batch = example.batch(c.dropout > 0.0f ? &key : nullptr, c.kind == Case::kFrozen);
    std::vector<float> rows;
    switch (c.kind) {
        case Case::kTrain:
            transformer.forward_backward(batch, adapter);
            break;
        case Case::kLoss:
            transformer.forward(batch, &adapter);
            break;
        case Case::kFrozen:
            rows.resize(static_cast<size_t>(kLength) * 4096);
            transformer.forward_frozen(batch, adapter, rows.data());
            break;
    }
}

int64_t bytes(const PassMemory& memory, MemoryPart part) { return memory.bytes()[static_cast<size_t>(part)]; }

// Calls body(case, transformer, adapter, what it is predicted to take).
template <class Body>
void for_cases(Body body) {
    const Example example;
    for (const Case& c : cases()) {
        const KernelTable& table = *test::tables().back();
        if (c.precision == Precision::kInt8 && table.int8 == nullptr) continue;
        Model model(test::model_path());
        Compute compute(2, table, c.precision);
        if (c.precision == Precision::kInt8) model.measure_rows(compute);
        const auto first = static_cast<int32_t>(c.first_layer < 0 ? model.dims.n_layer + c.first_layer : c.first_layer);
        const cpuft_target queries = model.fused_qkv ? CPUFT_TARGET_ATTN_QKV : CPUFT_TARGET_ATTN_Q;
        const uint32_t targets = c.all_targets ? test::all_targets(model) : 1u << queries;
        Adapter adapter(model, 4, 8.0f, c.dropout, targets, first, 0, CPUFT_MOMENTS_F32);
        Transformer transformer(model, compute);
        transformer.set_activations(c.policy);
        PassMemory memory;
        transformer.count(transformer.pass_size(example.batch(nullptr, c.kind == Case::kFrozen), c.kind == Case::kTrain,
                                                c.dropout > 0.0f),
                          adapter.shape(), c.policy, memory);
        body(c, transformer, adapter, memory);
    }
}

TEST(a_pass_takes_what_was_predicted) {
    for_cases([](const Case& c, Transformer& transformer, Adapter& adapter, const PassMemory& predicted) {
        run(c, transformer, adapter);
        const PassMemory held = transformer.held();
        for (const auto part : {MemoryPart::kActivations, MemoryPart::kWorkspace}) {
            const int64_t wanted = bytes(held, part), got = bytes(predicted, part);
            // Where few targets are adapted, a backward pass may stop early and leave an array unused.
            CHECK(got >= wanted && got <= wanted * 1.01,
                  "precision %d, policy %d, first %d, kind %d, %s: %lld, took %lld", static_cast<int>(c.precision),
                  c.policy, c.first_layer, c.kind, kMemoryPartNames[static_cast<size_t>(part)], (long long)got,
                  (long long)wanted);
        }
    });
}

TEST(a_pass_takes_no_more_than_was_reserved) {
    for_cases([](const Case& c, Transformer& transformer, Adapter& adapter, const PassMemory& predicted) {
        transformer.reserve(predicted);
        const MemoryParts before = transformer.held().bytes();
        CHECK(before == predicted.bytes(), "kind %d", c.kind);
        run(c, transformer, adapter);
        CHECK(transformer.held().bytes() == before, "precision %d, policy %d, first %d, kind %d",
              static_cast<int>(c.precision), c.policy, c.first_layer, c.kind);
    });
}

}  // namespace
