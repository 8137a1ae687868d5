// SPDX-License-Identifier: Apache-2.0
#include "kernels/embedding/embedding.h"

#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "kernels/core/error.h"
#include "kernels/core/random.h"
#include "tests/kernels/reference/embedding.h"
#include "tests/support/tensors.h"

using namespace braise;
using core::Dtype;
using core::Shape;
using test::Layout;
using test::TestTensor;

namespace {

constexpr std::array kFloats{Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16};

/// Integers in [0, end), small ones more often, so that ids repeat.
std::vector<double> random_ids(std::int64_t count, std::int64_t end, std::uint64_t seed) {
  const core::RandomStream random(seed, core::Purpose::kData, 0x1d5);
  std::vector<double> ids(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const double uniform = core::uniform(random.word(i));
    ids[i] = std::floor(uniform * uniform * static_cast<double>(end));
  }
  return ids;
}

struct Sizes {
  std::int64_t batch, length, channels, vocabulary;
};

const std::vector<Sizes> kSizes{{1, 1, 1, 1},     {2, 3, 7, 5}, {3, 17, 33, 40}, {2, 129, 64, 3}, {1, 600, 200, 2},
                                {4, 7, 129, 300}, {0, 5, 8, 3}, {2, 0, 8, 3},    {2, 2, 0, 3}};

/// What the header says of one row of a gradient, one fp32 operation after another.
std::vector<double> spelled_out(std::vector<double> dtable, const std::vector<double>& dy,
                                const std::vector<double>& ids, std::size_t columns, float scale) {
  const std::size_t rows = columns == 0 ? 0 : dtable.size() / columns;
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t c = 0; c < columns; ++c) {
      bool any = false;
      float sum = 0;
      for (std::size_t n = 0; n < ids.size(); ++n) {
        if (ids[n] != static_cast<double>(row)) continue;
        const auto term = static_cast<float>(dy[n * columns + c]);
        sum = any ? sum + term : term;
        any = true;
      }
      double& element = dtable[row * columns + c];
      if (any) element = static_cast<float>(element) + scale * sum;
    }
  }
  return dtable;
}

}  // namespace

TEST_CASE("embedding: rows are those of the tables, rounded once") {
  test::Bench bench;
  std::uint64_t seed = 0;
  for (const Sizes& s : kSizes) {
    for (const Dtype dtype : kFloats) {
      for (const Dtype table_dtype : kFloats) {
        for (const Layout layout : {Layout::kContiguous, Layout::kPaddedRows}) {
          const Shape y_shape{s.batch, s.length, s.channels};
          const Shape ids_shape{s.batch, s.length};
          const std::int64_t places = s.length + 4;
          const auto columns = static_cast<std::size_t>(s.channels);
          const auto table = test::random_values(Shape{s.vocabulary, s.channels}, table_dtype, ++seed);
          const auto place_table = test::random_values(Shape{places, s.channels}, dtype, ++seed);
          const auto ids = random_ids(s.batch * s.length, s.vocabulary, ++seed);
          const auto positions = random_ids(s.batch * s.length, places, ++seed);
          const TestTensor token_table(table_dtype, Shape{s.vocabulary, s.channels}, table, layout);
          const TestTensor position_table(dtype, Shape{places, s.channels}, place_table, layout);
          const TestTensor token_ids(Dtype::kInt32, ids_shape, ids, layout);
          const TestTensor position_ids(Dtype::kInt32, ids_shape, positions);

          const TestTensor alone(dtype, y_shape, layout);
          embedding::embedding_forward(bench.stream(), alone.view(), token_ids.view(), token_table.view(), {}, {},
                                       1.0f);
          auto expected = reference::embedding_forward(table, ids, columns);
          for (double& value : expected) value = test::rounded(value, dtype);
          CHECK(alone.values() == expected);
          CHECK(alone.intact());

          const TestTensor both(dtype, y_shape, layout);
          embedding::embedding_forward(bench.stream(), both.view(), token_ids.view(), token_table.view(),
                                       position_ids.view(), position_table.view(), 1.7f);
          expected = reference::embedding_forward(table, ids, columns, 1.7f);
          auto magnitude = expected;
          const auto place = reference::embedding_forward(place_table, positions, columns);
          for (std::size_t i = 0; i < expected.size(); ++i) {
            expected[i] += place[i];
            magnitude[i] = std::abs(magnitude[i]) + std::abs(expected[i]);
          }
          // The product and the sum are rounded to fp32, the result to its dtype.
          test::check_close(both.values(), expected, [&](std::size_t i) {
            return 0x1p-24 * magnitude[i] * 1.01 + test::unit_roundoff(dtype) * std::abs(expected[i]) * 1.01 + 0x1p-25;
          });
          CHECK(both.intact());
        }
      }
    }
  }
}

