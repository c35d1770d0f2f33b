// PassMemory: the arrays that passes work with, array by array, before they are there. One function lists them with their
// sizes (Transformer::visit_arrays in pass_memory.cpp), and both what is predicted and what is reserved come from it.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace cpuft {

// What decides how much memory and time a pass takes.
struct PassSize {
    int64_t T = 0;          // tokens that it computes
    int64_t n_targets = 0;  // of these, how many predict a supervised one: what the head sees
    int64_t n_pairs = 0;    // pairs of a query and a key that it sees
    bool training = false;  // with a backward pass
    bool dropout = false;
};

enum class MemoryPart : size_t {
    kActivations,  // kept from the forward to the backward pass
    kWorkspace,    // what one layer at a time works on, or the head
    kThreads,      // scratch memory of the threads
    kCount,
};
constexpr const char* kMemoryPartNames[] = {"activations", "workspace", "threads"};
using MemoryParts = std::array<int64_t, static_cast<size_t>(MemoryPart::kCount)>;  // bytes

// As many elements of each array as the pass needs most that was counted in.
class PassMemory {
  public:
    void count(size_t index, MemoryPart part, size_t element_bytes, int64_t n) {
        if (index == arrays_.size()) arrays_.push_back({part, element_bytes, 0});
        arrays_[index].n = std::max(arrays_[index].n, n);
    }
    int64_t n(size_t index) const { return index < arrays_.size() ? arrays_[index].n : 0; }
    MemoryParts bytes() const {
        MemoryParts parts{};
        for (const Array& array : arrays_)
            parts[static_cast<size_t>(array.part)] += array.n * static_cast<int64_t>(array.element_bytes);
        return parts;
    }

  private:
    struct Array {
        MemoryPart part;
        size_t element_bytes;
        int64_t n;
    };
    std::vector<Array> arrays_;
};

}  // namespace cpuft
