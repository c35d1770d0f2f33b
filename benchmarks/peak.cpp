// The arithmetic peak of this machine: multiply-adds between registers, no memory, as many chains as hide their latency.
//
//   peak ISA PRECISION THREADS     (avx512bf16 bf16, avx512 f32, avx2 f32)
// prints operations a second; a multiply-add is two.
#include <immintrin.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

namespace {

constexpr int kChains = 12;           // latency 4 or 5 cycles x 2 units, and still within 16 registers of AVX2
constexpr long kRounds = 20'000'000;  // about a tenth of a second

// The accumulators' sum goes to a volatile, so that nothing is optimized away.
volatile float sink;

[[gnu::target("avx2,fma")]] void run_avx2() {
    __m256 sums[kChains] = {}, a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(0.25f);
    for (long round = 0; round < kRounds; ++round) {
        asm volatile("" : "+x"(a), "+x"(b));  // unknown to the compiler, so the products cannot be hoisted
#pragma GCC unroll 12
        for (int i = 0; i < kChains; ++i) sums[i] = _mm256_fmadd_ps(a, b, sums[i]);
    }
    for (const __m256& sum : sums) sink = sum[0];
}

[[gnu::target("avx512f")]] void run_avx512() {
    __m512 sums[kChains] = {}, a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(0.25f);
    for (long round = 0; round < kRounds; ++round) {
        asm volatile("" : "+v"(a), "+v"(b));
#pragma GCC unroll 12
        for (int i = 0; i < kChains; ++i) sums[i] = _mm512_fmadd_ps(a, b, sums[i]);
    }
    for (const __m512& sum : sums) sink = sum[0];
}

[[gnu::target("avx512f,avx512bf16")]] void run_avx512bf16() {
    __m512 sums[kChains] = {}, a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(0.25f);
    for (long round = 0; round < kRounds; ++round) {
        asm volatile("" : "+v"(a), "+v"(b));
#pragma GCC unroll 12
        for (int i = 0; i < kChains; ++i) sums[i] = _mm512_dpbf16_ps(sums[i], (__m512bh)a, (__m512bh)b);
    }
    for (const __m512& sum : sums) sink = sum[0];
}

struct Loop {
    const char *isa, *precision;
    void (*run)();
    double operations;  // of one instruction
};

const Loop kLoops[] = {
    {"avx2", "f32", run_avx2, 16},
    {"avx512", "f32", run_avx512, 32},
    {"avx512bf16", "f32", run_avx512, 32},
    {"avx512bf16", "bf16", run_avx512bf16, 64},
};

double measure(const Loop& loop, int n_threads) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> threads;
    for (int i = 0; i < n_threads; ++i) threads.emplace_back(loop.run);
    for (std::thread& thread : threads) thread.join();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    return loop.operations * kChains * static_cast<double>(kRounds) * n_threads / seconds.count();
}

}  // namespace

int main(int argc, char** argv) {
    for (const Loop& loop : kLoops) {
        if (argc != 4 || std::strcmp(argv[1], loop.isa) != 0 || std::strcmp(argv[2], loop.precision) != 0) continue;
        const int n_threads = std::atoi(argv[3]);
        double best = 0.0;  // the peak is what the machine can do: the best of some tries
        for (int i = 0; i < 5; ++i) best = std::max(best, measure(loop, n_threads));
        std::printf("%.6g\n", best);
        return 0;
    }
    std::fprintf(stderr, "usage: peak avx2|avx512|avx512bf16 f32|bf16 THREADS\n");
    return 2;
}