TEST_CASE("embedding: ids may be a window of longer rows") {
  test::Bench bench;
  const std::vector<double> tokens{0, 1, 2, 3, 4, 3, 2, 1};
  const TestTensor ids(Dtype::kInt32, Shape{2, 4}, tokens);
  const std::vector<double> table{0, 10, 20, 30, 40};
  const TestTensor token_table(Dtype::kFloat32, Shape{5, 1}, table);
  const TestTensor y(Dtype::kFloat32, Shape{2, 3, 1});
  embedding::embedding_forward(bench.stream(), y.view(), ids.view().slice(1, 1, 4), token_table.view());
  CHECK(y.values() == std::vector<double>{10, 20, 30, 30, 20, 10});
  TestTensor dtoken(Dtype::kFloat32, Shape{5, 1}, std::vector<double>(5, 0.0));
  embedding::embedding_backward(bench.stream(), dtoken.view(), {}, y.view(), ids.view().slice(1, 1, 4));
  CHECK(dtoken.values() == std::vector<double>{0, 20, 40, 60, 0});
}

TEST_CASE("embedding: gradients are the sums of the header, to the bit, with any number of threads") {
  test::Bench bench;
  std::uint64_t seed = 100;
  for (const Sizes& s : kSizes) {
    for (const Dtype dtype : kFloats) {
      for (const Layout layout : {Layout::kContiguous, Layout::kPaddedRows}) {
        const std::int64_t places = s.length + 4;
        const auto columns = static_cast<std::size_t>(s.channels);
        const Shape table_shape{s.vocabulary, s.channels};
        const Shape place_shape{places, s.channels};
        const auto gradient = test::random_values(Shape{s.batch, s.length, s.channels}, dtype, ++seed);
        const auto before = test::random_values(table_shape, Dtype::kFloat32, ++seed);
        const auto place_before = test::random_values(place_shape, Dtype::kFloat32, ++seed);
        const auto ids = random_ids(s.batch * s.length, s.vocabulary, ++seed);
        const auto positions = random_ids(s.batch * s.length, places, ++seed);
        const TestTensor dy(dtype, Shape{s.batch, s.length, s.channels}, gradient, layout);
        const TestTensor token_ids(Dtype::kInt32, Shape{s.batch, s.length}, ids, layout);
        const TestTensor position_ids(Dtype::kInt32, Shape{s.batch, s.length}, positions);

        const auto expected = spelled_out(before, gradient, ids, columns, 0.3f);
        const auto place_expected = spelled_out(place_before, gradient, positions, columns, 1.0f);
        test::with_threads([&](int) {
          const TestTensor dtoken(Dtype::kFloat32, table_shape, before, layout);
          const TestTensor dposition(Dtype::kFloat32, place_shape, place_before, layout);
          embedding::embedding_backward(bench.stream(), dtoken.view(), dposition.view(), dy.view(), token_ids.view(),
                                        position_ids.view(), 0.3f);
          CHECK(dtoken.values() == expected);
          CHECK(dposition.values() == place_expected);
          CHECK(dtoken.intact());
          CHECK(dposition.intact());
        });

        // And near the sums in fp64: as many roundings as terms, of sums no greater than that of magnitudes.
        auto exact = before;
        reference::embedding_backward(exact, gradient, ids, columns, 0.3f);
        auto magnitude = before;
        auto absolute = gradient;
        for (double& value : magnitude) value = std::abs(value);
        for (double& value : absolute) value = std::abs(value);
        reference::embedding_backward(magnitude, absolute, ids, columns, 0.3f);
        test::check_close(expected, exact, [&](std::size_t i) {
          return 0x1p-24 * (static_cast<double>(ids.size()) + 2) * magnitude[i];
        });
      }
    }
  }
  CHECK(bench.ledger().current_bytes(core::Space::kDevice, core::Category::kWorkspace) == 0);
}

