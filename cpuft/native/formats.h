// Weight formats: any ggml type to float32 and back, through ggml's own type traits.
#pragma once

#include <cstdint>

#include "ggml.h"
#include "kernels/kernels.h"

namespace cpuft {

// Whether values of this type can be read (all of ggml's weight types; not its integer and activation types).
bool is_weight_type(ggml_type type);

// What turns rows of a type into float32: the CPU's own reader where its table has one, else ggml's.
WeightReader weight_reader(const KernelTable& kernels, ggml_type type);

// What turns rows of a type straight into the bytes of this kernel, or null where they go through float32.
const Int8Reader* int8_reader(const GemmKernel& kernel, ggml_type type);

// Row elements [first, first + n) to float32, by ggml's reader or by one from weight_reader. `row` is where the row
// starts; first and n are multiples of the block size.
void dequantize_segment(ggml_type type, const void* row, int64_t first, int64_t n, float* out);
void dequantize_segment(WeightReader reader, ggml_type type, const void* row, int64_t first, int64_t n, float* out);

// rows x cols values. Throw InputError where type, shape and byte size do not fit together.
void dequantize(int type, const void* source, int64_t source_bytes, int64_t rows, int64_t cols, float* target,
                int n_threads);
void quantize(int type, const float* source, int64_t rows, int64_t cols, const float* importance, void* target,
              int64_t target_bytes, int n_threads);

}  // namespace cpuft
