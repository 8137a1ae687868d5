// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/tensor.h"

#include <array>
#include <catch2/catch.hpp>
#include <numeric>
#include <vector>

#include "kernels/core/error.h"

using namespace braise::core;
using Catch::Contains;

TEST_CASE("a shape counts its elements and refuses what is none") {
  CHECK(Shape{}.elements() == 1);
  CHECK(Shape{2, 3, 4}.elements() == 24);
  CHECK(Shape{5, 0, std::int64_t{1} << 40}.elements() == 0);
  CHECK(Shape{2, 3} == Shape{2, 3});
  CHECK_FALSE(Shape{2, 3} == Shape{2, 3, 1});
  CHECK(Shape{4, 1024}.text() == "4 x 1024");
  CHECK_THROWS_WITH((Shape{2, -1}), Contains("negative"));
  CHECK_THROWS_WITH((Shape{1, 1, 1, 1, 1, 1, 1}), Contains("at most 6"));
  CHECK_THROWS_WITH((Shape{std::int64_t{1} << 40, std::int64_t{1} << 40}), Contains("2^62"));
  CHECK_THROWS_WITH((Shape{0, std::int64_t{1} << 40, std::int64_t{1} << 40}), Contains("2^62"));
}

TEST_CASE("views slice, select, transpose and reshape over the same elements") {
  std::vector<float> data(24);
  std::iota(data.begin(), data.end(), 0.0f);
  const TensorView whole(data.data(), Dtype::kFloat32, Shape{2, 3, 4});
  CHECK(whole.contiguous());
  CHECK(whole.bytes() == 96);

  const TensorView slice = whole.slice(1, 1, 3);
  CHECK(slice.shape() == Shape{2, 2, 4});
  CHECK_FALSE(slice.contiguous());
  CHECK(slice.rows_contiguous());
  CHECK(slice.data<float>()[0] == 4);
  CHECK_THROWS_WITH(slice.reshaped(Shape{16}), Contains("cannot be seen as"));
  CHECK_THROWS_WITH(slice.as_rows(), Contains("not evenly spaced"));
  CHECK(whole.slice(0, 2, 2).elements() == 0);

  const TensorView column = whole.select(2, 3);
  CHECK(column.shape() == Shape{2, 3});
  CHECK(column.stride(0) == 12);
  CHECK(column.stride(1) == 4);
  CHECK(column.data<float>()[0] == 3);

  const TensorView crossed = whole.transposed(0, -1);
  CHECK(crossed.shape() == Shape{4, 3, 2});
  CHECK(crossed.stride(0) == 1);
  CHECK(crossed.stride(2) == 12);

  CHECK(whole.reshaped(Shape{6, 4}).stride(0) == 4);
  CHECK(whole.as_rows().shape() == Shape{6, 4});
  const TensorView last = whole.slice(2, 1, 3).as_rows();  // evenly spaced rows of part of the columns
  CHECK(last.shape() == Shape{6, 2});
  CHECK(last.stride(0) == 4);

  CHECK_THROWS_WITH(whole.data<Bfloat16>(), Contains("was read as bf16"));
  CHECK_THROWS_WITH(whole.slice(3, 0, 1), Contains("dimension 3"));
  CHECK_THROWS_WITH(whole.slice(0, 1, 3), Contains("slice [1, 3)"));
  CHECK_THROWS_WITH(require_tensor("op", "weight", whole, Dtype::kFloat32, Shape{4}),
                    Contains("op: weight is fp32[2 x 3 x 4], not fp32[4]"));
  CHECK_THROWS_WITH(require_tensor("op", "weight", ConstTensorView(), Dtype::kFloat32, Shape{4}),
                    Contains("weight is no tensor"));
}

TEST_CASE("int4 rows start on bytes") {
  std::vector<std::uint8_t> data(6);
  const TensorView odd(data.data(), Dtype::kInt4, Shape{3, 3});
  CHECK(odd.bytes() == 6);
  CHECK(static_cast<const std::uint8_t*>(odd.slice(0, 2, 3).raw()) == data.data() + 4);
  CHECK_THROWS_WITH(odd.slice(1, 0, 1), Contains("by rows only"));
  CHECK_THROWS_WITH(odd.transposed(0, 1), Contains("no transposed view"));
}

TEST_CASE("the names of dtypes go both ways") {
  for (const Dtype dtype :
       {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16, Dtype::kInt8, Dtype::kInt4, Dtype::kInt32}) {
    CHECK(dtype_named(name(dtype)) == dtype);
  }
  CHECK_FALSE(dtype_named("float").has_value());
}
