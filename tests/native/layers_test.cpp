// Every layer but attention: forward against the formula in double, backward against finite differences of the formula.
#include <algorithm>

#include "check.h"
#include "formats.h"
#include "layers/cross_entropy.h"
#include "layers/gated_mlp.h"
#include "layers/linear_lora.h"
#include "layers/rmsnorm.h"
#include "layers/rope.h"

using cpuft::Compute;
using test::Doubles;
using test::Random;

namespace {

// Runs a check on every kernel table, with float32 products throughout.
template <class Check>
void for_each_table(Check check) {
    for (const cpuft::KernelTable* table : test::tables()) {
        Compute compute(2, *table, cpuft::Precision::kF32);
        check(compute, table->name);
    }
}

// The layers' sums are of at most some hundred float32 terms.
constexpr double kClose = 3e-6;

// ---- rmsnorm ------------------------------------------------------------------------------------------------------------

TEST(rmsnorm) {
    constexpr float kEpsilon = 1e-2f;  // large enough to show
    for_each_table([](Compute& compute, const char* name) {
        for (const int64_t C : {1, 7, 33, 90}) {
            Random random(31);
            const int64_t T = 19;
            const auto weight = random.floats(C), dy = random.floats(T * C), before = random.floats(T * C);
            const auto input = random.floats(T * C, 0.3f);
            Doubles x = test::widen(input), y(x.size());
            const auto loss = [&] {
                for (size_t t = 0; t < static_cast<size_t>(T); ++t) {
                    double square = 0.0;
                    const size_t row = t * static_cast<size_t>(C);
                    for (size_t c = 0; c < static_cast<size_t>(C); ++c) square += x[row + c] * x[row + c];
                    const double r = 1.0 / std::sqrt(square / static_cast<double>(C) + static_cast<double>(kEpsilon));
                    for (size_t c = 0; c < static_cast<size_t>(C); ++c)
                        y[row + c] = x[row + c] * r * static_cast<double>(weight[c]);
                }
                return test::weighted_sum(dy, y);
            };
            loss();
            std::vector<float> got(input.size(), NAN), dx = before;
            cpuft::rmsnorm_forward(compute, input.data(), weight.data(), kEpsilon, T, C, got.data());
            CHECK(test::distance(got.data(), y) < kClose, "%s C = %lld", name, (long long)C);
            std::vector<float> in_place = input, added = before;
            cpuft::rmsnorm_forward(compute, in_place.data(), weight.data(), kEpsilon, T, C, in_place.data());
            CHECK(in_place == got, "%s C = %lld: another result in place", name, (long long)C);
            cpuft::rmsnorm_add(compute, input.data(), weight.data(), kEpsilon, T, C, added.data());
            cpuft::rmsnorm_backward(compute, input.data(), weight.data(), kEpsilon, dy.data(), T, C, true, dx.data());
            in_place = dy;
            cpuft::rmsnorm_backward(compute, input.data(), weight.data(), kEpsilon, in_place.data(), T, C, false,
                                    in_place.data());
            Doubles wanted = test::differentiate(x, loss);
            CHECK(test::distance(in_place.data(), wanted) < kClose, "%s dx in place, C = %lld", name, (long long)C);
            for (size_t i = 0; i < wanted.size(); ++i) {
                wanted[i] += static_cast<double>(before[i]);
                y[i] += static_cast<double>(before[i]);
            }
            CHECK(test::distance(dx.data(), wanted) < kClose, "%s dx, C = %lld", name, (long long)C);
            CHECK(test::distance(added.data(), y) < kClose, "%s added, C = %lld", name, (long long)C);
        }
    });
}

// ---- rope ---------------------------------------------------------------------------------------------------------------

// LongRoPE: rows of long sequences have the long factors, and all of them the magnitude.
TEST(rope_of_long_sequences) {
    cpuft::RopeFacts facts{};
    facts.pairs = cpuft::RopePairs::kHalves;
    facts.n_rotated = 4;
    facts.base = 100.0f;
    facts.position_scale = 1.0f;
    facts.factors = {1.0f, 2.0f};
    facts.long_factors = {3.0f, 5.0f};
    facts.n_short = 6;
    facts.magnitude = 1.25f;
    cpuft::RopeTable table(facts);
    table.grow(4);  // no long row yet
    table.grow(facts.n_short + 9);
    for (const bool is_long : {false, true}) {
        for (int64_t position = 0; position < (is_long ? 9 : facts.n_short); ++position) {
            const int64_t row = is_long ? facts.n_short + position : position;
            for (size_t i = 0; i < 2; ++i) {
                const double factor = static_cast<double>((is_long ? facts.long_factors : facts.factors)[i]);
                const double angle =
                    static_cast<double>(position) * std::pow(100.0, -0.5 * static_cast<double>(i)) / factor;
                const auto cosine = static_cast<double>(table.cosines(row)[i]),
                           sine = static_cast<double>(table.sines(row)[i]);
                CHECK(std::fabs(cosine - 1.25 * std::cos(angle)) < 1e-6 &&
                          std::fabs(sine - 1.25 * std::sin(angle)) < 1e-6,
                      "row %lld, pair %zu", (long long)row, i);
            }
        }
    }
    // The gradient of a rotation that also stretches is its transpose.
    const std::vector<int32_t> positions = {3, 11};
    Random random(36);
    const auto input = random.floats(8), dy = random.floats(8);
    for_each_table([&](Compute& compute, const char* name) {
        std::vector<float> y = input, dx = dy;
        cpuft::rope_forward(compute, table, positions.data(), 2, 1, 4, y.data());
        cpuft::rope_backward(compute, table, positions.data(), 2, 1, 4, dx.data());
        const double forward = test::weighted_sum(dy, test::widen(y)),
                     back = test::weighted_sum(input, test::widen(dx));
        CHECK(std::fabs(forward - back) < 1e-5, "%s: %g and %g", name, forward, back);
    });
}

TEST(rope) {
    const int64_t T = 23, heads = 3, D = 10;
    for (const auto pairs : {cpuft::RopePairs::kAdjacent, cpuft::RopePairs::kHalves}) {
        for (const int64_t n_rotated : {int64_t{6}, D}) {
            cpuft::RopeFacts facts{};
            facts.pairs = pairs;
            facts.n_rotated = n_rotated;
            facts.base = 500.0f;
            facts.position_scale = 0.5f;
            for (int64_t i = 0; i < n_rotated / 2; ++i) facts.factors.push_back(1.0f + 0.7f * static_cast<float>(i));
            cpuft::RopeTable table(facts);
            table.grow(9);
            table.grow(40);  // what was there must stay
            table.grow(3);
            Random random(32);
            std::vector<int32_t> positions;
            for (int64_t t = 0; t < T; ++t) positions.push_back(random.below(40));
            const auto input = random.floats(T * heads * D), dy = random.floats(T * heads * D);
            Doubles x = test::widen(input), y(x.size());
            const auto loss = [&] {
                y = x;
                for (int64_t row = 0; row < T * heads; ++row) {
                    for (int64_t i = 0; i < n_rotated / 2; ++i) {
                        const double frequency =
                            std::pow(500.0, -2.0 * static_cast<double>(i) / static_cast<double>(n_rotated));
                        const double position = 0.5 * positions[static_cast<size_t>(row / heads)];
                        const double angle =
                            position * frequency / static_cast<double>(facts.factors[static_cast<size_t>(i)]);
                        const bool adjacent = pairs == cpuft::RopePairs::kAdjacent;
                        const auto a = static_cast<size_t>(row * D + (adjacent ? 2 * i : i));
                        const auto b = static_cast<size_t>(row * D + (adjacent ? 2 * i + 1 : i + n_rotated / 2));
                        y[a] = x[a] * std::cos(angle) - x[b] * std::sin(angle);
                        y[b] = x[a] * std::sin(angle) + x[b] * std::cos(angle);
                    }
                }
                return test::weighted_sum(dy, y);
            };
            loss();
            for_each_table([&](Compute& compute, const char* name) {
                std::vector<float> got = input, dx = dy;
                cpuft::rope_forward(compute, table, positions.data(), T, heads, D, got.data());
                CHECK(test::distance(got.data(), y) < kClose, "%s n_rotated = %lld", name, (long long)n_rotated);
                cpuft::rope_backward(compute, table, positions.data(), T, heads, D, dx.data());
                CHECK(test::distance(dx.data(), test::differentiate(x, loss)) < kClose, "%s dx", name);
            });
        }
    }
}

// ---- gated_mlp ------------------------------------------------------------------------------------------------------------

double activation(cpuft::Gate kind, double z) {
    if (kind == cpuft::Gate::kSilu) return z / (1.0 + std::exp(-z));
    return 0.5 * z * (1.0 + std::tanh(std::sqrt(2.0 / std::acos(-1.0)) * (z + 0.044715 * z * z * z)));
}

void check_gated_mlp(cpuft::Gate kind) {
    for_each_table([kind](Compute& compute, const char* name) {
        Random random(33);
        const int64_t T = 18, F = 37;
        const auto gate_in = random.floats(T * F, 3.0f), up_in = random.floats(T * F), dm = random.floats(T * F);
        Doubles gate = test::widen(gate_in), up = test::widen(up_in), m(gate.size());
        const auto loss = [&] {
            for (size_t i = 0; i < m.size(); ++i) m[i] = activation(kind, gate[i]) * up[i];
            return test::weighted_sum(dm, m);
        };
        loss();
        for (const cpuft::Storage storage :
             {cpuft::Storage::kBytes, cpuft::Storage::kBf16, cpuft::Storage::k24, cpuft::Storage::kF32}) {
            std::vector<float> got = gate_in, got_up = up_in, dgate = dm, dup(gate_in.size(), NAN);
            cpuft::StoredRows stored_gate, stored_up;
            stored_gate.reserve(storage, T, F);
            stored_up.reserve(storage, T, F);
            cpuft::gated_mlp_forward(compute, kind, storage, got.data(), got_up.data(), T, F, &stored_gate, &stored_up,
                                     got.data());
            std::vector<float> again(gate_in.size(), NAN);
            cpuft::gated_mlp_backward(compute, kind, stored_gate, stored_up, dgate.data(), dgate.data(), dup.data(),
                                      again.data());
            CHECK(again == got, "%s: another result from what was kept", name);
            std::vector<float> unkept = gate_in, unkept_up = up_in;
            cpuft::gated_mlp_forward(compute, kind, storage, unkept.data(), unkept_up.data(), T, F, nullptr, nullptr,
                                     unkept.data());
            CHECK(unkept == got, "%s: another result where nothing is kept", name);
            if (storage != cpuft::Storage::kF32) continue;
            CHECK(test::distance(got.data(), m) < kClose, "%s", name);
            CHECK(test::distance(dgate.data(), test::differentiate(gate, loss)) < kClose, "%s dgate", name);
            CHECK(test::distance(dup.data(), test::differentiate(up, loss)) < kClose, "%s dup", name);
        }
    });
}

TEST(gated_mlp) { check_gated_mlp(cpuft::Gate::kSilu); }
TEST(gated_mlp_with_gelu) { check_gated_mlp(cpuft::Gate::kGelu); }

// ---- linear_lora ----------------------------------------------------------------------------------------------------------

struct LinearCase {
    ggml_type type;
    int64_t T, n_in, n_out, R;
    bool bias, adapted, accumulate;
    float dropout;
};

const LinearCase kLinearCases[] = {
    {GGML_TYPE_F32, 1, 1, 1, 1, false, true, false, 0.0f},    {GGML_TYPE_F32, 17, 23, 35, 3, true, true, false, 0.0f},
    {GGML_TYPE_F32, 15, 33, 9, 8, false, true, true, 0.0f},   {GGML_TYPE_F32, 9, 14, 40, 16, true, false, false, 0.0f},
    {GGML_TYPE_Q8_0, 13, 64, 39, 5, true, true, false, 0.0f}, {GGML_TYPE_Q4_0, 16, 32, 70, 4, false, true, true, 0.0f},
    {GGML_TYPE_F32, 17, 23, 35, 3, true, true, false, 0.4f},  {GGML_TYPE_Q8_0, 13, 64, 39, 5, false, true, true, 0.25f},
};

// One linear layer with everything it reads and writes, and its formula in double.
class LinearCheck {
  public:
    LinearCheck(Compute& compute, const LinearCase& c, const char* name) : compute_(compute), c_(c), name_(name) {
        Random random(34);
        make_weights(random);
        x_ = random.floats(c.T * c.n_in);
        a_ = random.floats(c.R * c.n_in, 0.3f);
        b_ = random.floats(c.n_out * c.R, 0.3f);
        dy_ = random.floats(c.T * c.n_out);
        y_before_ = random.floats(c.T * c.n_out);
        dx_before_ = random.floats(c.T * c.n_in);
        da_before_ = random.floats(c.R * c.n_in);
        db_before_ = random.floats(c.n_out * c.R);
        for (int64_t t = 0; t < c.T; ++t) row_keys_.push_back(static_cast<uint64_t>(t) * 0x9E3779B97F4A7C15u);
        if (c.dropout > 0.0f) dropout_ = {row_keys_.data(), c.dropout, 77};
        find_mask();
    }

