#include "stored_rows.h"
#include "ablation.h"

#include <algorithm>

namespace cpuft {

namespace {

constexpr int64_t kFloat = sizeof(float), kBf16 = sizeof(uint16_t);

int64_t scale_bytes(int64_t n) { return ceil_div(n, kByteBlock) * kFloat; }

int64_t bytes_of_row(Storage storage, int64_t n) {
    switch (storage) {
        case Storage::kF32:
            return n * kFloat;
        case Storage::kBf16:
            return n * kBf16;
        case Storage::kBytes:
            return scale_bytes(n) + ceil_div(n, kFloat) * kFloat;
    }
    return 0;
}

}  // namespace

const float* round_row(const RowKernels& rows, Storage storage, const float* x, int64_t n, float* values) {
    if (knob("late")) return x;
    switch (storage) {
        case Storage::kF32:
            return x;
        case Storage::kBf16:
            rows.round_to_bf16(x, values, n);
            break;
        case Storage::kBytes:
            rows.round_to_bytes(x, values, n);
            break;
    }
    return values;
}

const float* round_rows(Compute& compute, Storage storage, const float* x, int64_t T, int64_t n, float* values) {
    if (storage == Storage::kF32 || knob("late")) return x;
    const Stopwatch::Lap lap(compute.stopwatch, Part::kStorage);
    compute.for_rows(T, [&](int64_t t, int) { round_row(compute.kernels.rows, storage, x + t * n, n, values + t * n); });
    return values;
}

int64_t StoredRows::bytes(Storage storage, int64_t T, int64_t n) { return T * bytes_of_row(storage, n); }

void StoredRows::reserve(Storage storage, int64_t T, int64_t n) {
    storage_ = storage;
    T_ = T;
    n_ = n;
    row_bytes_ = bytes_of_row(storage, n);
    data_.reserve(bytes(storage, T, n));
}

void StoredRows::set_row(const RowKernels& rows, int64_t t, const float* x) {
    switch (storage_) {
        case Storage::kF32:
            std::copy_n(x, n_, reinterpret_cast<float*>(at(t)));
            break;
        case Storage::kBf16:
            rows.narrow(x, reinterpret_cast<uint16_t*>(at(t)), n_);
            break;
        case Storage::kBytes:
            rows.to_bytes(x, reinterpret_cast<int8_t*>(at(t) + scale_bytes(n_)), reinterpret_cast<float*>(at(t)), n_);
            break;
    }
}

void StoredRows::store(Compute& compute, Storage storage, const float* x, int64_t T, int64_t n) {
    const Stopwatch::Lap lap(compute.stopwatch, Part::kStorage);
    reserve(storage, T, n);
    compute.for_rows(T, [&](int64_t t, int) { set_row(compute.kernels.rows, t, x + t * n); });
}

void StoredRows::load(Compute& compute, float* x) const {
    const Stopwatch::Lap lap(compute.stopwatch, Part::kStorage);
    compute.for_rows(T_, [&](int64_t t, int) {
        float* target = x + t * n_;
        const float* values = row(compute.kernels.rows, t, target);
        if (values != target) std::copy_n(values, n_, target);
    });
}

const float* StoredRows::row(const RowKernels& rows, int64_t t, float* values) const {
    switch (storage_) {
        case Storage::kF32:
            return reinterpret_cast<const float*>(at(t));
        case Storage::kBf16:
            rows.widen(reinterpret_cast<const uint16_t*>(at(t)), values, n_);
            break;
        case Storage::kBytes:
            rows.from_bytes(reinterpret_cast<const int8_t*>(at(t) + scale_bytes(n_)),
                            reinterpret_cast<const float*>(at(t)), values, n_);
            break;
    }
    return values;
}

}  // namespace cpuft
