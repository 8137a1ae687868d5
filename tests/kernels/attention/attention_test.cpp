// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention/attention.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>

#include "kernels/core/error.h"
#include "tests/kernels/reference/attention.h"
#include "tests/support/tensors.h"

using namespace braise::core;
using namespace braise::test;
using braise::attention::attention_backward;
using braise::attention::attention_forward;
using braise::attention::Dropout;
using braise::attention::Mask;
using braise::reference::Attention;
using braise::reference::AttentionRules;
using braise::reference::AttentionSizes;
using Catch::Contains;

namespace {

std::int64_t extent(std::size_t value) {
  return static_cast<std::int64_t>(value);
}

/// q, k, v and do of one case, as the op sees them: q, k and v side by side in one tensor, as a fused projection leaves
/// them.
struct Inputs {
  Inputs(const AttentionSizes& sizes, Dtype type, std::uint64_t seed, double range = 1)
      : s(sizes),
        dtype(type),
        fused(type, Shape{extent(s.b), extent(s.t), extent(s.h + 2 * s.g), extent(s.d)},
              random_values(Shape{extent(s.b), extent(s.t), extent(s.h + 2 * s.g), extent(s.d)}, type, seed, range)),
        d_o(type, query_shape(), random_values(query_shape(), type, seed + 1)) {}

  Shape query_shape() const { return Shape{extent(s.b), extent(s.t), extent(s.h), extent(s.d)}; }
  Shape key_shape() const { return Shape{extent(s.b), extent(s.t), extent(s.g), extent(s.d)}; }
  TensorView q() const { return fused.view().slice(2, 0, extent(s.h)); }
  TensorView k() const { return fused.view().slice(2, extent(s.h), extent(s.h + s.g)); }
  TensorView v() const { return fused.view().slice(2, extent(s.h + s.g), extent(s.h + 2 * s.g)); }

  std::vector<double> part(std::size_t begin, std::size_t heads) const {
    const std::vector<double> all = fused.values();
    const std::size_t row = (s.h + 2 * s.g) * s.d;
    std::vector<double> values;
    for (std::size_t i = 0; i < s.b * s.t; ++i) {
      const auto from = all.begin() + static_cast<std::ptrdiff_t>(i * row + begin * s.d);
      values.insert(values.end(), from, from + static_cast<std::ptrdiff_t>(heads * s.d));
    }
    return values;
  }
  Attention reference(const AttentionRules& rules) const {
    return Attention(s, rules, part(0, s.h), part(s.h, s.g), part(s.h + s.g, s.g), d_o.values());
  }

  AttentionSizes s;
  Dtype dtype;
  TestTensor fused;
  TestTensor d_o;
};

struct Results {
  explicit Results(const Inputs& in)
      : o(in.dtype, in.query_shape()),
        log_sum(Dtype::kFloat32, Shape{extent(in.s.b), extent(in.s.h), extent(in.s.t)}),
        dq(in.dtype, in.query_shape(), Layout::kPaddedRows),
        dk(in.dtype, in.key_shape()),
        dv(in.dtype, in.key_shape(), Layout::kPaddedRows) {}
  void run(Stream& stream, const Inputs& in, float scale, const Mask& mask, const Dropout& dropout) {
    attention_forward(stream, o.view(), log_sum.view(), in.q(), in.k(), in.v(), scale, mask, dropout);
    attention_backward(stream, dq.view(), dk.view(), dv.view(), in.d_o.view(), o.view(), log_sum.view(), in.q(), in.k(),
                       in.v(), scale, mask, dropout);
  }
  std::string bytes() const { return o.bytes() + log_sum.bytes() + dq.bytes() + dk.bytes() + dv.bytes(); }
  bool intact() const { return o.intact() && log_sum.intact() && dq.intact() && dk.intact() && dv.intact(); }
  TestTensor o, log_sum, dq, dk, dv;
};

/// Relative to the sums of magnitudes: scores err by D + 2 roundings of fp32, which reach a weight through exp; weights
/// are rounded to the storage dtype (once forward; twice on the way to dq and dk, and o is rounded within delta); then
/// sums of T terms.
void check(const Inputs& in, const Results& got, const Attention& want) {
  const double u = unit_roundoff(in.dtype);
  const double sums = static_cast<double>(2 * in.s.d + 2 * in.s.t + 20) * 0x1p-24;
  const auto bounded = [&](const TestTensor& tensor, const std::vector<double>& expected,
                           const std::vector<double>& bound, double roundings, const char* what) {
    check_close(
        tensor.values(), expected,
        [&](std::size_t i) { return (roundings * u + sums) * bound[i] + u * std::abs(expected[i]) + 1e-30; }, what);
  };
  bounded(got.o, want.o, want.o_bound, 1, "o");
  check_close(got.log_sum.values(), want.log_sum, sums, sums * 8, "log_sum");
  bounded(got.dv, want.dv, want.dv_bound, 1, "dv");
  bounded(got.dq, want.dq, want.dq_bound, 3, "dq");
  bounded(got.dk, want.dk, want.dk_bound, 3, "dk");
  CHECK(got.intact());
}

}  // namespace