TEST_CASE("embedding: gradients of ids that are rare and frequent in turns") {
  // Ids with more than 256 occurrences are cut by columns, the others are gathered.
  test::Bench bench;
  std::vector<double> ids;
  const std::vector<int> counts{1, 300, 300, 2, 257, 256, 255, 1, 0, 1, 700, 1};
  for (std::size_t id = 0; id < counts.size(); ++id) ids.insert(ids.end(), static_cast<std::size_t>(counts[id]), id);
  const auto count = static_cast<std::int64_t>(ids.size());
  for (std::size_t i = 0; i < ids.size(); ++i) std::swap(ids[i], ids[i * 7919 % ids.size()]);
  const std::int64_t rows = std::ssize(counts);
  for (const std::int64_t columns : {1, 128, 300}) {
    const auto gradient = test::random_values(Shape{1, count, columns}, Dtype::kFloat32, 7);
    const auto before = test::random_values(Shape{rows, columns}, Dtype::kFloat32, 8);
    const TestTensor dy(Dtype::kFloat32, Shape{1, count, columns}, gradient);
    const TestTensor token_ids(Dtype::kInt32, Shape{1, count}, ids);
    const auto expected = spelled_out(before, gradient, ids, static_cast<std::size_t>(columns), 1.0f);
    test::with_threads([&](int) {
      const TestTensor dtoken(Dtype::kFloat32, Shape{rows, columns}, before);
      embedding::embedding_backward(bench.stream(), dtoken.view(), {}, dy.view(), token_ids.view());
      CHECK(dtoken.values() == expected);
      CHECK(dtoken.intact());
    });
  }
}

TEST_CASE("embedding: gradients of ids that differ in their upper bits only") {
  test::Bench bench;
  std::vector<double> ids;
  for (int i = 0; i < 90; ++i) ids.push_back(5 + i % 3 * 2048 + (i % 2 == 0 ? 0 : 1 << 22));
  const auto gradient = test::random_values(Shape{1, 90, 3}, Dtype::kFloat32, 9);
  const std::int64_t rows = (1 << 22) + 6000;
  const TestTensor dy(Dtype::kFloat32, Shape{1, 90, 3}, gradient);
  const TestTensor token_ids(Dtype::kInt32, Shape{1, 90}, ids);
  std::vector<float> memory(static_cast<std::size_t>(rows * 3), 0.1f);
  const core::TensorView dtoken(memory.data(), Dtype::kFloat32, Shape{rows, 3});
  embedding::embedding_backward(bench.stream(), dtoken, {}, dy.view(), token_ids.view());
  std::vector<double> narrow(ids);  // the six ids as 0 to 5
  const auto place = [](double id) { return (static_cast<int>(id) - 5) % (1 << 22) / 2048 + (id > 1 << 22 ? 3 : 0); };
  for (double& id : narrow) id = place(id);
  const auto expected = spelled_out(std::vector<double>(18, 0.1f), gradient, narrow, 3, 1.0f);
  for (const double id : ids) {
    for (std::size_t c = 0; c < 3; ++c) {
      REQUIRE(memory[static_cast<std::size_t>(id) * 3 + c] == expected[static_cast<std::size_t>(place(id)) * 3 + c]);
    }
  }
}

TEST_CASE("embedding: the gradient is the adjoint of the forward pass") {
  // y is linear in the tables, so a difference quotient of <dy, y> is exact but for rounding in fp64.
  const auto table = test::random_values(Shape{5, 3}, Dtype::kFloat32, 1);
  const auto dy = test::random_values(Shape{2, 4, 3}, Dtype::kFloat32, 2);
  const auto ids = random_ids(8, 5, 3);
  std::vector<double> gradient(15, 0.0);
  reference::embedding_backward(gradient, dy, ids, 3, 1.3);
  for (std::size_t i = 0; i < table.size(); ++i) {
    const auto loss = [&](double shift) {
      auto moved = table;
      moved[i] += shift;
      const auto y = reference::embedding_forward(moved, ids, 3, 1.3);
      double sum = 0;
      for (std::size_t k = 0; k < y.size(); ++k) sum += dy[k] * y[k];
      return sum;
    };
    CHECK(gradient[i] == Approx((loss(0.5) - loss(-0.5))).margin(1e-12));
  }
}