    void run() {
        da_ = da_before_;
        db_ = db_before_;
        cpuft::Lora lora{a_.data(), b_.data(), da_.data(), db_.data(), c_.R, kScale};
        const cpuft::Lora* adapter = c_.adapted ? &lora : nullptr;
        cpuft::LinearInput input;
        input.set(compute_, x_.data(), c_.T, c_.n_in);
        std::vector<float> u(static_cast<size_t>(c_.T * c_.R), NAN);
        std::vector<float> y = c_.accumulate ? y_before_ : std::vector<float>(y_before_.size(), NAN);
        cpuft::linear_lora_forward(compute_, linear_, adapter, dropout_, input, workspace_, c_.accumulate, u.data(),
                                   y.data());
        std::vector<float> dx = c_.accumulate ? dx_before_ : std::vector<float>(dx_before_.size(), NAN);
        cpuft::linear_lora_backward(compute_, linear_, adapter, dropout_, x_.data(), c_.T, u.data(), dy_.data(),
                                    workspace_, c_.accumulate, dx.data());
        check(y, dx);
        if (c_.adapted) check_without_dx(adapter, u);
    }

  private:
    static constexpr float kScale = 1.7f;

    void make_weights(Random& random) {
        const auto drawn = random.floats(c_.n_out * c_.n_in);
        data_.resize(ggml_row_size(c_.type, c_.n_in) * static_cast<size_t>(c_.n_out));
        w_.resize(drawn.size());
        const auto bytes = static_cast<int64_t>(data_.size());
        cpuft::quantize(c_.type, drawn.data(), c_.n_out, c_.n_in, nullptr, data_.data(), bytes, 1);
        cpuft::dequantize(c_.type, data_.data(), bytes, c_.n_out, c_.n_in, w_.data(), 1);
        linear_.weight = {c_.type, data_.data(), c_.n_out, c_.n_in};
        if (c_.bias) linear_.bias = random.floats(c_.n_out);
    }

