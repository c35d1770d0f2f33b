// A training step allocates nothing once steps like it have been taken: no workspace is made anew, nothing scatters the heap.
// Every allocation of the process is counted, by functions that stand in front of glibc's.
#include <features.h>

#ifdef __GLIBC__

#include <atomic>
#include <cstddef>

#include "adapter.h"
#include "check.h"
#include "model.h"
#include "optimizer.h"
#include "transformer.h"

namespace {
std::atomic<int64_t> n_allocations{0};
}

extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);

void* malloc(size_t size) {
    ++n_allocations;
    return __libc_malloc(size);
}
void* calloc(size_t n, size_t size) {
    ++n_allocations;
    return __libc_calloc(n, size);
}
void* realloc(void* block, size_t size) {
    ++n_allocations;
    return __libc_realloc(block, size);
}
void* aligned_alloc(size_t alignment, size_t size) {
    ++n_allocations;
    return __libc_memalign(alignment, size);
}
}

namespace {

using cpuft::Precision;

constexpr int64_t kPrefix = 70, kLength = 100;

// Three sequences of which two begin alike, one of them long enough for several blocks of attention.
struct Examples {
    Examples() : lengths{kLength, kLength, 150} {
        for (const int64_t length : lengths) {
            for (int64_t t = 0; t < length; ++t) {
                tokens.push_back(
                    static_cast<int32_t>(t < kPrefix && length == kLength ? t + 3 : t * 7 % 200 + length % 5));
                supervised.push_back(t > kPrefix + 5 && t < length - 2);
            }
        }
    }
    cpuft::MicroBatch batch(const uint64_t* keys) const {
        return {tokens.data(), supervised.data(), lengths.data(), static_cast<int64_t>(lengths.size()), keys, nullptr};
    }
    std::vector<int32_t> tokens;
    std::vector<uint8_t> supervised;
    std::vector<int64_t> lengths;
};

constexpr int64_t kMostSteps = 20;

TEST(later_steps_allocate_nothing) {
    const Examples examples;
    const uint64_t keys[] = {1, 2, 3};
    for (const Precision precision : {Precision::kF32, Precision::kBf16, Precision::kInt8}) {
        const cpuft::KernelTable& table = *test::tables().back();
        if (precision == Precision::kInt8 && table.int8 == nullptr) continue;
        cpuft::Model model(test::model_path());
        cpuft::Compute compute(2, table, precision);
        if (precision == Precision::kInt8) model.measure_rows(compute);
        for (const auto policy : {CPUFT_ACTIVATIONS_KEEP, CPUFT_ACTIVATIONS_RECOMPUTE}) {
            for (const auto moments : {CPUFT_MOMENTS_F32, CPUFT_MOMENTS_8BIT}) {
                const float dropout = moments == CPUFT_MOMENTS_F32 ? 0.0f : 0.1f;
                cpuft::Adapter adapter(model, 4, 8.0f, dropout, test::all_targets(model), 0, 0, moments);
                cpuft::Transformer transformer(model, compute);
                transformer.set_activations(policy);
                // Which thread takes which task is left to chance, and with it when each thread's own scratch memory has
                // grown to what it needs; after some steps it has.
                int64_t n_last = -1;
                for (int64_t step = 1; step <= kMostSteps && n_last != 0; ++step) {
                    const int64_t before = n_allocations;
                    transformer.forward_backward(examples.batch(dropout > 0.0f ? keys : nullptr), adapter);
                    adapter.gradient_norm(compute);
                    cpuft::adamw_step(compute, {1e-3f, 0.9f, 0.999f, 1e-8f, 0.0f}, step, 1.0f, adapter.gradients(),
                                      adapter.parameters(), adapter.moments());
                    n_last = n_allocations - before;
                    CHECK(step > 1 || n_last > 0, "the first step is not seen to allocate its workspaces");
                }
                CHECK(n_last == 0, "precision %d, policy %d, moments %d: %lld allocations in step %lld",
                      static_cast<int>(precision), static_cast<int>(policy), static_cast<int>(moments),
                      (long long)n_last, (long long)kMostSteps);
            }
        }
    }
}

}  // namespace

#endif  // __GLIBC__
