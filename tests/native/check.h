// The native tests' frame: TEST registers a function, CHECK counts what does not hold, check.cpp has main().
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "compute.h"
#include "kernels/kernels.h"
#include "model.h"

namespace test {

struct Registration {
    Registration(const char* name, void (*run)());
};

// Counts a failure, with a printf-formatted account of the values.
[[gnu::format(printf, 3, 4)]] void fail(const char* file, int line, const char* format, ...);

#define TEST(name)                                                    \
    static void name();                                               \
    static const test::Registration name##_registration(#name, name); \
    static void name()

// CHECK(condition, "format", values...): the values tell what was compared.
#define CHECK(condition, ...)                                                          \
    do {                                                                               \
        if (!(condition)) test::fail(__FILE__, __LINE__, #condition ": " __VA_ARGS__); \
    } while (false)

// Half the distance from 1 to the next float: the relative error of one rounding.
constexpr double kRounding = 0x1p-24;

// Stands where a kernel must not write.
constexpr float kGuard = 12345.0f;

// The model of tests that need one: the file that the environment variable CPUFT_TEST_MODEL names, else the demo's.
const char* model_path();
// All its adapter's targets, as cpuft_adapter_init takes them.
uint32_t all_targets(const cpuft::Model& model);

// The kernel tables that this CPU runs, the reference first.
std::vector<const cpuft::KernelTable*> tables();

// ---- Numbers ----------------------------------------------------------------------------------------------------------

class Random {
  public:
    explicit Random(uint32_t seed) : engine_(seed) {}
    // Normal values of the given deviation.
    std::vector<float> floats(int64_t n, float deviation = 1.0f);
    int32_t below(int32_t limit) { return static_cast<int32_t>(engine_() % static_cast<uint32_t>(limit)); }

  private:
    std::mt19937 engine_;  // its output is the same everywhere, unlike the standard library's distributions
};

using Doubles = std::vector<double>;
inline Doubles widen(const std::vector<float>& x) { return Doubles(x.begin(), x.end()); }

// ||got - wanted|| / ||wanted||; infinite where a value is no number.
double distance(const float* got, const Doubles& wanted);

// d loss / dx by central differences. In double, with steps of 1e-5, what is left of the error is near 1e-9.
template <class Loss>
Doubles differentiate(Doubles& x, Loss loss) {
    Doubles gradient(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
        const double start = x[i], h = 1e-5;
        x[i] = start + h;
        const double ahead = loss();
        x[i] = start - h;
        const double behind = loss();
        x[i] = start;
        gradient[i] = (ahead - behind) / (2 * h);
    }
    return gradient;
}

// sum of weights[i] * y[i]: a loss whose gradient with respect to y is `weights`.
double weighted_sum(const std::vector<float>& weights, const Doubles& y);

}  // namespace test