    // The layer itself tells its mask: with A = identity-like rows, u is s times one dropped value.
    void find_mask() {
        mask_.assign(x_.size(), 1.0);
        if (c_.dropout == 0.0f) return;
        const std::vector<float> ones(x_.size(), 1.0f), no_b(static_cast<size_t>(c_.n_out), 0.0f);
        for (int64_t i = 0; i < c_.n_in; ++i) {
            std::vector<float> a(static_cast<size_t>(c_.n_in), 0.0f);
            a[static_cast<size_t>(i)] = 1.0f;
            const cpuft::Lora lora{a.data(), no_b.data(), nullptr, nullptr, 1, 1.0f};
            cpuft::LinearInput input;
            input.set(compute_, ones.data(), c_.T, c_.n_in);
            std::vector<float> u(static_cast<size_t>(c_.T)), y(y_before_.size());
            cpuft::linear_lora_forward(compute_, linear_, &lora, dropout_, input, workspace_, false, u.data(),
                                       y.data());
            for (int64_t t = 0; t < c_.T; ++t)
                mask_[static_cast<size_t>(t * c_.n_in + i)] = static_cast<double>(u[static_cast<size_t>(t)]);
        }
        const double kept_value = 1.0 / (1.0 - static_cast<double>(c_.dropout));
        for (const double value : mask_) {
            CHECK(value == 0.0 || std::fabs(value - kept_value) < 1e-6, "%s: a mask's value is %g", name_, value);
        }
    }

