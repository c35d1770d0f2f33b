// AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) on flat arrays.
#pragma once

#include "compute.h"
#include "moments.h"

namespace cpuft {

struct AdamW {
    float learning_rate, beta1, beta2, epsilon, weight_decay;
};

// The L2 norm of x, summed in an order that does not depend on the number of threads.
double norm(Compute& compute, const float* x, int64_t n, Buffer<double>& workspace);

// One step, number `step` from 1, on factor * gradients:
//   m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2
//   p = p - lr weight_decay p - lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + epsilon)
// It computes in float32, whatever precision `moments` keeps m and v in, and leaves the gradients zero for the next step.
void adamw_step(Compute& compute, const AdamW& settings, int64_t step, float factor, float* gradients,
                float* parameters, Moments& moments);

}  // namespace cpuft
