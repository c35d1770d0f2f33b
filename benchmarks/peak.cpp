// The arithmetic peak of this machine: multiply-adds between registers, no memory, as many chains as hide their latency.
//
//   peak ISA PRECISION THREADS     (kLoops lists the pairs; exit code 3 for any other)
// prints operations a second; a multiply-add is two.
#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

namespace {

// Two units with a latency of 4 to 6 cycles need 8 to 12 chains. 12 and two operands fit the 16 registers of AVX2; the
// 32 of AVX-512 have room for twice as many, in case an instruction takes longer.
constexpr int kYmmChains = 12, kZmmChains = 24;
constexpr long kRounds = 20'000'000;  // about a tenth of a second
constexpr int kTries = 5;

// The instructions are volatile assembly: from intrinsics the compiler sees that all chains compute the same value, and
// keeps one of them.

[[gnu::target("avx2,fma")]] void f32_ymm() {
    __m256 sums[kYmmChains] = {};
    const __m256 a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(0.25f);
    for (long round = 0; round < kRounds; ++round) {
#pragma GCC unroll 12
        for (__m256& sum : sums) asm volatile("vfmadd231ps %1, %2, %0" : "+x"(sum) : "x"(a), "x"(b));
    }
}

[[gnu::target("avx512f")]] void f32_zmm() {
    __m512 sums[kZmmChains] = {};
    const __m512 a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(0.25f);
    for (long round = 0; round < kRounds; ++round) {
#pragma GCC unroll 24
        for (__m512& sum : sums) asm volatile("vfmadd231ps %1, %2, %0" : "+v"(sum) : "v"(a), "v"(b));
    }
}

[[gnu::target("avx512f")]] void bf16_zmm() {
    __m512 sums[kZmmChains] = {};
    const __m512 a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(0.25f);  // as pairs: (0, 0.5) and (0, 0.25)
    for (long round = 0; round < kRounds; ++round) {
#pragma GCC unroll 24
        for (__m512& sum : sums) asm volatile("vdpbf16ps %1, %2, %0" : "+v"(sum) : "v"(a), "v"(b));
    }
}

[[gnu::target("avx512f")]] void int8_zmm() {
    __m512i sums[kZmmChains] = {};
    const __m512i a = _mm512_set1_epi32(0x01010101), b = a;
    for (long round = 0; round < kRounds; ++round) {
#pragma GCC unroll 24
        for (__m512i& sum : sums) asm volatile("vpdpbusd %1, %2, %0" : "+v"(sum) : "v"(a), "v"(b));
    }
}

// {vex}: the form of AVX-VNNI, for CPUs without AVX-512.
[[gnu::target("avx2")]] void int8_ymm() {
    __m256i sums[kYmmChains] = {};
    const __m256i a = _mm256_set1_epi8(1), b = a;
    for (long round = 0; round < kRounds; ++round) {
#pragma GCC unroll 12
        for (__m256i& sum : sums) asm volatile("%{vex%} vpdpbusd %1, %2, %0" : "+x"(sum) : "x"(a), "x"(b));
    }
}

struct Loop {
    const char *isa, *precision;
    void (*run)();
    int operations;  // of one round
};

// Under the engine's names of instruction sets: what its kernels of that name and precision could reach. Precision bf16
// multiplies float32 where the name has no bfloat16 product.
const Loop kLoops[] = {
    {"avx2", "f32", f32_ymm, 16 * kYmmChains},          {"avx2", "bf16", f32_ymm, 16 * kYmmChains},
    {"avxvnni", "f32", f32_ymm, 16 * kYmmChains},       {"avxvnni", "bf16", f32_ymm, 16 * kYmmChains},
    {"avxvnni", "int8", int8_ymm, 64 * kYmmChains},     {"avx512", "f32", f32_zmm, 32 * kZmmChains},
    {"avx512", "bf16", f32_zmm, 32 * kZmmChains},       {"avx512vnni", "f32", f32_zmm, 32 * kZmmChains},
    {"avx512vnni", "bf16", f32_zmm, 32 * kZmmChains},   {"avx512vnni", "int8", int8_zmm, 128 * kZmmChains},
    {"avx512bf16", "f32", f32_zmm, 32 * kZmmChains},    {"avx512bf16", "bf16", bf16_zmm, 64 * kZmmChains},
    {"avx512bf16", "int8", int8_zmm, 128 * kZmmChains},
};

double measure(const Loop& loop, int n_threads) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> threads;
    for (int i = 0; i < n_threads; ++i) threads.emplace_back(loop.run);
    for (std::thread& thread : threads) thread.join();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    return static_cast<double>(loop.operations) * kRounds * n_threads / seconds.count();
}

}  // namespace

int main(int argc, char** argv) {
    const int n_threads = argc == 4 ? std::atoi(argv[3]) : 0;
    if (n_threads < 1) {
        std::fprintf(stderr, "usage: peak ISA PRECISION THREADS\n");
        return 2;
    }
    for (const Loop& loop : kLoops) {
        if (std::strcmp(argv[1], loop.isa) != 0 || std::strcmp(argv[2], loop.precision) != 0) continue;
        double best = 0.0;  // the peak is what the machine can do: the best of some tries
        for (int i = 0; i < kTries; ++i) best = std::max(best, measure(loop, n_threads));
        std::printf("%.6g\n", best);
        return 0;
    }
    return 3;
}