    double loss(const Doubles& x, const Doubles& a, const Doubles& b, Doubles& y) const {
        for (int64_t t = 0; t < c_.T; ++t) {
            Doubles u(static_cast<size_t>(c_.R), 0.0);
            for (int64_t r = 0; r < c_.R; ++r) {
                for (int64_t i = 0; i < c_.n_in; ++i) {
                    const auto at = static_cast<size_t>(t * c_.n_in + i);
                    u[static_cast<size_t>(r)] += a[static_cast<size_t>(r * c_.n_in + i)] * x[at] * mask_[at];
                }
            }
            for (int64_t o = 0; o < c_.n_out; ++o) {
                double value = c_.bias ? static_cast<double>(linear_.bias[static_cast<size_t>(o)]) : 0.0;
                for (int64_t i = 0; i < c_.n_in; ++i) {
                    value += static_cast<double>(w_[static_cast<size_t>(o * c_.n_in + i)]) *
                             x[static_cast<size_t>(t * c_.n_in + i)];
                }
                for (int64_t r = 0; r < c_.R && c_.adapted; ++r) {
                    value +=
                        static_cast<double>(kScale) * b[static_cast<size_t>(o * c_.R + r)] * u[static_cast<size_t>(r)];
                }
                y[static_cast<size_t>(t * c_.n_out + o)] = value;
            }
        }
        return test::weighted_sum(dy_, y);
    }

