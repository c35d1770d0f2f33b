// ThreadPool: a fixed team of workers that share out numbered tasks.
//
// After a fork the child has the team but none of its workers: there the caller does all tasks itself, and what the absent
// workers held is left as it is.
//
// Tasks are handed out first come, first served, so a slow core takes fewer of them. Results must not depend on who runs
// a task: each task writes outputs of its own, in an order that is fixed inside the task. That is what makes the engine's
// numbers independent of the number of threads.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace cpuft {

class ThreadPool {
  public:
    // n_threads >= 1 counts the calling thread.
    explicit ThreadPool(int n_threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int size() const { return static_cast<int>(team_->workers.size()) + 1; }

    // Calls task(index, thread) for every index in [0, n_tasks), thread in [0, size()), and returns when all are done.
    // Where tasks throw (out of memory), the others still run, and one of the exceptions is thrown here.
    template <class Task>
    void parallel_for(int64_t n_tasks, const Task& task) {
        run(n_tasks,
            {&task, [](const void* t, int64_t index, int thread) { (*static_cast<const Task*>(t))(index, thread); }});
    }

  private:
    // A task of any type, without the copy on the heap that std::function would make of it.
    struct TaskReference {
        const void* task = nullptr;
        void (*call)(const void* task, int64_t index, int thread) = nullptr;
    };

    // One parallel_for. A worker copies it under the mutex and works on its copy.
    struct Round {
        uint32_t number = 0;
        uint32_t n_tasks = 0;
        TaskReference task;
    };

    void run(int64_t n_tasks, TaskReference task);
    void work(int thread);
    void stop();
    void run_tasks(const Round& round, int thread);
    bool in_fork() const;

    // What cannot be ended where the workers do not exist: joining one, or destroying what one waits for, waits for ever.
    struct Team {
        std::vector<std::thread> workers;
        std::mutex mutex;
        std::condition_variable start;
    };

    std::unique_ptr<Team> team_ = std::make_unique<Team>();
    const int process_;  // that the workers belong to
    Round round_;
    bool stop_ = false;
    std::exception_ptr failure_;  // of a task of this round; under the mutex
    // The round's number in the upper half, its next task in the lower one: a worker that comes late, after the round has
    // ended, cannot take a task of the next one by mistake. Nobody waits for a worker that has taken no task, so a busy
    // machine, on which workers come late or never, costs no more than their absence.
    std::atomic<uint64_t> next_{0};
    std::atomic<uint32_t> n_done_{0};
};

// The number of CPUs that this process may run on: its affinity mask and, on Linux, its cgroup's CPU quota.
int available_cpus();

}  // namespace cpuft
