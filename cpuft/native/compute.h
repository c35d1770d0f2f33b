// Compute: what every layer needs to run: threads, kernels, each thread's scratch memory, and the stopwatch.
#pragma once

#include <cstdint>
#include <vector>

#include "buffer.h"
#include "kernels/kernels.h"
#include "stopwatch.h"
#include "thread_pool.h"

namespace cpuft {

// How many blocks of b hold a values.
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How far values may be rounded on their way into a matrix product and between forward and backward pass.
enum class Precision {
    kF32,   // not at all
    kBf16,  // to bfloat16, where that is faster (products) or smaller (activations that are kept)
    kInt8,  // and to int8 in products with base weights
};

struct Compute {
    Compute(int n_threads, const KernelTable& table, Precision precision)
        : pool(n_threads),
          kernels(table),
          precision(precision),
          exact_gemm(table.f32),
          gemm(precision != Precision::kF32 && table.bf16 != nullptr ? *table.bf16 : table.f32),
          weight_gemm(precision == Precision::kInt8 ? *table.int8 : gemm),
          scratch(static_cast<size_t>(pool.size())) {}

    // Calls row(t, thread) for every t in [0, n_rows), in runs long enough to be worth handing out.
    template <class Row>
    void for_rows(int64_t n_rows, Row row) {
        constexpr int64_t kRun = 16;
        pool.parallel_for(ceil_div(n_rows, kRun), [&](int64_t run, int thread) {
            const int64_t end = (run + 1) * kRun < n_rows ? (run + 1) * kRun : n_rows;
            for (int64_t t = run * kRun; t < end; ++t) row(t, thread);
        });
    }

    struct Scratch {
        Buffer<float> values;     // weights on their way from the file's format into a panel
        Buffer<char> panel;       // the packed panel
        Buffer<float> columns;    // a block of columns of a product that never exists whole
        Buffer<float> attention;  // attention's tiles
        Buffer<char> attention_panels;
    };

    ThreadPool pool;
    const KernelTable& kernels;
    const Precision precision;
    // Sums of all matrix products are float32 (int8: int32 within a block). weight_gemm serves products with base weights,
    // gemm the adapter's own products and gradients, exact_gemm, which rounds no factor, attention.
    const GemmKernel &exact_gemm, &gemm, &weight_gemm;
    std::vector<Scratch> scratch;
    Buffer<char> shared_panel;  // a packed matrix that all threads read
    Stopwatch stopwatch;        // the calling thread's: tasks on other threads must not touch it
};

}  // namespace cpuft