    void compare(const char* what, const std::vector<float>& got, Doubles wanted,
                 const std::vector<float>* before) const {
        for (size_t i = 0; before != nullptr && i < wanted.size(); ++i) wanted[i] += static_cast<double>((*before)[i]);
        const double off = test::distance(got.data(), wanted);
        CHECK(off < kClose, "%s %s is off by %g: %s, T %lld, n_in %lld, n_out %lld, R %lld, dropout %g", name_, what,
              off, ggml_type_name(c_.type), (long long)c_.T, (long long)c_.n_in, (long long)c_.n_out, (long long)c_.R,
              static_cast<double>(c_.dropout));
    }

    void check(const std::vector<float>& y, const std::vector<float>& dx) {
        Doubles x = test::widen(x_), a = test::widen(a_), b = test::widen(b_), out(y.size());
        const auto of_all = [&] { return loss(x, a, b, out); };
        of_all();
        compare("y", y, out, c_.accumulate ? &y_before_ : nullptr);
        compare("dx", dx, test::differentiate(x, of_all), c_.accumulate ? &dx_before_ : nullptr);
        if (!c_.adapted) return;
        wanted_da_ = test::differentiate(a, of_all);
        wanted_db_ = test::differentiate(b, of_all);
        compare("da", da_, wanted_da_, &da_before_);
        compare("db", db_, wanted_db_, &db_before_);
    }

