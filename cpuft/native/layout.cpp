#include "layout.h"

#include <algorithm>

#include "error.h"
#include "random.h"

namespace cpuft {

namespace {

int64_t common_prefix(const int32_t* a, const int32_t* b, int64_t most) {
    return std::mismatch(a, a + most, b).first - a;
}

}  // namespace

// Checks the micro-batch; lists its sequences, or of those with targets what they need.
void Layout::list_spans(const MicroBatch& batch, int64_t V, int64_t n_short) {
    spans_.clear();
    if (batch.n_sequences < 1) refuse("a micro-batch needs at least one sequence");
    int64_t first = 0;
    for (int64_t s = 0; s < batch.n_sequences; ++s) {
        const int64_t length = batch.lengths[s];
        if (length < 1 || length > kMostTokens - first) {
            refuse("sequence %lld has length %lld; a micro-batch holds 1 to %lld tokens", (long long)s,
                   (long long)length, (long long)kMostTokens);
        }
        for (int64_t t = first; t < first + length; ++t) {
            if (batch.tokens[t] < 0 || batch.tokens[t] >= V) {
                refuse("token %d at position %lld is out of range; the vocabulary has %lld", batch.tokens[t],
                       (long long)t, (long long)V);
            }
        }
        Span span{first, length, length, batch.dropout_keys == nullptr ? 0 : batch.dropout_keys[s],
                  length > n_short ? n_short : 0};
        if (batch.supervised != nullptr) {
            span.length = 0;
            for (int64_t position = 1; position < length; ++position) {
                if (batch.supervised[first + position] == 0) continue;
                span.first_supervised = std::min(span.first_supervised, position);
                span.length = position;
            }
        }
        if (span.length > 0) spans_.push_back(span);
        first += length;
    }
}

void Layout::set(const MicroBatch& batch, int64_t V, bool share_prefixes, int64_t n_short) {
    list_spans(batch, V, n_short);
    const std::vector<Span>& needed = spans_;
    sequences.start.assign(1, 0);
    sequences.prefix.clear();
    source.clear();
    positions.clear();
    dropout_rows.clear();
    predicting.clear();
    targets.clear();
    predicting_dropout_rows.clear();
    end_position_ = 0;
    placed_.assign(needed.size(), false);
    for (size_t i = 0; i < needed.size(); ++i) {
        if (placed_[i]) continue;
        // The sequences that share the beginning of this one, and how much of it. What predicts a target stays outside.
        std::vector<size_t>& group = group_;
        group.assign(1, i);
        int64_t shared = share_prefixes ? needed[i].first_supervised - 1 : 0;
        for (size_t j = i + 1; shared > 0 && j < needed.size(); ++j) {
            if (placed_[j] || needed[j].first_position != needed[i].first_position) continue;
            const int64_t most = std::min(shared, needed[j].first_supervised - 1);
            const int64_t common = common_prefix(batch.tokens + needed[i].first, batch.tokens + needed[j].first, most);
            const int64_t whole = common / kAttentionBlock * kAttentionBlock;
            // A member that shares less shortens the prefix of all: taken only where more is saved in the end.
            const auto size = static_cast<int64_t>(group.size());
            if (whole == 0 || size * whole < (size - 1) * shared) continue;
            shared = whole;
            group.push_back(j);
        }
        int64_t prefix = -1;
        if (group.size() > 1) {
            add_segment(batch, needed[i], 0, shared, -1);
            prefix = sequences.count() - 1;
        } else {
            shared = 0;
        }
        for (const size_t member : group) {
            placed_[member] = true;
            add_segment(batch, needed[member], shared, needed[member].length, prefix);
        }
    }
}

// Tokens [begin, end) of a sequence, whose tokens before `begin` are segment `prefix`.
void Layout::add_segment(const MicroBatch& batch, const Span& span, int64_t begin, int64_t end, int64_t prefix) {
    end_position_ = std::max(end_position_, span.first_position + end);
    for (int64_t position = begin; position < end; ++position) {
        const int64_t token = span.first + position;
        uint64_t dropout_row = 0;
        if (batch.dropout_keys != nullptr) {
            dropout_row = mix64(mix64(span.dropout_key) + static_cast<uint64_t>(position));
            dropout_rows.push_back(dropout_row);
        }
        if (batch.supervised != nullptr && position + 1 >= span.first_supervised && batch.supervised[token + 1] != 0) {
            predicting.push_back(T());
            targets.push_back(batch.tokens[token + 1]);
            if (batch.dropout_keys != nullptr) predicting_dropout_rows.push_back(dropout_row);
        }
        source.push_back(token);
        positions.push_back(static_cast<int32_t>(span.first_position + position));
    }
    sequences.start.push_back(T());
    sequences.prefix.push_back(prefix);
}

}  // namespace cpuft
