// Compute: what every layer needs to run: threads, kernels, and each thread's scratch memory.
#pragma once

#include <cstdint>
#include <vector>

#include "buffer.h"
#include "kernels/kernels.h"
#include "thread_pool.h"

namespace cpuft {

struct Compute {
    Compute(int n_threads, const KernelTable& table, bool bf16)
        : pool(n_threads),
          kernels(table),
          gemm(bf16 ? *table.bf16 : table.f32),
          scratch(static_cast<size_t>(pool.size())) {}

    // Calls row(t, thread) for every t in [0, n_rows), in runs long enough to be worth handing out.
    template <class Row>
    void for_rows(int64_t n_rows, Row row) {
        constexpr int64_t kRun = 16;
        pool.parallel_for((n_rows + kRun - 1) / kRun, [&](int64_t run, int thread) {
            const int64_t end = (run + 1) * kRun < n_rows ? (run + 1) * kRun : n_rows;
            for (int64_t t = run * kRun; t < end; ++t) row(t, thread);
        });
    }

    struct Scratch {
        Buffer<float> values;     // weights on their way from the file's format into a panel
        Buffer<char> panel;       // the packed panel
        Buffer<float> attention;  // attention's tiles
        Buffer<char> attention_panels;
    };

    ThreadPool pool;
    const KernelTable& kernels;
    const GemmKernel& gemm;  // for all matrix products; its sums are float32
    std::vector<Scratch> scratch;
};

}  // namespace cpuft
