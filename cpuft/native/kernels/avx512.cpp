// AVX-512 F/BW/DQ/VL: 32 registers of 16 floats. 28 accumulators (14 x 2), 2 for B; A is broadcast from memory by the
// multiply-add itself.
#include "rows.h"
#include "weights.h"

namespace cpuft {

const KernelTable kAvx512Kernels = {
    "avx512", f32_kernel<64, 14, 2>("avx512-f32-14x32"), nullptr, nullptr, Rows<64>::table(), fast_weight_reader};

}  // namespace cpuft
