// The thread pool: every task runs exactly once, calls end when all tasks have, and a throwing task is the caller's news.
#include "thread_pool.h"

#include <atomic>
#include <stdexcept>

#include "check.h"

using cpuft::ThreadPool;

namespace {

TEST(pool_runs_every_task_once) {
    for (const int threads : {1, 2, 3, 8}) {
        ThreadPool pool(threads);
        CHECK(pool.size() == threads, "%d, expected %d", pool.size(), threads);
        std::vector<int> plain(1000);  // no atomics: a task that ran twice, or after its call, would show
        for (int round = 0; round < 3000; ++round) {
            const int64_t n = round % 7 == 0 ? 1000 : round % 5;
            pool.parallel_for(n, [&](int64_t index, int thread) {
                CHECK(thread >= 0 && thread < threads, "thread %d of %d", thread, threads);
                ++plain[static_cast<size_t>(index)];
            });
            for (int64_t i = 0; i < n; ++i) {
                CHECK(plain[static_cast<size_t>(i)] == 1, "%d threads, round %d: task %lld ran %d times", threads,
                      round, (long long)i, plain[static_cast<size_t>(i)]);
                plain[static_cast<size_t>(i)] = 0;
            }
        }
    }
}

TEST(pool_hands_on_exceptions) {
    for (const int threads : {1, 2, 5}) {
        ThreadPool pool(threads);
        for (int round = 0; round < 200; ++round) {
            bool caught = false;
            try {
                pool.parallel_for(50, [&](int64_t index, int) {
                    if (index % 10 == 3) throw std::runtime_error("task");
                });
            } catch (const std::runtime_error&) {
                caught = true;
            }
            CHECK(caught, "%d threads: the exception was lost", threads);
            std::atomic<int> n_run{0};
            pool.parallel_for(50, [&](int64_t, int) { ++n_run; });
            CHECK(n_run == 50, "%d threads: %d of 50 tasks ran after an exception", threads, n_run.load());
        }
    }
}

TEST(pools_end) {
    for (int round = 0; round < 200; ++round) {
        ThreadPool pool(1 + round % 4);
        if (round % 2 == 0) pool.parallel_for(3, [](int64_t, int) {});
    }
    CHECK(cpuft::available_cpus() >= 1, "%d", cpuft::available_cpus());
}

}  // namespace