TEST_CASE("embedding: extreme values go through as the formula says") {
  test::Bench bench;
  const double inf = std::numeric_limits<double>::infinity();
  const std::vector<double> table{inf, -inf, 1e30, 1e-40, std::nan(""), 3e38, 0.0, -0.0};
  const TestTensor token_table(Dtype::kFloat32, Shape{8, 1}, table);
  const TestTensor ids(Dtype::kInt32, Shape{1, 8}, {0, 1, 2, 3, 4, 5, 6, 7});
  const TestTensor y(Dtype::kFloat32, Shape{1, 8, 1});
  embedding::embedding_forward(bench.stream(), y.view(), ids.view(), token_table.view(), {}, {}, 2.0f);
  std::vector<double> expected(8);
  for (std::size_t i = 0; i < 8; ++i) expected[i] = static_cast<float>(2.0f * static_cast<float>(table[i]));
  test::check_close(y.values(), expected, 0, 0);
  const TestTensor dtoken(Dtype::kFloat32, Shape{9, 1}, std::vector<double>(9, 1.0));
  embedding::embedding_backward(bench.stream(), dtoken.view(), {}, token_table.view().reshaped(Shape{1, 8, 1}),
                                ids.view());
  for (std::size_t i = 0; i < 8; ++i) expected[i] = static_cast<float>(1.0f + static_cast<float>(table[i]));
  expected.push_back(1.0);
  test::check_close(dtoken.values(), expected, 0, 0);
}

TEST_CASE("embedding: an id outside the table is named, and nothing is written") {
  test::Bench bench;
  const TestTensor table(Dtype::kBfloat16, Shape{4, 3}, std::vector<double>(12, 1.0));
  const TestTensor y(Dtype::kBfloat16, Shape{2, 2, 3});
  const std::string before = y.bytes();
  const TestTensor high(Dtype::kInt32, Shape{2, 2}, {0, 1, 2, 4});
  const TestTensor low(Dtype::kInt32, Shape{2, 2}, {0, -1, 2, 4});
  const TestTensor good(Dtype::kInt32, Shape{2, 2}, {0, 1, 2, 3});
  auto& stream = bench.stream();
  CHECK_THROWS_WITH(embedding::embedding_forward(stream, y.view(), high.view(), table.view()),
                    "embedding_forward: the id at [1, 1] is 4, not in [0, 4)");
  CHECK_THROWS_WITH(embedding::embedding_forward(stream, y.view(), low.view(), table.view()),
                    "embedding_forward: the id at [0, 1] is -1, not in [0, 4)");
  CHECK_THROWS_WITH(
      embedding::embedding_forward(stream, y.view(), good.view(), table.view(), high.view(), table.view()),
      "embedding_forward: the position at [1, 1] is 4, not in [0, 4)");
  CHECK(y.bytes() == before);

  const TestTensor dtoken(Dtype::kFloat32, Shape{4, 3}, std::vector<double>(12, 1.0));
  const TestTensor dy(Dtype::kFloat32, Shape{2, 2, 3}, std::vector<double>(12, 1.0));
  CHECK_THROWS_WITH(
      embedding::embedding_backward(stream, dtoken.view(), dtoken.view(), dy.view(), good.view(), high.view()),
      "embedding_backward: the position at [1, 1] is 4, not in [0, 4)");
  CHECK(dtoken.values() == std::vector<double>(12, 1.0));
}

TEST_CASE("embedding: tensors that do not go together are refused by name") {
  test::Bench bench;
  auto& stream = bench.stream();
  const TestTensor table(Dtype::kFloat32, Shape{4, 3});
  const TestTensor narrow(Dtype::kFloat32, Shape{4, 2});
  const TestTensor half(Dtype::kBfloat16, Shape{4, 3});
  const TestTensor y(Dtype::kFloat32, Shape{2, 2, 3});
  const TestTensor ids(Dtype::kInt32, Shape{2, 2}, {0, 1, 2, 3});
  const TestTensor more(Dtype::kInt32, Shape{2, 3});
  CHECK_THROWS_WITH(embedding::embedding_forward(stream, y.view(), ids.view(), narrow.view()),
                    "embedding_forward: token_table is fp32[4 x 2], not rows of 3 contiguous elements");
  CHECK_THROWS_WITH(embedding::embedding_forward(stream, y.view(), more.view(), table.view()),
                    "embedding_forward: y is fp32[2 x 2 x 3], not fp32, bf16 or fp16 [2 x 3 x 3]");
  CHECK_THROWS_WITH(embedding::embedding_forward(stream, y.view(), table.view(), table.view()),
                    "embedding_forward: ids is not an int32 tensor B x T");
  CHECK_THROWS_WITH(embedding::embedding_forward(stream, y.view(), ids.view(), table.view(), ids.view()),
                    "embedding_forward: positions and position_table go together");
  CHECK_THROWS_WITH(embedding::embedding_backward(stream, half.view(), {}, y.view(), ids.view()),
                    "embedding_backward: dtoken is bf16[4 x 3], not fp32[4 x 3]");
  CHECK_THROWS_WITH(embedding::embedding_backward(stream, table.view(), table.view(), y.view(), ids.view()),
                    "embedding_backward: positions and dposition go together");
  CHECK_THROWS_WITH(embedding::embedding_forward(stream, y.view().transposed(0, 1), ids.view(), table.view()),
                    Catch::Contains("are not evenly spaced"));
}

