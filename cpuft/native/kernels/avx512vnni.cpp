// AVX-512-VNNI: vpdpbusd multiplies 64 pairs of bytes and adds them, four by four, into 16 int32 sums. The tile is that of
// avx512.cpp.
#include "int8_avx512.h"
#include "weights.h"

namespace cpuft {

namespace {

constexpr GemmKernel kInt8 = Int8<DotAvx512, 14, 2>::kernel("avx512vnni-int8-14x32");

}  // namespace

const KernelTable kAvx512VnniKernels = {
    "avx512vnni", f32_kernel<64, 14, 2>("avx512-f32-14x32"), nullptr, &kInt8, Rows<64>::table(), fast_weight_reader};

}  // namespace cpuft
