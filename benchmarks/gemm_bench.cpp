// Times and checks one product of the engine's matrix code, through its internal headers. gemm.py runs it.
//
//   gemm_bench ISA THREADS PRECISION TYPE DIRECTION M OUTPUTS INPUTS REPEATS     (native_bench.h: the first three, and errors)
//       prints {"seconds": [...], "pack_seconds": [...], "fill_seconds": [...], "residual": ...}
//
// TYPE: the number of a ggml type. W is OUTPUTS x INPUTS. DIRECTION: "forward" is X W^T with X M x INPUTS, "backward" is
// dY W with dY M x OUTPUTS. seconds are those of a whole product, from float32 rows and W as stored to float32 results;
// pack_seconds are the part of them in which the rows were packed, which layers that share an input pay once. fill_seconds
// are those of one thread that turns W once into the panels that the product multiplies, and does nothing else.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "formats.h"
#include "gemm.h"
#include "native_bench.h"
#include "weight_panel.h"

namespace {

using cpuft::Compute;
using cpuft::GemmKernel;
using cpuft::KernelTable;
using cpuft::Matrix;
using cpuft::Precision;

// Rows of W that are drawn and quantized; W is made of them over and over. Quantizing all would take minutes.
constexpr int64_t kDrawnRows = 64;
// Rows of the result that are compared with a product in double: spread evenly, with the first and the last among them.
constexpr int64_t kCheckedRows = 8;

// ---- Operands -------------------------------------------------------------------------------------------------------

struct Weights {
    Matrix matrix;
    std::vector<char> data;
    std::vector<float> row_scale;  // for int8
    std::vector<float> drawn;      // what the first kDrawnRows rows stand for; row r equals row r % kDrawnRows

    const float* row(int64_t r) const { return drawn.data() + r % kDrawnRows * matrix.cols; }
};

Weights make_weights(std::mt19937& random, ggml_type type, int64_t rows, int64_t cols, int n_threads) {
    if (type < 0 || type >= GGML_TYPE_COUNT || !cpuft::is_weight_type(type) || cols % ggml_blck_size(type) != 0)
        cpuft::refuse("type %d cannot hold rows of %lld values", static_cast<int>(type), (long long)cols);
    Weights w;
    w.drawn = bench::normal_values(random, kDrawnRows * cols, 1.0f / std::sqrt(static_cast<float>(cols)));
    const size_t row_bytes = ggml_row_size(type, cols);
    std::vector<char> quantized(row_bytes * static_cast<size_t>(kDrawnRows));
    const auto bytes = static_cast<int64_t>(quantized.size());
    cpuft::quantize(type, w.drawn.data(), kDrawnRows, cols, nullptr, quantized.data(), bytes, n_threads);
    cpuft::dequantize(type, quantized.data(), bytes, kDrawnRows, cols, w.drawn.data(), n_threads);
    for (int64_t r = 0; r < rows; ++r) {
        const auto start = quantized.begin() + static_cast<int64_t>(row_bytes) * (r % kDrawnRows);
        w.data.insert(w.data.end(), start, start + static_cast<int64_t>(row_bytes));
    }
    w.matrix = {type, w.data.data(), rows, cols};
    return w;
}

// ---- Product and residual -------------------------------------------------------------------------------------------

struct Problem {
    bool forward;
    int64_t m;
    const Weights& w;
    std::vector<float> rows;  // X or dY