TEST_CASE("attention and its gradients are within rounding of the definition") {
  Bench bench;
  std::uint64_t seed = 40;
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}) {
    for (const AttentionSizes& s :
         {AttentionSizes{1, 1, 1, 1, 1}, AttentionSizes{2, 3, 2, 1, 7}, AttentionSizes{1, 17, 3, 3, 33},
          AttentionSizes{2, 129, 4, 2, 16}, AttentionSizes{1, 300, 2, 1, 64}, AttentionSizes{1, 257, 1, 1, 129},
          AttentionSizes{1, 128, 2, 2, 256}, AttentionSizes{1, 40, 6, 2, 80}}) {
      INFO(name(dtype) << " B " << s.b << " T " << s.t << " H " << s.h << " G " << s.g << " D " << s.d);
      const Inputs in(s, dtype, seed += 2);
      AttentionRules rules;
      rules.scale = 1 / std::sqrt(static_cast<double>(s.d));
      rules.scale = static_cast<float>(rules.scale);
      Results got(in);
      got.run(bench.stream(), in, static_cast<float>(rules.scale), {}, {});
      check(in, got, in.reference(rules));
    }
  }
}

TEST_CASE("large scores do not overflow, and leave one weight") {
  Bench bench;
  const Inputs in({1, 70, 2, 1, 32}, Dtype::kFloat32, 77, 100);
  AttentionRules rules;
  rules.scale = 1;
  Results got(in);
  got.run(bench.stream(), in, 1, {}, {});
  check(in, got, in.reference(rules));
}

TEST_CASE("a sliding window and packed documents hide keys") {
  Bench bench;
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16}) {
    for (const std::int64_t window : {1, 5, 130, 100000}) {
      for (const bool documents : {false, true}) {
        INFO(name(dtype) << " window " << window << " documents " << documents);
        const AttentionSizes s{2, 400, 2, 1, 16};
        const Inputs in(s, dtype, 91);
        std::vector<double> starts(s.b * s.t);
        const std::vector<std::vector<std::size_t>> begins{{0, 3, 4, 200, 256, 300}, {0, 399}};
        for (std::size_t b = 0; b < s.b; ++b) {
          for (std::size_t t = 0; t < s.t; ++t) {
            for (const std::size_t begin : begins[b]) {
              if (begin <= t) starts[b * s.t + t] = static_cast<double>(begin);
            }
          }
        }
        const TestTensor document_starts(Dtype::kInt32, Shape{2, 400}, starts);
        Mask mask;
        mask.window = window;
        if (documents) mask.document_starts = document_starts.view();
        AttentionRules rules;
        rules.scale = 0.25;
        rules.sees = [&](std::size_t b, std::size_t query, std::size_t key) {
          return key <= query && query - key < static_cast<std::size_t>(window) &&
                 (!documents || static_cast<double>(key) >= starts[b * s.t + query]);
        };
        Results got(in);
        got.run(bench.stream(), in, 0.25f, mask, {});
        check(in, got, in.reference(rules));
      }
    }
  }
}

