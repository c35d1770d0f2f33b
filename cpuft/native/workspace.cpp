#include "workspace.h"

#include <algorithm>

namespace cpuft {

namespace {

// Arrays begin at cache lines.
int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

// Floats of each array.
struct Sizes {
    Sizes(const Dimensions& d, int64_t T, int64_t n_targets)
        : stream(padded(T * d.C)),
          wide(padded(T * d.F)),
          heads(padded(T * d.H * d.D)),
          kv_heads(padded(T * d.K * d.D)),
          head_h(padded(n_targets * d.C)) {}

    int64_t stream, wide, heads, kv_heads, head_h;
};

}  // namespace

int64_t Workspace::floats(const Dimensions& d, int64_t T, int64_t n_targets, int64_t head_bytes) {
    const Sizes n(d, T, n_targets);
    const int64_t of_layer = 2 * n.stream + std::max(3 * n.wide, 4 * n.heads + 4 * n.kv_heads);
    return std::max(of_layer, n.head_h + ceil_div(head_bytes, sizeof(float)));
}

void Workspace::reserve(const Dimensions& d, int64_t T, int64_t n_targets, int64_t head_bytes) {
    const auto [stream, wide, heads, kv_heads, of_head] = Sizes(d, T, n_targets);
    float* next = block_.reserve(floats(d, T, n_targets, head_bytes));

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
