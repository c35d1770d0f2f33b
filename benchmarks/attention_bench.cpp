// Times and checks the engine's attention of one sequence, beside its matrix product. attention.py runs it.
//
//   attention_bench ISA THREADS PRECISION T D H K REPEATS      (native_bench.h: the first three, and errors)
//       prints {"forward_seconds": [...], "backward_seconds": [...], "gemm_gflops": ..., "residual": ...}
//
// T tokens, head size D, H query heads, K key heads. Products and attention take turns, so that both meet the same machine.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "attention_reference.h"
#include "gemm.h"
#include "layers/attention.h"
#include "native_bench.h"

namespace {

using cpuft::AttentionShape;
using cpuft::Compute;
using reference::Doubles;

// The product that attention is compared with: the size of a linear layer of a 3B model for 512 tokens.
constexpr int64_t kRows = 512, kOutputs = 2048, kInputs = 2048;
// Tokens of the sequence that is compared with the reference: some blocks of attention and a part of one.
constexpr int64_t kCheckedTokens = 150;

struct Problem {
    Problem(const AttentionShape& shape, int64_t T) : shape(shape), sequences{{0, T}, {}} {
        std::mt19937 random(0);
        q = bench::normal_values(random, T * shape.H * shape.D, 1.0f);
        k = bench::normal_values(random, T * shape.K * shape.D, 1.0f);
        v = bench::normal_values(random, T * shape.K * shape.D, 1.0f);
        d_o = bench::normal_values(random, T * shape.H * shape.D, 1.0f);
        o = dq = q;
        dk = dv = k;
        lse.resize(static_cast<size_t>(T * shape.H));
    }
    void forward(Compute& compute) {
        cpuft::attention_forward(compute, shape, sequences, q.data(), k.data(), v.data(), workspace, o.data(),
                                 lse.data());
    }
    void backward(Compute& compute) {
        cpuft::attention_backward(compute, shape, sequences, q.data(), k.data(), v.data(), o.data(), lse.data(),
                                  d_o.data(), workspace, dq.data(), dk.data(), dv.data());
    }

    AttentionShape shape;
    cpuft::Sequences sequences;
    cpuft::AttentionWorkspace workspace;
    std::vector<float> q, k, v, d_o, o, lse, dq, dk, dv;
};

Doubles widen(const std::vector<float>& x) { return Doubles(x.begin(), x.end()); }

// ||got - wanted|| / ||wanted||
double distance(const std::vector<float>& got, const Doubles& wanted) {
    double error = 0.0, norm = 0.0;
    for (size_t i = 0; i < wanted.size(); ++i) {
        const double difference = static_cast<double>(got[i]) - wanted[i];
        error += difference * difference;
        norm += wanted[i] * wanted[i];
    }
    return std::sqrt(error / norm);
}

// The largest of the distances of o, dq, dk and dv to the reference.
double residual(Compute& compute, const AttentionShape& shape) {
    Problem x(shape, kCheckedTokens);
    x.forward(compute);
    x.backward(compute);
    const Doubles q = widen(x.q), k = widen(x.k), v = widen(x.v);
    Doubles o, lse, dq, dk, dv;
    reference::attention_forward(shape, x.sequences, q, k, v, o, lse);
    reference::attention_backward(shape, x.sequences, q, k, v, o, lse, widen(x.d_o), dq, dk, dv);
    return std::max({distance(x.o, o), distance(x.dq, dq), distance(x.dk, dk), distance(x.dv, dv)});
}

// One repeat more than asked for: the first allocates, and does not count.
void measure(const cpuft::KernelTable& table, int n_threads, char** arguments) {
    Compute compute(n_threads, table, bench::find_precision(table, arguments[0]));
    const int64_t T = bench::positive(arguments[1]), D = bench::positive(arguments[2]),
                  H = bench::positive(arguments[3]), K = bench::positive(arguments[4]),
                  repeats = bench::positive(arguments[5]);
    if (H % K != 0) cpuft::refuse("%lld query heads cannot share %lld key heads", (long long)H, (long long)K);
    const AttentionShape shape{H, K, D, 1.0f / std::sqrt(static_cast<float>(D)), 0, 0.0f};
    Problem problem(shape, T);
    std::mt19937 random(0);
    const std::vector<float> x = bench::normal_values(random, kRows * kInputs, 1.0f);
    const std::vector<float> w = bench::normal_values(random, kOutputs * kInputs, 1.0f);
    std::vector<float> y(static_cast<size_t>(kRows * kOutputs));
    cpuft::PackedRows packed;
    std::vector<double> gemm, forward, backward;
    for (int64_t repeat = 0; repeat <= repeats; ++repeat) {
        const auto start = bench::Clock::now();
        packed.pack_rows(compute, compute.gemm, x.data(), kRows, kInputs);
        cpuft::multiply_transposed(compute, {{packed, cpuft::float_matrix(w.data(), kOutputs, kInputs)}}, nullptr,
                                   false, y.data());
        const auto multiplied = bench::Clock::now();
        problem.forward(compute);
        const double until_forward = bench::seconds_since(multiplied);
        problem.backward(compute);
        if (repeat == 0) continue;
        backward.push_back(bench::seconds_since(multiplied) - until_forward);
        forward.push_back(until_forward);
        gemm.push_back(std::chrono::duration<double>(multiplied - start).count());
    }
    const double product = 2e-9 * static_cast<double>(kRows * kOutputs * kInputs);
    std::nth_element(gemm.begin(), gemm.begin() + static_cast<int64_t>(gemm.size() / 2), gemm.end());
    std::printf("{\"forward_seconds\": %s, \"backward_seconds\": %s, \"gemm_gflops\": %.2f, \"residual\": %.6g}\n",
                bench::joined(forward).c_str(), bench::joined(backward).c_str(), product / gemm[gemm.size() / 2],
                residual(compute, shape));
}

}  // namespace

int main(int argc, char** argv) { return bench::run_main(argc, argv, "PRECISION T D H K REPEATS", measure); }