TEST_CASE("a cap bends scores, forward and backward") {
  Bench bench;
  std::uint64_t seed = 500;
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}) {
    for (const float cap : {0.4f, 3.0f, 50.0f}) {
      for (const AttentionSizes& s :
           {AttentionSizes{1, 1, 1, 1, 3}, AttentionSizes{2, 129, 4, 2, 16}, AttentionSizes{1, 300, 2, 1, 40}}) {
        INFO(name(dtype) << " cap " << cap << " T " << s.t);
        const Inputs in(s, dtype, seed += 2, 2);
        Mask mask;
        mask.window = 140;
        mask.score_cap = cap;
        AttentionRules rules;
        rules.scale = 0.25;
        rules.cap = static_cast<double>(cap);
        rules.sees = [](std::size_t, std::size_t query, std::size_t key) { return key <= query && query - key < 140; };
        Results got(in);
        got.run(bench.stream(), in, 0.25f, mask, {});
        check(in, got, in.reference(rules));
      }
    }
  }
}

TEST_CASE("dropout drops the weights its streams say, forward and backward") {
  Bench bench;
  const AttentionSizes s{2, 150, 2, 2, 16};
  const Inputs in(s, Dtype::kFloat32, 15);
  const std::vector<RandomStream> streams{RandomStream(1, Purpose::kDropout, 3), RandomStream(1, Purpose::kDropout, 4)};
  const double rate = 0.3;
  const Dropout dropout{rate, streams};
  AttentionRules rules;
  rules.scale = 0.25;
  std::size_t dropped = 0;
  std::size_t all = 0;
  rules.keep = [&](std::size_t b, std::size_t h, std::size_t query, std::size_t key) {
    const double word = streams[b].word((h * s.t + query) * s.t + key);
    const bool keep = word >= std::round(rate * 0x1p32);
    ++all;
    if (!keep) ++dropped;
    return keep ? static_cast<double>(static_cast<float>(1 / (1 - rate))) : 0.0;
  };
  Results got(in);
  got.run(bench.stream(), in, 0.25f, {}, dropout);
  check(in, got, in.reference(rules));
  CHECK(static_cast<double>(dropped) / static_cast<double>(all) == Approx(0.3).margin(0.01));
}

TEST_CASE("the reference's gradients are its slopes") {
  const AttentionSizes s{1, 6, 2, 1, 3};
  const Inputs in(s, Dtype::kFloat32, 21);
  AttentionRules rules;
  rules.scale = 0.7;
  rules.cap = GENERATE(0.0, 0.8);
  rules.sees = [](std::size_t, std::size_t query, std::size_t key) { return key <= query && query - key < 4; };
  rules.keep = [](std::size_t, std::size_t h, std::size_t query, std::size_t key) {
    return (h + query + key) % 5 == 0 ? 0.0 : 1.25;
  };
  const Attention at = in.reference(rules);
  const std::vector<double> d_o = in.d_o.values();
  std::vector<std::vector<double>> parts{in.part(0, s.h), in.part(s.h, s.g), in.part(s.h + s.g, s.g)};
  const std::vector<const std::vector<double>*> gradients{&at.dq, &at.dk, &at.dv};
  const auto loss = [&] {
    const Attention moved(s, rules, parts[0], parts[1], parts[2]);
    return std::inner_product(d_o.begin(), d_o.end(), moved.o.begin(), 0.0);
  };
  constexpr double kStep = 1e-5;
  for (std::size_t p = 0; p < parts.size(); ++p) {
    for (std::size_t i = 0; i < parts[p].size(); ++i) {
      const double value = parts[p][i];
      parts[p][i] = value + kStep;
      const double above = loss();
      parts[p][i] = value - kStep;
      const double below = loss();
      parts[p][i] = value;
      REQUIRE((above - below) / (2 * kStep) == Approx((*gradients[p])[i]).margin(1e-8));
    }
  }
}

