// AVX-512-VNNI: vpdpbusd multiplies 64 pairs of bytes and adds them, four by four, into 16 int32 sums.
#include "int8_avx512.h"
#include "weights.h"

namespace cpuft {

const KernelTable kAvx512VnniKernels = {"avx512vnni",      f32_kernel<64, 14, 2>("avx512-f32-14x32"),
                                        nullptr,           &kInt8Avx512,
                                        Rows<64>::table(), fast_weight_reader};

}  // namespace cpuft
