// Stopwatch: where the wall time of the thread that calls the engine goes, by part of a step. Times are exclusive: while a
// part inside another one runs, the outer one's time stands still, so that all parts together make the time of the calls.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iterator>

namespace cpuft {

enum class Part : size_t {
    // With base weights, the packing of their rows included; with the adapter's terms that are added in the same product.
    kBaseProducts,
    kAdapterProducts,     // all other products of the adapter, those of its gradients among them
    kAdapterElementwise,  // the adapter's scale, its dropout, and what is added to its gradients or to dx by element
    kHeadProducts,        // with the head's weights, the packing of their rows included
    kCrossEntropy,        // softmax, losses, and the softmax's sum in the gradient
    kAttention,
    kRmsnorm,
    kRope,
    kGatedMlp,
    kStorage,    // rounding activations for the backward pass, and reading them back
    kOptimizer,  // the gradient's norm, AdamW, zeroing
    kOther,      // what no part above claims of a call
    kCount,
};
constexpr size_t kParts = static_cast<size_t>(Part::kCount);

// By Part; cpuft_profile gives these names.
constexpr const char* kPartNames[] = {"base_products",
                                      "adapter_products",
                                      "adapter_elementwise",
                                      "head_products",
                                      "cross_entropy",
                                      "attention",
                                      "rmsnorm",
                                      "rope",
                                      "gated_mlp",
                                      "storage",
                                      "optimizer",
                                      "other"};
static_assert(std::size(kPartNames) == kParts);

class Stopwatch {
  public:
    using Nanoseconds = std::array<int64_t, kParts>;

    // The time from here to the end of the scope belongs to a part. It costs two reads of the clock, so laps stand around
    // whole layers and blocks of columns, never around rows.
    class Lap {
      public:
        Lap(Stopwatch& stopwatch, Part part) : stopwatch_(stopwatch), outer_(stopwatch.current_) {
            stopwatch_.turn_to(part);
        }
        ~Lap() { stopwatch_.turn_to(outer_); }
        Lap(const Lap&) = delete;
        Lap& operator=(const Lap&) = delete;

        // From here on it belongs to another part.
        void next(Part part) { stopwatch_.turn_to(part); }

      private:
        Stopwatch& stopwatch_;
        const Part outer_;
    };

    // The time of each part since the last call. No lap may be running.
    Nanoseconds take() {
        const Nanoseconds taken = elapsed_;
        elapsed_.fill(0);
        return taken;
    }

  private:
    using Clock = std::chrono::steady_clock;
    static constexpr Part kNone = Part::kCount;

    void turn_to(Part part) {
        const Clock::time_point now = Clock::now();
        if (current_ != kNone) {
            elapsed_[static_cast<size_t>(current_)] +=
                std::chrono::duration_cast<std::chrono::nanoseconds>(now - since_).count();
        }
        current_ = part;
        since_ = now;
    }

    Nanoseconds elapsed_{};
    Part current_ = kNone;
    Clock::time_point since_;  // when current_ began to run
};

}  // namespace cpuft
