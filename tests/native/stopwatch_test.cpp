// The stopwatch: each moment of the outermost lap belongs to one part, and an exception ends its laps.
#include "stopwatch.h"

#include <numeric>
#include <stdexcept>

#include "check.h"

using cpuft::Part;
using cpuft::Stopwatch;
using Clock = std::chrono::steady_clock;

namespace {

int64_t of(const Stopwatch::Nanoseconds& times, Part part) { return times[static_cast<size_t>(part)]; }

int64_t sum(const Stopwatch::Nanoseconds& times) { return std::accumulate(times.begin(), times.end(), int64_t{0}); }

int64_t between(Clock::time_point start, Clock::time_point end) {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(end - start).count();
}

// Takes some 20 us, whatever else the machine does.
void pass_time() {
    const Clock::time_point start = Clock::now();
    while (between(start, Clock::now()) < 20'000) continue;
}

TEST(stopwatch_counts_each_moment_once) {
    Stopwatch stopwatch;
    Clock::time_point first, last;
    const Clock::time_point start = Clock::now();
    {
        Stopwatch::Lap outer(stopwatch, Part::kOther);
        first = Clock::now();
        pass_time();
        {
            Stopwatch::Lap inner(stopwatch, Part::kAttention);
            pass_time();
            inner.next(Part::kRope);
            pass_time();
        }
        outer.next(Part::kOptimizer);
        pass_time();
        last = Clock::now();
    }
    const Clock::time_point end = Clock::now();
    const Stopwatch::Nanoseconds times = stopwatch.take();
    CHECK(sum(times) >= between(first, last), "%lld ns", (long long)sum(times));
    CHECK(sum(times) <= between(start, end), "%lld ns", (long long)sum(times));
    for (const Part part : {Part::kOther, Part::kAttention, Part::kRope, Part::kOptimizer})
        CHECK(of(times, part) >= 20'000, "part %zu: %lld ns", static_cast<size_t>(part), (long long)of(times, part));
}

TEST(stopwatch_starts_again_after_take) {
    Stopwatch stopwatch;
    {
        const Stopwatch::Lap lap(stopwatch, Part::kRmsnorm);
        pass_time();
    }
    CHECK(sum(stopwatch.take()) > 0, "nothing");
    pass_time();  // outside of any lap
    CHECK(sum(stopwatch.take()) == 0, "not zero");
}

TEST(stopwatch_survives_exceptions) {
    Stopwatch stopwatch;
    try {
        const Stopwatch::Lap outer(stopwatch, Part::kOther);
        const Stopwatch::Lap inner(stopwatch, Part::kAttention);
        throw std::runtime_error("out of memory");
    } catch (const std::runtime_error&) {
        stopwatch.take();
    }
    pass_time();
    {
        const Stopwatch::Lap lap(stopwatch, Part::kRope);
    }  // a lap that ran on would be charged here
    const Stopwatch::Nanoseconds times = stopwatch.take();
    CHECK(sum(times) == of(times, Part::kRope), "%lld ns", (long long)sum(times));
}

}  // namespace
