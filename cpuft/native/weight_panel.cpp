#include "weight_panel.h"
#include "ablation.h"

#include <algorithm>

#include "formats.h"

namespace cpuft {

namespace {

// Rows of W that are dequantized at a time for A W: 32 x 256 floats are 32 KiB.
constexpr int64_t kStrip = 32;
// Added to the row stride of dequantized weights: rows a power of two apart would share a few sets of the L1 cache.
constexpr int64_t kStridePadding = 16;

static_assert(kColumnsPlain <= kBlockDepth, "DirectInt8::fill_plain takes no wider panels");

const char* segment_of(const Matrix& w, int64_t row, int64_t first) {
    return static_cast<const char*>(w.row(row)) + ggml_row_size(w.type, first);
}

int64_t row_bytes(const Matrix& w) { return static_cast<int64_t>(ggml_row_size(w.type, w.cols)); }

}  // namespace

int64_t scratch_values(const GemmKernel& kernel) {
    return std::max(kernel.nr * (kBlockDepth + kStridePadding), kStrip * kColumnsPlain);
}

void fill_transposed(const GemmKernel& kernel, const Matrix& w, WeightReader reader, int64_t n0, int64_t n, int64_t k0,
                     int64_t k, Compute::Scratch& scratch, const BlockRow& blocks) {
    if (const Int8Reader* direct = int8_reader(kernel, w.type)) {
        kernel.direct->fill_transposed(*direct, segment_of(w, n0, k0), row_bytes(w), k, n, blocks);
        return;
    }
    for (int64_t j0 = 0; j0 < n; j0 += kernel.nr) {
        const int columns = static_cast<int>(std::min<int64_t>(kernel.nr, n - j0));
        if (w.type == GGML_TYPE_F32) {
            kernel.pack_b_transposed(static_cast<const float*>(w.data) + (n0 + j0) * w.cols + k0, w.cols, k, columns,
                                     blocks.at(j0 / kernel.nr));
            continue;
        }
        const int64_t stride = kBlockDepth + kStridePadding;
        float* values = scratch.values.reserve(kernel.nr * stride);
        for (int j = 0; j < columns; ++j)
            dequantize_segment(reader, w.type, w.row(n0 + j0 + j), k0, k, values + j * stride);
        if (knob("wx") > 0) for (int j = 0; j < columns; ++j) fake(values + j * stride, k, static_cast<int64_t>(knob("wx")));
        kernel.pack_b_transposed(values, stride, k, columns, blocks.at(j0 / kernel.nr));
    }
}

void fill_plain(const GemmKernel& kernel, const Matrix& w, WeightReader reader, int64_t n0, int64_t n, int64_t k0,
                int64_t k, Compute::Scratch& scratch, const BlockRow& blocks) {
    if (const Int8Reader* direct = int8_reader(kernel, w.type)) {
        kernel.direct->fill_plain(*direct, segment_of(w, k0, n0), row_bytes(w), w.row_scale + k0, k, n, blocks);
        return;
    }
    for (int64_t p0 = 0; p0 < k; p0 += kStrip) {
        const int64_t depth = std::min(kStrip, k - p0);
        const float* strip;
        int64_t stride;
        if (w.type == GGML_TYPE_F32) {
            strip = static_cast<const float*>(w.data) + (k0 + p0) * w.cols + n0;
            stride = w.cols;
        } else {
            stride = kColumnsPlain;
            float* values = scratch.values.reserve(kStrip * stride);
            for (int64_t p = 0; p < depth; ++p)
                dequantize_segment(reader, w.type, w.row(k0 + p0 + p), n0, n, values + p * stride);
            if (knob("wy") > 0 && w.row_scale != nullptr)
                for (int64_t p = 0; p < depth; ++p) {
                    const float scale = w.row_scale[k0 + p0 + p], inverse = 1.0f / scale;
                    for (int64_t j = 0; j < n; ++j) values[p * stride + j] = scale * std::nearbyint(values[p * stride + j] * inverse);
                }
            strip = values;
        }
        const float* row_scale = w.row_scale == nullptr ? nullptr : w.row_scale + k0 + p0;
        for (int64_t j0 = 0; j0 < n; j0 += kernel.nr) {
            const int columns = static_cast<int>(std::min<int64_t>(kernel.nr, n - j0));
            kernel.pack_b(strip + j0, stride, row_scale, p0, depth, columns, blocks.at(j0 / kernel.nr));
        }
    }
}

}  // namespace cpuft
