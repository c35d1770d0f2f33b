#include "thread_pool.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

#include "error.h"

#ifdef __linux__
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace cpuft {

namespace {

// How often a waiting thread looks before it sleeps. Between two products of one layer the wait is a few microseconds,
// far less than waking a sleeping thread takes (~50 us); 4000 pauses last some 100 us.
constexpr int kSpins = 4000;

void pause_briefly() {
#if defined(__x86_64__)
    _mm_pause();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int n_threads) : process_(getpid()) {
    try {
        for (int thread = 1; thread < n_threads; ++thread)
            team_->workers.emplace_back([this, thread] { work(thread); });
    } catch (const std::exception& error) {
        const size_t n = team_->workers.size() + 1;
        stop();
        refuse("this machine starts no more than %zu of %d threads (%s); ask for fewer", n, n_threads, error.what());
    }
}

ThreadPool::~ThreadPool() {
    if (in_fork()) {
        static_cast<void>(team_.release());
    } else {
        stop();
    }
}

bool ThreadPool::in_fork() const { return getpid() != process_; }

void ThreadPool::stop() {
    {
        std::lock_guard<std::mutex> lock(team_->mutex);
        stop_ = true;
        ++round_.number;
        next_ = static_cast<uint64_t>(round_.number) << 32;
    }
    team_->start.notify_all();
    for (std::thread& worker : team_->workers) worker.join();
}

void ThreadPool::run(int64_t n_tasks, TaskReference task) {
    if (team_->workers.empty() || n_tasks <= 1 || n_tasks > INT32_MAX || in_fork()) {
        for (int64_t index = 0; index < n_tasks; ++index) task.call(task.task, index, 0);
        return;
    }
    {
        std::lock_guard<std::mutex> lock(team_->mutex);
        round_ = {round_.number + 1, static_cast<uint32_t>(n_tasks), task};
        n_done_ = 0;
        next_ = static_cast<uint64_t>(round_.number) << 32;
    }
    team_->start.notify_all();
    run_tasks(round_, 0);
    // What is left to wait for is tasks that are being run. Yielding lets a busy machine run them.
    for (int spins = 0; n_done_.load(std::memory_order_acquire) < round_.n_tasks; ++spins) {
        if (spins < kSpins) {
            pause_briefly();
        } else {
            std::this_thread::yield();
        }
    }
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}

void ThreadPool::run_tasks(const Round& round, int thread) {
    uint64_t ticket = next_.load(std::memory_order_acquire);
    while (ticket >> 32 == round.number && static_cast<uint32_t>(ticket) < round.n_tasks) {
        if (!next_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
        try {
            round.task.call(round.task.task, static_cast<uint32_t>(ticket), thread);
        } catch (...) {
            std::lock_guard<std::mutex> lock(team_->mutex);
            failure_ = std::current_exception();
        }
        n_done_.fetch_add(1, std::memory_order_acq_rel);
        ticket = next_.load(std::memory_order_acquire);
    }
}

void ThreadPool::work(int thread) {
    Round round;
    while (true) {
        for (int spins = 0; next_.load(std::memory_order_acquire) >> 32 == round.number && spins < kSpins; ++spins) {
            pause_briefly();
        }
        {
            std::unique_lock<std::mutex> lock(team_->mutex);
            team_->start.wait(lock, [&] { return round_.number != round.number; });
            if (stop_) return;
            round = round_;
        }
        run_tasks(round, thread);
    }
}

int available_cpus() {
    int cpus = static_cast<int>(std::thread::hardware_concurrency());
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) cpus = CPU_COUNT(&set);
    // cgroup v2: "<quota> <period>" in microseconds, or "max <period>" where there is no limit.
    if (FILE* file = fopen("/sys/fs/cgroup/cpu.max", "r")) {
        long quota = 0, period = 0;
        if (fscanf(file, "%ld %ld", &quota, &period) == 2 && quota > 0 && period > 0) {
            cpus =
                std::min(cpus, static_cast<int>(std::ceil(static_cast<double>(quota) / static_cast<double>(period))));
        }
        fclose(file);
    }
#endif
    return std::max(cpus, 1);
}

}  // namespace cpuft
