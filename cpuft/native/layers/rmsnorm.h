// RMSNorm (Zhang & Sennrich 2019, arXiv:1910.07467): y = x r w, r = 1 / sqrt(mean(x^2) + epsilon), row by row.
#pragma once

#include "../compute.h"

namespace cpuft {

// x, y: [T, C], or the same array; weight: [C]
void rmsnorm_forward(Compute& compute, const float* x, const float* weight, float epsilon, int64_t T, int64_t C,
                     float* y);

// y += rmsnorm(x)
void rmsnorm_add(Compute& compute, const float* x, const float* weight, float epsilon, int64_t T, int64_t C, float* y);

// dx (+)= d(loss)/dx for dy: [T, C]. Where it is not added to, dx may be the same array as dy; else they may not overlap.
void rmsnorm_backward(Compute& compute, const float* x, const float* weight, float epsilon, const float* dy, int64_t T,
                      int64_t C, bool accumulate, float* dx);

}  // namespace cpuft
