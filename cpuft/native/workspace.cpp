#include "workspace.h"

#include <algorithm>

namespace cpuft {

namespace {

// Arrays begin at cache lines.
int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

}  // namespace

void Workspace::reserve(const Dimensions& d, int64_t T, int64_t n_targets, int64_t head_bytes) {
    const int64_t stream = padded(T * d.C), wide = padded(T * d.F);
    const int64_t heads = padded(T * d.H * d.D), kv_heads = padded(T * d.K * d.D);
    const int64_t of_layer = 2 * stream + std::max(3 * wide, 4 * heads + 4 * kv_heads);
    const int64_t of_head = padded(n_targets * d.C);
    constexpr int64_t kFloat = sizeof(float);
    float* next = block_.reserve(std::max(of_layer, of_head + (head_bytes + kFloat - 1) / kFloat));

    head_h = next;
    head_room = reinterpret_cast<char*>(next + of_head);
    h = next;
    dh = next += stream;
    gate = next += stream;
    up = gate + wide;
    m = up + wide;
    q = next;
    for (float** array : {&o, &dq, &d_o, &k}) *array = next += heads;
    for (float** array : {&v, &dk, &dv}) *array = next += kv_heads;
}

}  // namespace cpuft