    int64_t depth() const { return forward ? w.matrix.cols : w.matrix.rows; }
    int64_t width() const { return forward ? w.matrix.rows : w.matrix.cols; }
};

// ||c - reference|| / ||reference|| over kCheckedRows rows of c (m x width), the reference summed in double from the
// float32 rows and the values that W's bits stand for.
double residual(const Problem& problem, const std::vector<float>& c) {
    const int64_t width = problem.width(), depth = problem.depth(), n = std::min(problem.m, kCheckedRows);
    double error = 0.0, norm = 0.0;
    for (int64_t checked = 0; checked < n; ++checked) {
        const int64_t i = n == 1 ? 0 : checked * (problem.m - 1) / (n - 1);
        const float* x = problem.rows.data() + i * depth;
        std::vector<double> reference(static_cast<size_t>(width));
        for (int64_t r = 0; r < problem.w.matrix.rows; ++r) {
            const float* w = problem.w.row(r);
            for (int64_t p = 0; p < problem.w.matrix.cols; ++p) {
                const int64_t at = problem.forward ? r : p;
                reference[static_cast<size_t>(at)] +=
                    static_cast<double>(x[problem.forward ? p : r]) * static_cast<double>(w[p]);
            }
        }
        for (int64_t j = 0; j < width; ++j) {
            const double wanted = reference[static_cast<size_t>(j)];
            const double difference = static_cast<double>(c[static_cast<size_t>(i * width + j)]) - wanted;
            error += difference * difference;
            norm += wanted * wanted;
        }
    }
    return std::sqrt(error / norm);
}

struct Seconds {
    std::vector<double> whole, pack;
};

// One product more than `repeats`: the first allocates, and does not count.
Seconds time_products(Compute& compute, const Problem& problem, int repeats, std::vector<float>& c) {
    cpuft::PackedRows packed;
    Seconds seconds;
    for (int repeat = 0; repeat <= repeats; ++repeat) {
        const auto start = bench::Clock::now();
        packed.pack_rows(compute, compute.weight_gemm, problem.rows.data(), problem.m, problem.depth(),
                         problem.forward ? nullptr : problem.w.matrix.row_scale);
        const double pack = bench::seconds_since(start);
        if (problem.forward) {
            cpuft::multiply_transposed(compute, {{packed, problem.w.matrix}}, nullptr, false, c.data());
        } else {
            cpuft::multiply(compute, {{packed, problem.w.matrix}}, false, c.data());
        }
        if (repeat == 0) continue;
        seconds.whole.push_back(bench::seconds_since(start));
        seconds.pack.push_back(pack);
    }
    return seconds;
}

// What a product does with W alone: each of its blocks is made once, and the next one overwrites it.
std::vector<double> time_fills(Compute& compute, const Matrix& w, bool forward, int repeats) {
    const GemmKernel& kernel = compute.weight_gemm;
    const int64_t columns = forward ? cpuft::kColumnsTransposed : cpuft::kColumnsPlain;
    const int64_t width = forward ? w.rows : w.cols, depth = forward ? w.cols : w.rows;
    const auto fill = forward ? cpuft::fill_transposed : cpuft::fill_plain;
    const cpuft::WeightReader reader = cpuft::weight_reader(compute.kernels, w.type);
    const int64_t block_bytes = kernel.b_bytes(cpuft::kBlockDepth);
    std::vector<char> blocks(static_cast<size_t>(block_bytes * (columns / kernel.nr + 1)));
    std::vector<double> seconds;
    for (int repeat = 0; repeat <= repeats; ++repeat) {
        const auto start = bench::Clock::now();
        for (int64_t n0 = 0; n0 < width; n0 += columns) {
            for (int64_t k0 = 0; k0 < depth; k0 += cpuft::kBlockDepth) {
                fill(kernel, w, reader, n0, std::min(columns, width - n0), k0, std::min(cpuft::kBlockDepth, depth - k0),
                     compute.scratch[0], {blocks.data(), block_bytes});
            }
        }
        if (repeat > 0) seconds.push_back(bench::seconds_since(start));
    }
    return seconds;
}

// ---- Command line ---------------------------------------------------------------------------------------------------

void run(const KernelTable& table, int n_threads, char** argv) {
    Compute compute(n_threads, table, bench::find_precision(table, argv[0]));
    const auto type = static_cast<ggml_type>(std::atoi(argv[1]));
    const bool forward = std::strcmp(argv[2], "forward") == 0;
    const int64_t m = bench::positive(argv[3]), outputs = bench::positive(argv[4]), inputs = bench::positive(argv[5]);
    const int repeats = static_cast<int>(bench::positive(argv[6]));
    std::mt19937 random(0);
    Weights w = make_weights(random, type, outputs, inputs, n_threads);
    if (compute.precision == Precision::kInt8) {
        w.row_scale = cpuft::row_scales(compute, w.matrix);
        w.matrix.row_scale = w.row_scale.data();
    }
    Problem problem{forward, m, w, {}};
    problem.rows = bench::normal_values(random, m * problem.depth(), 1.0f);
    std::vector<float> c(static_cast<size_t>(m * problem.width()));
    const Seconds seconds = time_products(compute, problem, repeats, c);
    const std::vector<double> fill_seconds = time_fills(compute, w.matrix, forward, repeats);
    std::printf("{\"seconds\": %s, \"pack_seconds\": %s, \"fill_seconds\": %s, \"residual\": %.6g}\n",
                bench::joined(seconds.whole).c_str(), bench::joined(seconds.pack).c_str(),
                bench::joined(fill_seconds).c_str(), residual(problem, c));
}

}  // namespace

int main(int argc, char** argv) {
    return bench::run_main(argc, argv, "PRECISION TYPE DIRECTION M OUTPUTS INPUTS REPEATS", run);
}
