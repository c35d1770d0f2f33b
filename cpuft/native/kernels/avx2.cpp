// AVX2 + FMA: 16 registers of 8 floats. 12 accumulators (6 x 2), 2 for B, 1 for the broadcast of A.
#include "rows.h"
#include "weights.h"

namespace cpuft {

const KernelTable kAvx2Kernels = {
    "avx2", f32_kernel<32, 6, 2>("avx2-f32-6x16"), nullptr, nullptr, Rows<32>::table(), fast_weight_reader};

}  // namespace cpuft
