// The slow twin of the int8 kernels, part of the reference table.
#pragma once

#include "kernels.h"

namespace cpuft {

extern const GemmKernel kReferenceInt8;

}  // namespace cpuft
