#include "check.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "error.h"

namespace test {

namespace {

struct TestCase {
    const char* name;
    void (*run)();
};

std::vector<TestCase>& test_cases() {
    static std::vector<TestCase> cases;
    return cases;
}

int64_t n_failures = 0, n_printed = 0;  // n_printed: of the test that runs
constexpr int64_t kMostPrinted = 8;

}  // namespace

Registration::Registration(const char* name, void (*run)()) { test_cases().push_back({name, run}); }

void fail(const char* file, int line, const char* format, ...) {
    ++n_failures;
    if (++n_printed > kMostPrinted) return;
    fprintf(stderr, "%s:%d: ", file, line);
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

std::vector<const cpuft::KernelTable*> tables() {
    std::vector<const cpuft::KernelTable*> found;
    for (const char* isa : {"reference", "avx2", "avxvnni", "avx512", "avx512vnni", "avx512bf16"}) {
        try {
            found.push_back(&cpuft::select_kernels(isa));
        } catch (const cpuft::InputError&) {
            // This CPU, or this build, does not have it; the Python tests check that none is missing by mistake.
        }
    }
    return found;
}

std::vector<float> Random::floats(int64_t n, float deviation) {
    std::vector<float> values(static_cast<size_t>(n));
    for (float& value : values) {  // Box and Muller's transformation
        const double u = (static_cast<double>(engine_()) + 1.0) / 4294967297.0;
        const double v = static_cast<double>(engine_()) / 4294967296.0;
        value = deviation * static_cast<float>(std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586 * v));
    }
    return values;
}

const char* model_path() {
    const char* chosen = std::getenv("CPUFT_TEST_MODEL");
    return chosen != nullptr ? chosen : CPUFT_DEMO_MODEL;
}

uint32_t all_targets(const cpuft::Model& model) {
    uint32_t targets = 0;
    for (const cpuft_target target : model.targets()) targets |= 1u << target;
    return targets;
}

double distance(const float* got, const Doubles& wanted) {
    double difference = 0.0, size = 0.0;
    for (size_t i = 0; i < wanted.size(); ++i) {
        const double d = static_cast<double>(got[i]) - wanted[i];
        difference += d * d;
        size += wanted[i] * wanted[i];
    }
    const double result = std::sqrt(difference / size);
    return std::isfinite(result) ? result : INFINITY;
}

double weighted_sum(const std::vector<float>& weights, const Doubles& y) {
    double sum = 0.0;
    for (size_t i = 0; i < y.size(); ++i) sum += static_cast<double>(weights[i]) * y[i];
    return sum;
}

}  // namespace test

int main(int argc, char** argv) {
    int64_t n_run = 0, n_bad = 0;
    for (const test::TestCase& test_case : test::test_cases()) {
        if (argc > 1 && std::strstr(test_case.name, argv[1]) == nullptr) continue;
        const int64_t before = test::n_failures;
        test::n_printed = 0;
        test_case.run();
        const bool good = test::n_failures == before;
        printf("%s %s\n", good ? "ok  " : "FAIL", test_case.name);
        ++n_run;
        if (!good) ++n_bad;
    }
    printf("%lld tests, %lld failed, %lld checks failed\n", (long long)n_run, (long long)n_bad,
           (long long)test::n_failures);
    return n_run > 0 && n_bad == 0 ? 0 : 1;
}
