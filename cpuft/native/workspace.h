// Workspace: the float32 arrays that one layer at a time works on, and the head when no layer does. Arrays that are never
// alive together lie in the same place.
#pragma once

#include <cstdint>

#include "buffer.h"
#include "model.h"

namespace cpuft {

class Workspace {
  public:
    // Makes room for a pass of T tokens, n_targets of which predict a target: none where the head does not run.
    void reserve(const Dimensions& dims, int64_t T, int64_t n_targets, int64_t head_bytes);
    // How many floats that is, and where they lie.
    static int64_t floats(const Dimensions& dims, int64_t T, int64_t n_targets, int64_t head_bytes);
    Buffer<float>& memory() { return block_; }

    // A layer's.
    float *h, *dh;  // [T, C]
    // Its MLP's: gate, then m in its place, and up; backward dm, then dgate in its place, dup and m.
    float *gate, *up, *m;  // [T, F]
    // Its attention's, where the MLP's were.
    float *q, *o, *dq, *d_o;  // [T, H, D]
    float *k, *v, *dk, *dv;   // [T, K, D]

    // The head's, where the layers' were.
    float* head_h;    // [n_targets, C]: the normed residual stream, then its gradient
    char* head_room;  // head_bytes

  private:
    Buffer<float> block_;
};

}  // namespace cpuft
