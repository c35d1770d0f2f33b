// What the programs that time the engine's native code have in common: their command line, and the numbers they print.
//
//   PROGRAM ISA THREADS
//       prints {"isa": ..., "n_threads": ..., "precisions": [...]}: what the kernel table of this name has
//   PROGRAM ISA THREADS PRECISION ARGUMENTS...
//       measures, and prints a JSON object
// or {"error": ...} with the exit code 2.
//
// ISA: a table's name, or "best". THREADS: 0 for every CPU.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "compute.h"
#include "error.h"

namespace bench {

using cpuft::KernelTable;
using cpuft::Precision;
using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

// The precisions in which the table's products differ: without a kernel of its own, bf16 multiplies as f32 does.
inline std::vector<std::pair<std::string, Precision>> precisions(const KernelTable& table) {
    std::vector<std::pair<std::string, Precision>> known = {{"f32", Precision::kF32}};
    if (table.bf16 != nullptr) known.push_back({"bf16", Precision::kBf16});
    if (table.int8 != nullptr) known.push_back({"int8", Precision::kInt8});
    return known;
}

inline Precision find_precision(const KernelTable& table, const std::string& wanted) {
    for (const auto& [name, precision] : precisions(table)) {
        if (name == wanted) return precision;
    }
    cpuft::refuse("isa \"%s\" has no products in \"%s\"", table.name, wanted.c_str());
}

inline std::vector<float> normal_values(std::mt19937& random, int64_t n, float deviation) {
    std::normal_distribution<float> normal(0.0f, deviation);
    std::vector<float> values(static_cast<size_t>(n));
    for (float& value : values) value = normal(random);
    return values;
}

inline std::string joined(const std::vector<double>& values) {
    std::string text;
    for (const double value : values) {
        char digits[32];
        std::snprintf(digits, sizeof digits, "%s%.9g", text.empty() ? "" : ", ", value);
        text += digits;
    }
    return "[" + text + "]";
}

inline void describe(const KernelTable& table, int n_threads) {
    std::string names;
    for (const auto& [name, precision] : precisions(table)) names += (names.empty() ? "\"" : ", \"") + name + "\"";
    std::printf("{\"isa\": \"%s\", \"n_threads\": %d, \"precisions\": [%s]}\n", table.name, n_threads, names.c_str());
}

inline int64_t positive(const char* text) {
    const long long value = std::atoll(text);
    if (value < 1) cpuft::refuse("\"%s\" is no positive number", text);
    return value;
}

// main() of such a program. measure(table, n_threads, arguments) gets as many arguments as the words of `usage`, of which
// the first is the precision.
template <class Measure>
int run_main(int argc, char** argv, const char* usage, Measure measure) {
    const auto n_arguments = static_cast<int>(std::count(usage, usage + std::strlen(usage), ' ')) + 1;
    if (argc != 3 && argc != 3 + n_arguments) {
        std::fprintf(stderr, "usage: %s ISA THREADS [%s]\n", argv[0], usage);
        return 2;
    }
    try {
        const KernelTable& table = cpuft::select_kernels(std::strcmp(argv[1], "best") == 0 ? nullptr : argv[1]);
        const int wanted = std::atoi(argv[2]), n_threads = wanted > 0 ? wanted : cpuft::available_cpus();
        if (argc == 3) {
            describe(table, n_threads);
        } else {
            measure(table, n_threads, argv + 3);
        }
    } catch (const cpuft::InputError& error) {
        std::string sentence = error.what();
        std::replace(sentence.begin(), sentence.end(), '"', '\'');  // so that it is a JSON string as it stands
        std::printf("{\"error\": \"%s\"}\n", sentence.c_str());
        return 2;
    }
    return 0;
}

}  // namespace bench
