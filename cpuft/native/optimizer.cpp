#include "optimizer.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace cpuft {

namespace {

constexpr int64_t kRun = 16384;  // values of a task: 64 KiB an array

int64_t n_runs(int64_t n) { return (n + kRun - 1) / kRun; }

}  // namespace

double norm(Compute& compute, const float* x, int64_t n, Buffer<double>& workspace) {
    double* sums = workspace.reserve(n_runs(n));
    compute.pool.parallel_for(n_runs(n), [&](int64_t run, int) {
        double sum = 0.0;
        for (int64_t i = run * kRun; i < std::min(n, (run + 1) * kRun); ++i)
            sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
        sums[run] = sum;
    });
    return std::sqrt(std::accumulate(sums, sums + n_runs(n), 0.0));
}

void adamw_step(Compute& compute, const AdamW& settings, int64_t step, float factor, float* gradients,
                float* parameters, Moments& moments) {
    const auto correction = [step](float beta) {
        return static_cast<float>(1.0 - std::pow(static_cast<double>(beta), static_cast<double>(step)));
    };
    const float step_size = settings.learning_rate / correction(settings.beta1);
    const float second_correction = std::sqrt(correction(settings.beta2));
    const float decay = 1.0f - settings.learning_rate * settings.weight_decay;
    const auto change = [&](int64_t offset, int64_t n, float* first_moments, float* second_moments) {
        for (int64_t i = 0; i < n; ++i) {
            const float g = factor * gradients[offset + i];
            const float m = settings.beta1 * first_moments[i] + (1.0f - settings.beta1) * g;
            const float v = settings.beta2 * second_moments[i] + (1.0f - settings.beta2) * g * g;
            first_moments[i] = m;
            second_moments[i] = v;
            float& p = parameters[offset + i];
            p = decay * p - step_size * m / (std::sqrt(v) / second_correction + settings.epsilon);
            gradients[offset + i] = 0.0f;
        }
    };
    compute.pool.parallel_for(moments.n_runs(), [&](int64_t run, int) { moments.update(run, change); });
}

}  // namespace cpuft