TEST_CASE("embedding: parts of a table add up to the bits of the whole, and take their rows of its gradient") {
  test::Bench bench;
  std::uint64_t seed = 4000;
  for (const Dtype dtype : kFloats) {
    for (const std::vector<std::int64_t>& widths : std::vector<std::vector<std::int64_t>>{{7, 6}, {1, 5, 3, 4}, {13}}) {
      const Shape shape{3, 20, 37};
      const Shape ids_shape{3, 20};
      const TestTensor table(dtype, Shape{13, 37}, test::random_values(Shape{13, 37}, dtype, ++seed));
      const TestTensor places(dtype, Shape{20, 37}, test::random_values(Shape{20, 37}, dtype, ++seed));
      const TestTensor ids(Dtype::kInt32, ids_shape, random_ids(60, 13, ++seed));
      const TestTensor positions(Dtype::kInt32, ids_shape, random_ids(60, 20, ++seed));
      const TestTensor dy(dtype, shape, test::random_values(shape, dtype, ++seed));
      const std::vector<double> before = test::random_values(Shape{13, 37}, Dtype::kFloat32, ++seed);
      const TestTensor whole(dtype, shape), dwhole(Dtype::kFloat32, Shape{13, 37}, before);
      embedding::embedding_forward(bench.stream(), whole.view(), ids.view(), table.view(), positions.view(),
                                   places.view(), 1.5f);
      embedding::embedding_backward(bench.stream(), dwhole.view(), {}, dy.view(), ids.view(), {}, 1.5f);

      std::vector<double> sum(static_cast<std::size_t>(shape.elements()), 0);
      const TestTensor dparts(Dtype::kFloat32, Shape{13, 37}, before);
      std::int64_t first = 0;
      for (std::size_t i = 0; i < widths.size(); first += widths[i++]) {
        const TestTensor y(Dtype::kFloat32, shape);
        const auto mine = [&](const core::TensorView& all) { return all.slice(0, first, first + widths[i]); };
        const bool with_places = i == 0;
        embedding::embedding_forward(bench.stream(), y.view(), ids.view(), mine(table.view()),
                                     with_places ? positions.view() : core::TensorView(),
                                     with_places ? places.view() : core::TensorView(), 1.5f, {first, 13});
        embedding::embedding_backward(bench.stream(), mine(dparts.view()), {}, dy.view(), ids.view(), {}, 1.5f,
                                      {first, 13});
        const std::vector<double> values = y.values();
        for (std::size_t j = 0; j < sum.size(); ++j) {
          sum[j] = static_cast<float>(sum[j]) + static_cast<float>(values[j]);
        }
      }
      const TestTensor summed(dtype, shape, sum);
      CHECK(summed.bytes() == whole.bytes());
      CHECK(dparts.bytes() == dwhole.bytes());
    }
  }
  const TestTensor table(Dtype::kFloat32, Shape{4, 2}, std::vector<double>(8, 1));
  const TestTensor ids(Dtype::kInt32, Shape{1, 1}, {9});
  const TestTensor y(Dtype::kFloat32, Shape{1, 1, 2});
  CHECK_THROWS_WITH(embedding::embedding_forward(bench.stream(), y.view(), ids.view(), table.view(), {}, {}, 1, {2, 9}),
                    Catch::Contains("not in [0, 9)"));
  CHECK_THROWS_WITH(embedding::embedding_forward(bench.stream(), y.view(), ids.view(), table.view(), {}, {}, 1, {6, 9}),
                    Catch::Contains("beyond the vocabulary"));
}
