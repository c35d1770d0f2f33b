// Layout: how the sequences of a micro-batch lie in a pass. Work that no supervised token needs is left out here:
//
//   - A sequence ends before its last supervised token: nothing is predicted from that token on. One without supervised
//     tokens is left out whole.
//   - Sequences that begin alike, with a system prompt for instance, share one copy of that prefix. Its values depend on
//     nothing that follows it, and its gradient is the sum over all sequences that share it.
//
// Prefixes are shared in whole blocks of attention (kAttentionBlock tokens), so that each sequence meets its keys in the same
// blocks, and has the same bytes, as it would alone.
#pragma once

#include <cstdint>
#include <vector>

#include "layers/attention.h"

namespace cpuft {

constexpr int64_t kMostTokens = 1 << 24;  // of a micro-batch

// One micro-batch: sequences end to end, without padding. See cpuft_forward_backward.
struct MicroBatch {
    const int32_t* tokens;      // [n_tokens]
    const uint8_t* supervised;  // [n_tokens] or null: the layout keeps every token and has no targets
    const int64_t* lengths;     // [n_sequences]
    int64_t n_sequences;
    const uint64_t* dropout_keys;  // [n_sequences] or null
    const float* frozen;           // [n_tokens, C], the residual stream before the adapter's first layer, or null
};

class Layout {
  public:
    // Throws InputError for impossible lengths, and for tokens outside a vocabulary of V. T may come out as 0.
    // n_short: RopeFacts::n_short.
    void set(const MicroBatch& batch, int64_t V, bool share_prefixes, int64_t n_short = INT64_MAX);

    int64_t T() const { return static_cast<int64_t>(source.size()); }
    // Above all positions.
    int64_t end_position() const { return end_position_; }

    Sequences sequences;
    std::vector<int64_t> source;  // [T] which of the micro-batch's tokens this is
    // [T] in the sequence; plus n_short in one that is longer than that: RopeTable's rows.
    std::vector<int32_t> positions;
    std::vector<uint64_t> dropout_rows;  // [T] what selects each token's dropout masks, or empty
    std::vector<int64_t> predicting;  // [n_supervised] tokens of the pass whose successor is supervised, ascending ...
    std::vector<int32_t> targets;     // [n_supervised] ... and that successor
    std::vector<uint64_t> predicting_dropout_rows;  // [n_supervised] dropout_rows of these, or empty

  private:
    // A sequence of the micro-batch, cut to what is needed.
    struct Span {
        int64_t first, length;     // in the micro-batch
        int64_t first_supervised;  // place in the sequence of its first supervised token, where there are targets
        uint64_t dropout_key;
        int64_t first_position;  // 0 or n_short
    };
    void list_spans(const MicroBatch& batch, int64_t V, int64_t n_short);
    void add_segment(const MicroBatch& batch, const Span& span, int64_t begin, int64_t end, int64_t prefix);

    int64_t end_position_ = 0;
    // Of `set`, kept so that a pass no larger than those before allocates nothing.
    std::vector<Span> spans_;
    std::vector<bool> placed_;
    std::vector<size_t> group_;
};

}  // namespace cpuft