    // Where nobody needs dx, the adapter's gradients are the same; where y is not wanted, u is.
    void check_without_dx(const cpuft::Lora* adapter, const std::vector<float>& u) {
        da_ = da_before_;
        db_ = db_before_;
        cpuft::LinearInput input;
        input.set(compute_, x_.data(), c_.T, c_.n_in);
        std::vector<float> u_alone(u.size(), NAN);
        cpuft::linear_lora_forward(compute_, linear_, adapter, dropout_, input, workspace_, false, u_alone.data(),
                                   nullptr);
        CHECK(u_alone == u, "%s: u differs where y is not wanted", name_);
        cpuft::linear_lora_backward(compute_, linear_, adapter, dropout_, x_.data(), c_.T, u.data(), dy_.data(),
                                    workspace_, false, nullptr);
        compare("da without dx", da_, wanted_da_, &da_before_);
        compare("db without dx", db_, wanted_db_, &db_before_);
    }

    Compute& compute_;
    const LinearCase& c_;
    const char* name_;
    cpuft::LinearWeights linear_;
    cpuft::LinearWorkspace workspace_;
    cpuft::Dropout dropout_;
    std::vector<char> data_;
    std::vector<float> w_, x_, a_, b_, dy_, y_before_, dx_before_, da_before_, db_before_, da_, db_;
    std::vector<uint64_t> row_keys_;
    Doubles mask_, wanted_da_, wanted_db_;
};

TEST(linear_lora) {
    for_each_table([](Compute& compute, const char* name) {
        for (const LinearCase& c : kLinearCases) LinearCheck(compute, c, name).run();
    });
}

// ---- cross_entropy --------------------------------------------------------------------------------------------------------

// The sum of losses of logits = head h, and its gradient with respect to h: head^T (softmax - onehot).
double naive_cross_entropy(const std::vector<float>& head, const Doubles& h, const std::vector<int32_t>& targets,
                           int64_t V, int64_t C, double soft_cap, Doubles* dh) {
    double sum = 0.0;
    for (size_t t = 0; t < targets.size(); ++t) {
        Doubles logits(static_cast<size_t>(V));
        const double* h_t = &h[t * static_cast<size_t>(C)];
        for (size_t v = 0; v < logits.size(); ++v) {
            const float* row = &head[v * static_cast<size_t>(C)];
            for (int64_t c = 0; c < C; ++c) logits[v] += static_cast<double>(row[c]) * h_t[c];
        }
        Doubles slopes(logits.size(), 1.0);
        for (size_t v = 0; soft_cap > 0.0 && v < logits.size(); ++v) {
            const double t_v = std::tanh(logits[v] / soft_cap);
            logits[v] = soft_cap * t_v;
            slopes[v] = 1.0 - t_v * t_v;
        }
        const double largest = *std::max_element(logits.begin(), logits.end());
        double total = 0.0;
        for (const double logit : logits) total += std::exp(logit - largest);
        sum += largest + std::log(total) - logits[static_cast<size_t>(targets[t])];
        for (size_t v = 0; dh != nullptr && v < logits.size(); ++v) {
            const bool is_target = static_cast<int32_t>(v) == targets[t];
            const double d = std::exp(logits[v] - largest) / total - (is_target ? 1.0 : 0.0);
            const float* row = &head[v * static_cast<size_t>(C)];
            for (int64_t c = 0; c < C; ++c)
                (*dh)[t * static_cast<size_t>(C) + static_cast<size_t>(c)] +=
                    d * slopes[v] * static_cast<double>(row[c]);
        }
    }
    return sum;
}

struct HeadTolerance {
    double loss, gradient;  // relative
};

void check_cross_entropy(Compute& compute, const char* name, int64_t n, int64_t V, int64_t C, bool by_differences,
                         const HeadTolerance& tolerance, float soft_cap = 0.0f) {
    Random random(35);
    const auto head = random.floats(V * C), h_in = random.floats(n * C);
    std::vector<int32_t> targets;
    for (int64_t t = 0; t < n; ++t) targets.push_back(random.below(static_cast<int32_t>(V)));
    targets[0] = static_cast<int32_t>(V - 1);
    Doubles h = test::widen(h_in), wanted(h.size());
    const auto naive = [&](Doubles* dh) {
        return naive_cross_entropy(head, h, targets, V, C, static_cast<double>(soft_cap), dh);
    };
    const double loss = naive(by_differences ? nullptr : &wanted);
    if (by_differences) wanted = test::differentiate(h, [&] { return naive(nullptr); });
    cpuft::HeadWorkspace workspace;
    cpuft::Matrix matrix = cpuft::float_matrix(head.data(), V, C);
    const std::vector<float> scales = cpuft::row_scales(compute, matrix);
    if (compute.precision == cpuft::Precision::kInt8) matrix.row_scale = scales.data();
    cpuft::Buffer<char> memory;
    workspace.probabilities_memory = memory.reserve(cpuft::head_bytes(compute.weight_gemm, V, n));
    std::vector<float> dh = h_in;  // in place
    const double got =
        cpuft::head_cross_entropy(compute, matrix, soft_cap, dh.data(), targets.data(), n, workspace, dh.data());
    const double alone =
        cpuft::head_cross_entropy(compute, matrix, soft_cap, h_in.data(), targets.data(), n, workspace, nullptr);
    CHECK(std::fabs(got - loss) < tolerance.loss * loss, "%s V = %lld: %.9g, expected %.9g", name, (long long)V, got,
          loss);
    CHECK(alone == got, "%s V = %lld: %.9g without gradient, %.9g with", name, (long long)V, alone, got);
    const double off = test::distance(dh.data(), wanted);
    CHECK(off < tolerance.gradient, "%s V = %lld: dh is off by %g", name, (long long)V, off);
}

// A sum over the vocabulary in float32: its rounding errors add up like a random walk.
HeadTolerance in_float32(int64_t V) { return {1e-6, kClose + std::sqrt(static_cast<double>(V)) * test::kRounding}; }

TEST(cross_entropy) {
    for_each_table([](Compute& compute, const char* name) {
        for (const int64_t V : {2, 31, 303}) check_cross_entropy(compute, name, 7, V, 12, true, in_float32(V));
    });
}

// A cap that the logits, of a deviation of 2, feel.
TEST(cross_entropy_of_capped_logits) {
    for_each_table([](Compute& compute, const char* name) {
        for (const int64_t V : {2, 31, 303}) check_cross_entropy(compute, name, 7, V, 12, true, in_float32(V), 1.5f);
    });
}

// The packed probabilities of each format are scaled in place. Tolerances: of the format, see gemm_test.cpp.
TEST(cross_entropy_in_other_formats) {
    for (const cpuft::KernelTable* table : test::tables()) {
        if (table->bf16 != nullptr) {
            Compute compute(2, *table, cpuft::Precision::kBf16);
            check_cross_entropy(compute, table->name, 17, 700, 64, false, {0.005, 0.008});
            check_cross_entropy(compute, table->name, 17, 700, 64, false, {0.005, 0.008}, 6.0f);
        }
        if (table->int8 != nullptr) {
            Compute compute(2, *table, cpuft::Precision::kInt8);
            check_cross_entropy(compute, table->name, 17, 700, 64, false, {0.005, 0.03});
            check_cross_entropy(compute, table->name, 17, 700, 64, false, {0.005, 0.03}, 6.0f);
        }
    }
}

// A vocabulary so large that four tokens fill a chunk.
TEST(cross_entropy_in_chunks) {
    const auto tables = test::tables();
    Compute compute(2, *tables.back(), cpuft::Precision::kF32);
    const int64_t V = (int64_t{1} << 23) - 5;
    check_cross_entropy(compute, tables.back()->name, 5, V, 1, false, in_float32(V));
}

}  // namespace
