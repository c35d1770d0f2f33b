// int8 products over vector types: packing and the register tile. A file such as avx512vnni.cpp includes this header under
// its own compiler flags and instantiates it with its dot product. The formats are described at GemmKernel.
//
// Internal linkage throughout, for the reason given in simd.h.
#pragma once

#include <utility>

#include "int8_format.h"
#include "rows.h"
#include "weights_int8.h"

namespace cpuft {
namespace {

// Dot: the instructions. Its `Int` is a register of kBytes / 4 int32; dot(sum, b, a) adds to each of them the products of
// the four unsigned bytes of b and the four signed bytes of a in its place; store_low_bytes(out, x) writes the low byte of
// each value of x; load_low_bytes(p) has bytes of p there, and zeros above them.
template <class Dot, int kMr, int kVectors>
struct Int8 {
    static constexpr int kBytes = Dot::kBytes;
    using S = Simd<kBytes>;
    using Float = typename S::Float;
    using Uint = typename S::Uint;
    using Int = typename Dot::Int;
    static constexpr int kWidth = S::kWidth;
    static constexpr int kNr = kVectors * kWidth;
    static constexpr int kSteps = kBlockDepth / 4;  // dwords of four values along k in a whole block
    static constexpr int kAHeader = 16, kBHeader = 4;

    // out = round(x * inverse) as signed bytes; bytes past n up to a multiple of 4 are zero.
    static void quantize(const float* x, float inverse, int64_t n, int8_t* out) {
        int64_t i = 0;
        for (; i + kWidth <= n; i += kWidth) Dot::store_low_bytes(out + i, rounded(S::load(x + i), S::set(inverse)));
        for (; i < n; ++i) out[i] = int8_value(x[i], inverse);
        for (; i % 4 != 0; ++i) out[i] = 0;
    }

    // The integers nearest to x * inverse, in the low byte of each value.
    static Uint rounded(Float x, Float inverse) {
        const Float sum = x * inverse + kRoundMagic;
        Uint bits;
        std::memcpy(&bits, &sum, sizeof bits);
        return bits;
    }

    // [kRows][kBlockDepth] bytes to [steps][kRows] dwords, with `flip` exclusive-ored in.
    template <int kRows>
    static void interleave(const int8_t (&rows)[kRows][kBlockDepth], int64_t steps, uint32_t flip, char* out) {
        constexpr bool kWhole = kRows % kWidth == 0;
        static_assert(kWhole || kRows < kWidth);
        int64_t done = 0;
        for (; done + kWidth <= steps; done += kWidth) {
#pragma GCC unroll 2
            for (int first = 0; first < kRows; first += kWidth) {
                Uint square[kWidth] = {};
#pragma GCC unroll 16
                for (int i = 0; i < (kWhole ? kWidth : kRows); ++i) {
                    std::memcpy(&square[i], rows[first + i] + 4 * done, kBytes);
                    square[i] ^= flip;
                }
                transpose<kBytes>(square);
                char* target = out + 4 * (done * kRows + first);
                if constexpr (kWhole) {
#pragma GCC unroll 16
                    for (int i = 0; i < kWidth; ++i) std::memcpy(target + 4 * i * kRows, &square[i], kBytes);
                } else {
                    store_columns<kBytes>(square, kRows, target);
                }
            }
        }
        for (; done < steps; ++done) {
            for (int i = 0; i < kRows; ++i) {
                uint32_t dword;
                std::memcpy(&dword, rows[i] + 4 * done, 4);
                dword ^= flip;
                std::memcpy(out + 4 * (done * kRows + i), &dword, 4);
            }
        }
    }

    static int32_t sum_of_bytes(const int8_t* bytes, int64_t n) {
        Uint ones = Uint{} + 0x01010101u;
        Int sums = {};
        int64_t i = 0;
        for (; i + kBytes <= n; i += kBytes) {
            Int values;
            std::memcpy(&values, bytes + i, kBytes);
            sums = Dot::dot(sums, (Int)ones, values);
        }
        int32_t sum = 0;
        for (int lane = 0; lane < kWidth; ++lane) sum += sums[lane];
        for (; i < n; ++i) sum += bytes[i];
        return sum;
    }

    // Which of x[0, n) is kept apart; x has zeros behind n, up to whole registers.
    static int32_t place_of_largest(const float* x, int64_t n) {
        Uint largest = {}, tail;  // tail: 255 - p
        for (int lane = 0; lane < kWidth; ++lane) tail[lane] = 255u - static_cast<uint32_t>(lane);
        for (int64_t p = 0; p < n; p += kWidth, tail -= static_cast<uint32_t>(kWidth)) {
            Uint key;
            std::memcpy(&key, x + p, sizeof key);
            key = (key & 0x7FFFFF00u) | tail;
            largest = key > largest ? key : largest;
        }
        uint32_t most = 0;
        for (int lane = 0; lane < kWidth; ++lane) most = largest[lane] > most ? largest[lane] : most;
        return 255 - static_cast<int32_t>(most & 255u);
    }

