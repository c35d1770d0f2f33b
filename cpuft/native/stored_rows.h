// StoredRows: an array [T, n] on its way from the forward to the backward pass, kept in less memory than it was made in.
#pragma once

#include <cstdint>

#include "buffer.h"
#include "compute.h"

namespace cpuft {

// What is kept rounded is rounded before the forward pass goes on with it (round_rows), so that the backward pass
// differentiates what was computed.
enum class Storage {
    kF32,    // as it is
    k24,     // rounded to 24 bits, a step of 2^-16 of a value
    kBf16,   // rounded to bfloat16, a step of 2^-8
    kBytes,  // rounded to bytes, with a scale for each kByteBlock values of a row
};

// A row as it comes back from storage: x itself where that rounds nothing, else `values`; both [n], or the same array.
const float* round_row(const RowKernels& rows, Storage storage, const float* x, int64_t n, float* values);
// The same for x: [T, n].
const float* round_rows(Compute& compute, Storage storage, const float* x, int64_t T, int64_t n, float* values);

class StoredRows {
  public:
    // x: [T, n], rounded already or not.
    void store(Compute& compute, Storage storage, const float* x, int64_t T, int64_t n);
    // The same in pieces: room for T rows, then each of them, by any thread; x: [n].
    void reserve(Storage storage, int64_t T, int64_t n);
    void set_row(const RowKernels& rows, int64_t t, const float* x);
    // x: [T, n] out
    void load(Compute& compute, float* x) const;
    // Row t, in float32: [n], in `values` unless it lies here so.
    const float* row(const RowKernels& rows, int64_t t, float* values) const;

    // The memory that [T, n] takes, and where it lies.
    static int64_t bytes(Storage storage, int64_t T, int64_t n);
    Buffer<char>& memory() { return data_; }

    int64_t T() const { return T_; }
    int64_t n() const { return n_; }

  private:
    const char* at(int64_t t) const { return data_.data() + t * row_bytes_; }
    char* at(int64_t t) { return data_.data() + t * row_bytes_; }

    Storage storage_ = Storage::kF32;
    int64_t T_ = 0, n_ = 0;
    int64_t row_bytes_ =
        0;  // k24: [n] high halves, [n] low bytes; kBytes: [scales] [n]; both rounded up to whole floats
    Buffer<char> data_;
};

}  // namespace cpuft