TEST_CASE("a query's bits depend on its position and the keys before it only") {
  Bench bench;
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16}) {
    const AttentionSizes s{1, 517, 2, 1, 32};
    const Inputs in(s, dtype, 61);
    Results whole(in);
    attention_forward(bench.stream(), whole.o.view(), whole.log_sum.view(), in.q(), in.k(), in.v(), 0.2f);
    const std::string expected = whole.o.bytes();
    const std::size_t row = s.h * s.d * static_cast<std::size_t>(bits(dtype) / 8);
    // As generation does: some last queries, with the keys so far.
    for (const auto& [queries, keys] : std::vector<std::pair<std::int64_t, std::int64_t>>{{1, 1},
                                                                                          {1, 2},
                                                                                          {1, 128},
                                                                                          {1, 129},
                                                                                          {1, 256},
                                                                                          {1, 300},
                                                                                          {7, 135},
                                                                                          {200, 400},
                                                                                          {130, 517},
                                                                                          {1, 517},
                                                                                          {300, 300}}) {
      INFO(name(dtype) << ": " << queries << " queries of " << keys);
      const TestTensor o(dtype, Shape{1, queries, 2, 32});
      attention_forward(bench.stream(), o.view(), TensorView(), in.q().slice(1, keys - queries, keys),
                        in.k().slice(1, 0, keys), in.v().slice(1, 0, keys), 0.2f);
      REQUIRE(o.bytes() ==
              expected.substr(static_cast<std::size_t>(keys - queries) * row, static_cast<std::size_t>(queries) * row));
    }
  }
}

TEST_CASE("attention gives the same bits on any number of threads") {
  Bench bench;
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16}) {
    const Inputs in({2, 260, 4, 2, 24}, dtype, 62);
    std::string first;
    with_threads([&](int threads) {
      Results got(in);
      got.run(bench.stream(), in, 0.2f, {}, {});
      if (first.empty()) first = got.bytes();
      INFO(threads << " threads");
      CHECK(got.bytes() == first);
    });
  }
}

TEST_CASE("memory is linear in the length of the sequence") {
  const auto peak = [](std::int64_t positions) {
    Bench bench;
    const Shape shape{1, positions, 1, 16};
    const std::vector<double> zeros(static_cast<std::size_t>(shape.elements()), 0.0);
    const TestTensor x(Dtype::kBfloat16, shape, zeros);
    const TestTensor y(Dtype::kBfloat16, shape);
    const TestTensor log_sum(Dtype::kFloat32, Shape{1, 1, positions});
    attention_forward(bench.stream(), y.view(), log_sum.view(), x.view(), x.view(), x.view(), 1);
    attention_backward(bench.stream(), y.view(), y.view(), y.view(), x.view(), x.view(), log_sum.view(), x.view(),
                       x.view(), x.view(), 1, Mask{.window = 64, .document_starts = {}});
    return bench.ledger().total_peak_bytes(Space::kDevice);
  };
  const std::int64_t once = peak(2048);
  CHECK(peak(8192) < 4 * once);
}

TEST_CASE("empty attention, and arguments that do not go together") {
  Bench bench;
  const TestTensor none(Dtype::kFloat32, Shape{0, 4, 2, 8});
  attention_forward(bench.stream(), none.view(), TensorView(), none.view(), none.view(), none.view(), 1);
  const TestTensor q(Dtype::kFloat32, Shape{1, 4, 3, 8});
  const TestTensor k(Dtype::kFloat32, Shape{1, 4, 2, 8});
  const TestTensor short_k(Dtype::kFloat32, Shape{1, 3, 3, 8});
  const auto run = [&](const TestTensor& keys, float scale, const Mask& mask = {}, const Dropout& dropout = {}) {
    attention_forward(bench.stream(), q.view(), TensorView(), q.view(), keys.view(), keys.view(), scale, mask, dropout);
  };
  CHECK_THROWS_WITH(run(k, 1), Contains("a multiple of those of k"));
  CHECK_THROWS_WITH(run(short_k, 1), Contains("more queries than keys"));
  CHECK_THROWS_WITH(run(q, 0), Contains("scale must be positive"));
  CHECK_THROWS_WITH(run(q, 1, Mask{.window = 0, .document_starts = {}}), Contains("window must be positive"));
  CHECK_THROWS_WITH(run(q, 1, Mask{.document_starts = {}, .score_cap = -1}), Contains("cap of scores"));
  CHECK_THROWS_WITH(run(q, 1, {}, Dropout{0.5, {}}), Contains("one random stream for each sequence"));
  CHECK_THROWS_WITH(run(q, 1, Mask{.window = 1, .document_starts = q.view()}), Contains("document_starts is fp32"));
}