    static void pack_a(const float* source, int64_t row_stride, int64_t column_stride, const float* depth_scale, int m,
                       int64_t k, void* panel) {
        char* out = static_cast<char*>(panel);
        for (int64_t k0 = 0; k0 < k; k0 += kBlockDepth) {
            const int64_t depth = k - k0 < kBlockDepth ? k - k0 : kBlockDepth, steps = (depth + 3) / 4;
            float scales[kMr] = {};
            int32_t corrections[kMr] = {};
            float aparts[kMr] = {};
            int32_t places[kMr] = {};
            int8_t rows[kMr][kBlockDepth];
            for (int i = 0; i < m; ++i) {
                const float* from = source + i * row_stride + k0 * column_stride;
                float x[kBlockDepth];
                for (int64_t p = 0; p < depth; ++p) x[p] = from[p * column_stride];
                if (depth_scale != nullptr)
                    for (int64_t p = 0; p < depth; ++p) x[p] *= depth_scale[k0 + p];
                for (int64_t p = depth; p % kWidth != 0; ++p) x[p] = 0.0f;
                places[i] = place_of_largest(x, depth);
                aparts[i] = std::exchange(x[places[i]], 0.0f);
                scales[i] = int8_scale(Rows<kBytes>::largest_magnitude(x, depth));
                quantize(x, int8_inverse(scales[i]), depth, rows[i]);
                corrections[i] = -128 * sum_of_bytes(rows[i], depth);
            }
            for (int i = m; i < kMr; ++i) std::memset(rows[i], 0, sizeof rows[i]);
            std::memcpy(out, scales, sizeof scales);
            std::memcpy(out + sizeof scales, corrections, sizeof corrections);
            std::memcpy(out + 2 * sizeof scales, aparts, sizeof aparts);
            std::memcpy(out + 3 * sizeof scales, places, sizeof places);
            out += kAHeader * kMr;
            interleave(rows, steps, 0, out);
            out += 4 * steps * kMr;
        }
    }

    // Four rows of values below 256 to one row of dwords, unsigned.
    static void store_dwords(const Uint (&q)[4], char* out) {
        const Uint dwords = (q[0] | q[1] << 8 | q[2] << 16 | q[3] << 24) ^ 0x80808080u;
        std::memcpy(out, &dwords, kBytes);
    }

    static void pack_b(const float* source, int64_t stride, const float* row_scale, int64_t k0, int64_t k, int n,
                       void* block) {
        float* scales = static_cast<float*>(block);
        if (k0 == 0) {
            for (int j = 0; j < kNr; ++j) scales[j] = 1.0f;
        }
        char* out = static_cast<char*>(block) + kBHeader * kNr + k0 * kNr;
        const float none[kNr] = {};
        for (int64_t p = 0; p < k; p += 4, out += 4 * kNr) {
            const float* rows[4];
            float inverses[4] = {};
            for (int r = 0; r < 4; ++r) {
                rows[r] = p + r < k ? source + (p + r) * stride : none;
                if (p + r < k) inverses[r] = int8_inverse(row_scale[p + r]);
            }
            float edge[4][kNr] = {};
            if (n < kNr) {
                for (int r = 0; r < 4; ++r) {
                    for (int j = 0; j < n; ++j) edge[r][j] = rows[r][j];
                    rows[r] = edge[r];
                }
            }
            for (int j = 0; j < kNr; j += kWidth) {
                Uint q[4];
                for (int r = 0; r < 4; ++r) q[r] = rounded(S::load(rows[r] + j), S::set(inverses[r])) & 255u;
                store_dwords(q, out + 4 * j);
            }
        }
    }

    static void pack_b_transposed(const float* source, int64_t stride, int64_t k, int n, void* block) {
        float* scales = static_cast<float*>(block);
        int8_t rows[kNr][kBlockDepth];
        for (int j = 0; j < n; ++j) {
            scales[j] = int8_scale(Rows<kBytes>::largest_magnitude(source + j * stride, k));
            quantize(source + j * stride, int8_inverse(scales[j]), k, rows[j]);
        }
        for (int j = n; j < kNr; ++j) {
            scales[j] = 0.0f;
            std::memset(rows[j], 0, sizeof rows[j]);
        }
        interleave(rows, (k + 3) / 4, 0x80808080u, static_cast<char*>(block) + kBHeader * kNr);
    }

    // Four rows at a time, whole: a format's block may span all columns of the panel.
    static void fill_plain(const Int8Reader& reader, const void* source, int64_t row_bytes, const float* row_scale,
                           int64_t k, int64_t n, const BlockRow& blocks) {
        static_assert(32 % kNr == 0);
        const char* from = static_cast<const char*>(source);
        for (int64_t j = 0; j < n; ++j) {
            const float one = 1.0f;
            std::memcpy(blocks.at(j / kNr) + j % kNr * kBHeader, &one, sizeof one);
        }
        for (int64_t p = 0; p < k; p += 4) {
            int8_t rows[4][kBlockDepth];
            for (int64_t r = 0; r < 4; ++r) {
                if (p + r < k) {
                    reader.read(from + (p + r) * row_bytes, int8_inverse(row_scale[p + r]), rows[r], n);
                } else {
                    std::memset(rows[r], 0, sizeof rows[r]);
                }
            }
            for (int64_t j0 = 0; j0 < n; j0 += kNr) {
                char* out = blocks.at(j0 / kNr) + kNr * (kBHeader + p);
                for (int j = 0; j < kNr; j += kWidth) {
                    Uint q[4];
                    for (int r = 0; r < 4; ++r) q[r] = Dot::load_low_bytes(rows[r] + j0 + j);
                    store_dwords(q, out + 4 * j);
                }
            }
        }
    }

    static void fill_transposed(const Int8Reader& reader, const void* source, int64_t row_bytes, int64_t k, int64_t n,
                                const BlockRow& blocks) {
        const char* from = static_cast<const char*>(source);
        for (int64_t j0 = 0; j0 < n; j0 += kNr) {
            char* block = blocks.at(j0 / kNr);
            float scales[kNr] = {};
            int8_t rows[kNr][kBlockDepth];
            for (int64_t j = 0; j < kNr; ++j) {
                if (j0 + j < n) {
                    const char* row = from + (j0 + j) * row_bytes;
                    scales[j] = int8_scale(reader.bound(row, k));
                    reader.read(row, int8_inverse(scales[j]), rows[j], k);
                } else {
                    std::memset(rows[j], 0, sizeof rows[j]);
                }
            }
            std::memcpy(block, scales, sizeof scales);
            interleave(rows, k / 4, 0x80808080u, block + sizeof scales);
        }
    }

    // A block's sums of int32 stay in registers, then each is scaled and added to those of the blocks before: in the L1
    // cache, so that C is touched once.
    static void tile(int64_t k, const void* a, const void* b, float* c, int64_t c_stride, int m, int n,
                     bool accumulate) {
        Float result[kMr][kVectors] = {};
        for (; k > 0; k -= kBlockDepth) {
            const int64_t depth = k < kBlockDepth ? k : kBlockDepth;
            // C is read after the last block: by then it has come from the cache behind.
            for (int i = 0; accumulate && depth == k && i < m; ++i) {
                __builtin_prefetch(c + i * c_stride, 1);
                __builtin_prefetch(c + i * c_stride + kWidth, 1);
            }
            add_block(depth, a, b, result);
            a = static_cast<const char*>(a) + kMr * (kAHeader + depth);
            b = static_cast<const char*>(b) + kNr * (kBHeader + depth);
        }
        store_tile<kBytes, kMr, kVectors>(result, c, c_stride, m, n, accumulate);
    }

    [[gnu::always_inline]] static void add_block(int64_t k, const void* a, const void* b,
                                                 Float (&result)[kMr][kVectors]) {
        const float* a_scales = static_cast<const float*>(a);
        const int32_t* corrections = reinterpret_cast<const int32_t*>(a_scales + kMr);
        const float* aparts = a_scales + 2 * kMr;
        const int32_t* places = corrections + 2 * kMr;
        const int32_t* pa = places + kMr;
        const float* b_scales = static_cast<const float*>(b);
        const int32_t *b_bytes = reinterpret_cast<const int32_t*>(b_scales + kNr), *pb = b_bytes;
        Int sums[kMr][kVectors];
#pragma GCC unroll 16
        for (int i = 0; i < kMr; ++i) {
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v) sums[i][v] = corrections[i] - Int{};
        }
        for (int64_t step = (k + 3) / 4; step > 0; --step, pa += kMr, pb += kNr) {
            Int columns[kVectors];
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v) std::memcpy(&columns[v], pb + v * kWidth, kBytes);
#pragma GCC unroll 16
            for (int i = 0; i < kMr; ++i) {
                const Int row = pa[i] - Int{};
#pragma GCC unroll 4
                for (int v = 0; v < kVectors; ++v) sums[i][v] = Dot::dot(sums[i][v], columns[v], row);
            }
        }
#pragma GCC unroll 16
        for (int i = 0; i < kMr; ++i) {
            const int32_t* weights_apart = b_bytes + places[i] / 4 * kNr;  // that meet the value apart
            const int shift = 8 * (places[i] % 4);
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v) {
                Uint dwords;
                std::memcpy(&dwords, weights_apart + v * kWidth, kBytes);
                const Float weights = __builtin_convertvector((Int)(dwords >> shift & 255u), Float) - 128.0f;
                const Float sum = __builtin_convertvector(sums[i][v], Float) * a_scales[i] + aparts[i] * weights;
                result[i][v] += sum * S::load(b_scales + v * kWidth);
            }
        }
    }

    static constexpr DirectInt8 kDirect = {int8_reader, fill_plain, fill_transposed};

    static constexpr GemmKernel kernel(const char* name) {
        return {name, kMr, kNr, 4, 1, kAHeader, kBHeader, pack_a, pack_b, pack_b_transposed, tile, &kDirect};
    }
};

}  // namespace
}  // namespace cpuft
