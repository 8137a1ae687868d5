// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/weights/safetensors.h"

#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "kernels/core/error.h"
#include "kernels/core/random.h"
#include "stages/shared/io/file.h"
#include "tests/support/support.h"
#include "tests/support/tensors.h"
#include "tests/support/weight_files.h"

namespace braise::weights {
namespace {

namespace fs = std::filesystem;
using Catch::Contains;
using core::Dtype;
using core::Shape;
using test::Bench;
using test::Layout;
using test::little;
using test::safetensors_file;
using test::TemporaryFolder;
using test::TestTensor;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// The message with which a file of these bytes is refused, without the file's name.
std::string refusal(const std::string& bytes) {
  const TemporaryFolder folder;
  const fs::path path = folder.write("x.safetensors", bytes);
  try {
    open_safetensors(path);
  } catch (const core::Error& error) {
    const std::string message = error.what();
    CHECK(message.starts_with(path.string() + ": "));
    return message.substr(path.string().size() + 2);
  }
  return "not refused";
}

/// A file of one tensor.
class OneTensor {
 public:
  OneTensor(const std::string& dtype, const std::string& shape, const std::string& data)
      : file_(open_safetensors(folder_.write(
            "one.safetensors", safetensors_file("{\"x\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
                                                    ",\"data_offsets\":[0," + std::to_string(data.size()) + "]}}",
                                                data)))) {}

  std::vector<double> read(Dtype dtype) const {
    Bench bench;
    TestTensor out(dtype, file_.weights.tensor("x").shape);
    file_.weights.read(bench.stream(), "x", out.view());
    CHECK(out.intact());
    return out.values();
  }

 private:
  TemporaryFolder folder_;
  Safetensors file_;
};

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  std::string bytes;
  for (const T value : values) bytes += little(value);
  return bytes;
}

TEST_CASE("a file is opened with all it says") {
  const TemporaryFolder folder;
  const std::string header = R"({"__metadata__":{"format":"pt","note":"\u00e9"},)"
                             R"("b":{"dtype":"F32","shape":[2,1],"data_offsets":[4,12]},)"
                             R"("a.weight":{"data_offsets":[0,4],"shape":[],"dtype":"F32"},)"
                             R"("none":{"dtype":"I64","shape":[3,0,5],"data_offsets":[12,12]}}   )";
  const fs::path path = folder.write("x.safetensors", safetensors_file(header, bytes_of<float>({1.5f, 2.0f, -3.0f})));
  const Safetensors file = open_safetensors(path);
  CHECK(file.metadata == std::map<std::string, std::string>{{"format", "pt"}, {"note", "\u00e9"}});
  const auto tensors = file.weights.tensors();
  REQUIRE(tensors.size() == 3);
  CHECK(tensors[0].name == "a.weight");
  CHECK(tensors[0].shape == Shape());
  CHECK(tensors[1].name == "b");
  CHECK(tensors[1].type == "F32");
  CHECK(tensors[1].shape == Shape{2, 1});
  CHECK(tensors[1].bytes.size() == 8);
  CHECK(tensors[2].shape == Shape{3, 0, 5});
  CHECK(tensors[2].bytes.empty());
  CHECK(file.weights.find("c") == nullptr);
  CHECK_THROWS_WITH(file.weights.tensor("c"), path.string() + ": there is no tensor \"c\" among its 3");
  Bench bench;
  TestTensor scalar(Dtype::kFloat16, Shape()), pair(Dtype::kFloat32, {2, 1}), none(Dtype::kInt32, {3, 0, 5});
  file.weights.read(bench.stream(), "a.weight", scalar.view());
  file.weights.read(bench.stream(), "b", pair.view());
  file.weights.read(bench.stream(), "none", none.view());
  CHECK(scalar.values() == std::vector<double>{1.5});
  CHECK(pair.values() == std::vector<double>{2, -3});
  CHECK(open_weights(path).tensors().size() == 3);
}

TEST_CASE("a file without tensors is a file") {
  const TemporaryFolder folder;
  CHECK(open_safetensors(folder.write("x.safetensors", safetensors_file("{}"))).weights.tensors().empty());
}

TEST_CASE("every fp8 is what its format says") {
  std::string codes;
  for (int i = 0; i < 256; ++i) codes += static_cast<char>(i);
  const auto e5m2 = OneTensor("F8_E5M2", "[256]", codes).read(Dtype::kFloat32);
  const auto e4m3 = OneTensor("F8_E4M3", "[256]", codes).read(Dtype::kFloat32);
  for (std::size_t i = 0; i < 256; ++i) {
    CAPTURE(i);
    const double sign = i < 128 ? 1 : -1;
    const int five = static_cast<int>(i >> 2 & 31), two = static_cast<int>(i & 3);
    const int four = static_cast<int>(i >> 3 & 15), three = static_cast<int>(i & 7);
    if (five == 31) {
      CHECK((two == 0 ? e5m2[i] == sign * kInfinity : std::isnan(e5m2[i])));
    } else {
      CHECK(e5m2[i] == sign * (five == 0 ? two / 4.0 * 0x1p-14 : (1 + two / 4.0) * std::exp2(five - 15)));
    }
    if (four == 15 && three == 7) {
      CHECK(std::isnan(e4m3[i]));
    } else {
      CHECK(e4m3[i] == sign * (four == 0 ? three / 8.0 * 0x1p-6 : (1 + three / 8.0) * std::exp2(four - 7)));
    }
    CHECK(std::signbit(e5m2[i]) == (i >= 128));
  }
  CHECK(e4m3[0x7e] == 448);
  CHECK(e5m2[0x7b] == 57344);
  // All but E5M2's range are exact in fp16, all in bf16.
  CHECK(OneTensor("F8_E4M3", "[127]", codes.substr(0, 127)).read(Dtype::kFloat16) ==
        std::vector<double>(e4m3.begin(), e4m3.begin() + 127));
  CHECK(OneTensor("F8_E5M2", "[124]", codes.substr(0, 124)).read(Dtype::kBfloat16) ==
        std::vector<double>(e5m2.begin(), e5m2.begin() + 124));
}

TEST_CASE("fp64 is rounded once") {
  const core::RandomStream random(4, core::Purpose::kData);
  std::vector<double> values{0.0,       -0.0,           1e300,        -1e300,   1e-300,           -1e-320, kInfinity,
                             65504,     65519.99999999, 65520,        0x1p-25,  0x1.8p-25,        0x1p-24, 3.39e38,
                             3.3961e38, 3.4028235e38,   3.4028236e38, 0x1p-150, 0x1.0000001p-150, 0x1p-149};
  // Just above, at and below the middle between two bf16 or fp16: what rounding twice gets wrong.
  for (const double middle : {1 + 0x1p-8, 1 + 0x1p-11, 1 + 3 * 0x1p-8, 1 + 3 * 0x1p-11, 0x1.8p-25}) {
    for (const double near : {middle, middle * (1 + 0x1p-50), middle * (1 - 0x1p-50)}) values.push_back(near);
  }
  for (std::uint64_t i = 0; i < 3000; ++i) {
    const double wide = std::ldexp(1.0 + random.word(3 * i) * 0x1p-32 + random.word(3 * i + 1) * 0x1p-64,
                                   static_cast<int>(random.word(3 * i + 2) % 300) - 150);
    values.push_back(i % 2 == 0 ? wide : -wide);
  }
  const OneTensor file("F64", "[" + std::to_string(values.size()) + "]", bytes_of(values));
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}) {
    CAPTURE(core::name(dtype));
    auto expected = values;
    for (double& value : expected) value = test::rounded(value, dtype);
    test::check_close(file.read(dtype), expected, 0, 0);
  }
  CHECK(std::isnan(OneTensor("F64", "[]", little(std::nan(""))).read(Dtype::kBfloat16)[0]));
}

TEST_CASE("floats of 16 and 32 bits become each other") {
  const std::vector<double> values{1, -2.5, 0x1.8p-10, 65504, 0, 3};
  const TestTensor fp32(Dtype::kFloat32, {6}, values), bf16(Dtype::kBfloat16, {6}, values),
      fp16(Dtype::kFloat16, {6}, values);
  for (const auto& [name, tensor] : {std::pair{"F32", &fp32}, {"BF16", &bf16}, {"F16", &fp16}}) {
    const OneTensor file(name, "[2,3]", tensor->bytes());
    for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}) {
      auto expected = tensor->values();
      for (double& value : expected) value = test::rounded(value, dtype);
      CHECK(file.read(dtype) == expected);
    }
  }
}

TEST_CASE("integers are read where they fit") {
  const std::vector<double> small{0, 1, 100, 127};
  const std::vector<double> with_negative{-128, -1, 0, 127};
  for (const Dtype dtype : {Dtype::kInt8, Dtype::kInt32}) {
    CHECK(OneTensor("U8", "[4]", bytes_of<std::uint8_t>({0, 1, 100, 127})).read(dtype) == small);
    CHECK(OneTensor("U16", "[4]", bytes_of<std::uint16_t>({0, 1, 100, 127})).read(dtype) == small);
    CHECK(OneTensor("U32", "[4]", bytes_of<std::uint32_t>({0, 1, 100, 127})).read(dtype) == small);
    CHECK(OneTensor("U64", "[4]", bytes_of<std::uint64_t>({0, 1, 100, 127})).read(dtype) == small);
    CHECK(OneTensor("I8", "[4]", bytes_of<std::int8_t>({-128, -1, 0, 127})).read(dtype) == with_negative);
    CHECK(OneTensor("I16", "[4]", bytes_of<std::int16_t>({-128, -1, 0, 127})).read(dtype) == with_negative);
    CHECK(OneTensor("I32", "[4]", bytes_of<std::int32_t>({-128, -1, 0, 127})).read(dtype) == with_negative);
    CHECK(OneTensor("I64", "[4]", bytes_of<std::int64_t>({-128, -1, 0, 127})).read(dtype) == with_negative);
    CHECK(OneTensor("BOOL", "[2]", std::string("\0\1", 2)).read(dtype) == std::vector<double>{0, 1});
  }
  CHECK(OneTensor("I64", "[2]", bytes_of<std::int64_t>({-2147483648, 2147483647})).read(Dtype::kInt32) ==
        std::vector<double>{-2147483648.0, 2147483647.0});
}

TEST_CASE("integers that do not fit are named") {
  const auto message = [](const char* dtype, const std::string& data, std::size_t elements, Dtype to) -> std::string {
    try {
      OneTensor(dtype, "[" + std::to_string(elements) + "]", data).read(to);
    } catch (const core::Error& error) {
      const std::string text = error.what();
      return text.substr(text.find("tensor \""));
    }
    return "not refused";
  };
  CHECK(message("I16", bytes_of<std::int16_t>({1, -129}), 2, Dtype::kInt8) ==
        "tensor \"x\": element 1 is -129; int8 cannot hold it");
  CHECK(message("U8", "\x80", 1, Dtype::kInt8) == "tensor \"x\": element 0 is 128; int8 cannot hold it");
  CHECK(message("I64", bytes_of<std::int64_t>({std::numeric_limits<std::int64_t>::min()}), 1, Dtype::kInt32) ==
        "tensor \"x\": element 0 is -9223372036854775808; int32 cannot hold it");
  CHECK(message("U64", bytes_of<std::uint64_t>({~0ull}), 1, Dtype::kInt32) ==
        "tensor \"x\": element 0 is 18446744073709551615; int32 cannot hold it");
  CHECK(message("BOOL", "\x02", 1, Dtype::kInt32) == "tensor \"x\": element 0 is 2; a BOOL is 0 or 1");
  // Counted over all pieces.
  std::string many(70000 * 2, '\0');
  many[2 * 69999 + 1] = 1;
  CHECK(message("U16", many, 70000, Dtype::kInt8) == "tensor \"x\": element 69999 is 256; int8 cannot hold it");
  CHECK(message("I32", little(1), 1, Dtype::kFloat32) ==
        "tensor \"x\" is I32[1] and cannot be read into fp32[1]; its shape must be the same, its type int32 or int8");
  CHECK(message("F32", little(1.0f), 1, Dtype::kInt32) ==
        "tensor \"x\" is F32[1] and cannot be read into int32[1]; its shape must be the same, its type fp32, bf16 or "
        "fp16");
  CHECK(message("U8", "\1", 1, Dtype::kInt4).find("cannot be read into int4[1]") != std::string::npos);
}

TEST_CASE("a destination has the tensor's shape") {
  Bench bench;
  const TemporaryFolder folder;
  const auto file = open_safetensors(folder.write(
      "x.safetensors",
      safetensors_file(R"({"x":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}})", bytes_of<float>({1, 2, 3, 4}))));
  const TestTensor wrong(Dtype::kFloat32, {4});
  CHECK_THROWS_WITH(file.weights.read(bench.stream(), "x", wrong.view()),
                    Contains("tensor \"x\" is F32[2 x 2] and cannot be read into fp32[4]"));
  CHECK_THROWS_WITH(file.weights.read(bench.stream(), "x", core::TensorView()), Contains("into no tensor"));
}

TEST_CASE("strided destinations and tensors longer than a piece are read whole") {
  Bench bench;
  const TemporaryFolder folder;
  struct Case {
    const char* dtype;
    Dtype to;
    Shape shape;
  };
  for (const Case& one : {Case{"F64", Dtype::kBfloat16, {3, 70000}}, Case{"F64", Dtype::kFloat32, {1000, 150}},
                          Case{"F32", Dtype::kFloat16, {7, 33}}, Case{"I16", Dtype::kInt32, {2, 300, 130}},
                          Case{"F8_E4M3", Dtype::kFloat32, {130001}}}) {
    CAPTURE(one.dtype, one.shape.text());
    const core::RandomStream random(8, core::Purpose::kData);
    std::string data;
    std::vector<double> expected;
    for (std::int64_t i = 0; i < one.shape.elements(); ++i) {
      const auto word = static_cast<std::int16_t>(random.word(static_cast<std::uint64_t>(i)) >> 16);
      const std::string dtype = one.dtype;
      double value = word;
      if (dtype == "F64") {
        value = word / 7.0;
        data += little(value);
      } else if (dtype == "F32") {
        value = static_cast<float>(word) / 7.0f;
        data += little(static_cast<float>(value));
      } else if (dtype == "I16") {
        data += little(word);
      } else {
        value = (word & 7) * 0x1p-9;
        data += static_cast<char>(word & 7);
      }
      expected.push_back(test::rounded(value, one.to));
    }
    std::string shape;
    for (const auto extent : one.shape.extents()) shape += (shape.empty() ? "[" : ",") + std::to_string(extent);
    const auto file = open_safetensors(folder.write(
        "x.safetensors", safetensors_file(std::string("{\"x\":{\"dtype\":\"") + one.dtype + "\",\"shape\":" + shape +
                                              "],\"data_offsets\":[0," + std::to_string(data.size()) + "]}}",
                                          data)));
    for (const Layout layout : {Layout::kContiguous, Layout::kPaddedRows}) {
      TestTensor out(one.to, one.shape, layout);
      file.weights.read(bench.stream(), "x", out.view());
      test::check_close(out.values(), expected, 0, 0);
      CHECK(out.intact());
    }
  }
}

TEST_CASE("a tensor can be read into a transposed one") {
  Bench bench;
  const TemporaryFolder folder;
  for (const char* dtype : {"F32", "F64"}) {
    std::string data;
    for (int i = 0; i < 6; ++i)
      data += dtype[1] == '3' ? little(static_cast<float>(i)) : little(static_cast<double>(i));
    const auto file =
        open_safetensors(folder.write("x.safetensors", safetensors_file(std::string("{\"x\":{\"dtype\":\"") + dtype +
                                                                            "\",\"shape\":[2,3],\"data_offsets\":[0," +
                                                                            std::to_string(data.size()) + "]}}",
                                                                        data)));
    TestTensor out(Dtype::kFloat32, {3, 2});
    file.weights.read(bench.stream(), "x", out.view().transposed(0, 1));
    CHECK(out.values() == std::vector<double>{0, 3, 1, 4, 2, 5});
  }
}

TEST_CASE("a view is the mapped file itself, where it lies aligned") {
  const TemporaryFolder folder;
  const auto open = [&](const std::string& padding) {
    return open_safetensors(
        folder.write("x.safetensors",
                     safetensors_file(R"({"b":{"dtype":"BF16","shape":[2],"data_offsets":[8,12]},)"
                                      R"("f":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                                      R"("i":{"dtype":"U8","shape":[2],"data_offsets":[12,14]}})" +
                                          padding,
                                      bytes_of<float>({1, 2}) + bytes_of<std::uint16_t>({0x3f80, 0x4000}) + "\1\2")));
  };
  Bench bench;
  for (std::size_t spaces = 0; spaces < 4; ++spaces) {
    const Safetensors file = open(std::string(spaces, ' '));
    const core::ConstTensorView f = file.weights.view("f");
    const core::ConstTensorView b = file.weights.view("b");
    const auto address = reinterpret_cast<std::uintptr_t>(file.weights.tensor("f").bytes.data());
    CHECK(static_cast<bool>(f) == (address % 4 == 0));
    CHECK(static_cast<bool>(b) == (address % 2 == 0));
    CHECK_FALSE(file.weights.view("i"));
    if (f) {
      CHECK(f.raw() == file.weights.tensor("f").bytes.data());
      CHECK(f.data<float>()[1] == 2.0f);
    }
    // However it lies, it can be read.
    TestTensor out(Dtype::kFloat32, {2}), half(Dtype::kBfloat16, {2});
    file.weights.read(bench.stream(), "f", out.view());
    file.weights.read(bench.stream(), "b", half.view());
    CHECK(out.values() == std::vector<double>{1, 2});
    CHECK(half.values() == std::vector<double>{1, 2});
  }
}

TEST_CASE("a file that changes after it was opened is refused") {
  Bench bench;
  const TemporaryFolder folder;
  const std::string bytes =
      safetensors_file(R"({"x":{"dtype":"F32","shape":[2048],"data_offsets":[0,8192]}})", std::string(8192, '\0'));
  const fs::path path = folder.write("x.safetensors", bytes);
  TestTensor out(Dtype::kFloat32, {2048});
  SECTION("cut short") {
    const Safetensors file = open_safetensors(path);
    fs::resize_file(path, 100);
    const std::string message = path.string() + ": had " + std::to_string(bytes.size()) +
                                " bytes when it was opened, and now 100; it must not change while it is read";
    CHECK_THROWS_WITH(file.weights.read(bench.stream(), "x", out.view()), message);
    CHECK_THROWS_WITH(file.weights.view("x"), message);
  }
  SECTION("cut short unseen, by pages") {
    const MappedFile file(path);
    fs::resize_file(path, 100);
    CHECK_THROWS_WITH(file.bring_in(file.bytes()), Contains("cannot read " + path.string() + " at byte 0: "));
  }
  SECTION("rewritten") {
    const Safetensors file = open_safetensors(path);
    fs::last_write_time(path, fs::last_write_time(path) + std::chrono::seconds(1));
    CHECK_THROWS_WITH(file.weights.read(bench.stream(), "x", out.view()),
                      path.string() + ": was written to since it was opened; it must not change while it is read");
  }
  SECTION("replaced, which is harmless") {
    const Safetensors file = open_safetensors(path);
    folder.write("x.safetensors", "something else");
    file.weights.read(bench.stream(), "x", out.view());
    CHECK(out.values() == std::vector<double>(2048, 0.0));
  }
}

TEST_CASE("what is no file is refused") {
  const TemporaryFolder folder;
  CHECK_THROWS_WITH(open_safetensors(folder.path()), folder.path().string() + " is a folder, not a file");
  CHECK_THROWS_WITH(open_safetensors(folder.path() / "none"),
                    "cannot open " + (folder.path() / "none").string() + ": No such file or directory");
  const fs::path pipe = folder.path() / "pipe";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  CHECK_THROWS_WITH(open_safetensors(pipe), pipe.string() + " is not a regular file");
  CHECK_THROWS_WITH(open_weights(folder.path() / "model.bin"), Contains("not the name of a weight file"));
}

TEST_CASE("files that are no safetensors are refused") {
  CHECK(refusal("") == "has 0 bytes; a safetensors file begins with the 8 of its header's length");
  CHECK(refusal("1234567") == "has 7 bytes; a safetensors file begins with the 8 of its header's length");
  CHECK(refusal(little<std::uint64_t>(3) + "{}") ==
        "the header should have 3 bytes, and the file ends after 2; it is cut short, or no safetensors file");
  CHECK(refusal(little<std::uint64_t>(~0ull) + "{}") ==
        "the header should have 18446744073709551615 bytes, and the file ends after 2; it is cut short, or no "
        "safetensors file");
  CHECK(refusal(safetensors_file("")) == "the header does not begin with {; this is no safetensors file");
  CHECK(refusal(safetensors_file(" {}")) == "the header does not begin with {; this is no safetensors file");
  CHECK(refusal(safetensors_file("[]")) == "the header does not begin with {; this is no safetensors file");
}

TEST_CASE("headers longer than the format allows are refused") {
  const TemporaryFolder folder;
  const fs::path path = folder.write("x.safetensors", little<std::uint64_t>(100'000'001) + "{}");
  fs::resize_file(path, 100'000'009);
  CHECK_THROWS_WITH(open_safetensors(path),
                    path.string() + ": the header has 100000001 bytes; at most 100000000 are allowed");
}

TEST_CASE("headers that are not as they must be are refused") {
  const auto header = [](const std::string& text, std::size_t data = 0) {
    return refusal(safetensors_file(text, std::string(data, '\0')));
  };
  const auto tensor = [&](const std::string& dtype, const std::string& shape, const std::string& offsets,
                          std::size_t data = 4) {
    return header("{\"x\":{\"dtype\":" + dtype + ",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}}", data);
  };
  // JSON.
  CHECK(header("{") ==
        "header: not JSON at byte 2: \"syntax error while parsing object key - unexpected end of input; expected "
        "string literal\"");
  CHECK(header("{} x") ==
        "header: not JSON at byte 4: \"syntax error while parsing value - invalid literal; last read: '{} x'; expected "
        "end of input\"");
  CHECK_THAT(header("{\"a\xff\": 1}"), Contains("header: not JSON at byte 4") && Contains("ill-formed UTF-8"));
  CHECK_THAT(header("{\"\\ud800\": 1}"), Contains("header: not JSON at byte 9") && Contains("surrogate"));
  CHECK_THAT(header("{\"a\n\": 1}"), Contains("header: not JSON at byte 4") && Contains("control character"));
  // The outermost object.
  CHECK(header(R"({"x":1})") == "header: 1 stands where there should be the object of tensor \"x\"");
  CHECK(header(R"({"x":null})") == "header: null stands where there should be the object of tensor \"x\"");
  CHECK(header(R"({"x":[[[[[[]]]]]]})") == "header: a list stands where there should be the object of tensor \"x\"");
  CHECK(header(R"({"x":{"dtype":"U8","shape":[],"data_offsets":[0,1]},"x":{}})") ==
        "header: the name \"x\" is given twice");
  CHECK(header(R"({"__metadata__":{},"__metadata__":{}})") == "header: the name \"__metadata__\" is given twice");
  CHECK(header(R"({"__metadata__":"pt"})") == "header: \"pt\" stands where there should be the object of __metadata__");
  CHECK(header(R"({"__metadata__":{"a":1}})") ==
        "header: 1 stands where there should be the text of key \"a\" of __metadata__");
  CHECK(header(R"({"__metadata__":{"a":{"b":"c"}}})") ==
        "header: an object stands where there should be the text of key \"a\" of __metadata__");
  CHECK(header(R"({"__metadata__":{"a":"1","a":"1"}})") == "header: the key \"a\" of __metadata__ is given twice");
  // A tensor.
  CHECK(header(R"({"x":{}})") == "header: tensor \"x\": dtype is missing");
  CHECK(header(R"({"x":{"dtype":"U8","data_offsets":[0,1]}})") == "header: tensor \"x\": shape is missing");
  CHECK(header(R"({"x":{"dtype":"U8","shape":[1]}})") == "header: tensor \"x\": data_offsets is missing");
  CHECK(header(R"({"x":{"dtype":"U8","dtype":"U8"}})") == "header: tensor \"x\": the key \"dtype\" is given twice");
  CHECK(header(R"({"x":{"shape":[],"shape":[]}})") == "header: tensor \"x\": the key \"shape\" is given twice");
  CHECK(header(R"({"x":{"offset":0}})") ==
        "header: tensor \"x\": unknown key \"offset\"; a tensor has dtype, shape and data_offsets");
  CHECK(tensor("\"Q4_0\"", "[1]", "[0,4]") ==
        "header: tensor \"x\": unknown dtype \"Q4_0\"; known are BOOL, U8, I8, F8_E5M2, F8_E4M3, I16, U16, F16, BF16, "
        "I32, U32, F32, F64, I64 and U64");
  CHECK(tensor("4", "[1]", "[0,4]") == "header: 4 stands where there should be the name of a dtype of tensor \"x\"");
  CHECK(tensor("\"F32\"", "1", "[0,4]") == "header: 1 stands where there should be the list shape of tensor \"x\"");
  CHECK(tensor("\"F32\"", "{}", "[0,4]") ==
        "header: an object stands where there should be the list shape of tensor \"x\"");
  // Numbers.
  const std::string number = " stands where there should be a whole number, 0 or more and below 2^64, in ";
  CHECK(tensor("\"F32\"", "[-1]", "[0,4]") == "header: -1" + number + "shape of tensor \"x\"");
  CHECK(tensor("\"F32\"", "[1.5]", "[0,4]") == "header: 1.5" + number + "shape of tensor \"x\"");
  CHECK(tensor("\"F32\"", "[1.0]", "[0,4]") == "header: 1.0" + number + "shape of tensor \"x\"");
  CHECK(tensor("\"F32\"", "[1e0]", "[0,4]") == "header: 1e0" + number + "shape of tensor \"x\"");
  CHECK(tensor("\"F32\"", "[18446744073709551616]", "[0,4]") ==
        "header: 18446744073709551616" + number + "shape of tensor \"x\"");
  CHECK(tensor("\"F32\"", "[\"1\"]", "[0,4]") == "header: \"1\"" + number + "shape of tensor \"x\"");
  CHECK(tensor("\"F32\"", "[null]", "[0,4]") == "header: null" + number + "shape of tensor \"x\"");
  CHECK(tensor("\"F32\"", "[[1]]", "[0,4]") == "header: a list" + number + "shape of tensor \"x\"");
  CHECK(tensor("\"F32\"", "[true]", "[0,4]") == "header: true" + number + "shape of tensor \"x\"");
  CHECK(tensor("\"F32\"", "[1]", "[0,-4]") == "header: -4" + number + "data_offsets of tensor \"x\"");
  CHECK_THAT(tensor("\"F32\"", "[NaN]", "[0,4]"), Contains("header: not JSON at byte "));
  CHECK_THAT(tensor("\"F32\"", "[1e999]", "[0,4]"), Contains("header: not JSON at byte ") && Contains("1e999"));
  CHECK(tensor("\"F32\"", "[1,1,1,1,1,1,1]", "[0,4]") ==
        "header: tensor \"x\": more than 6 dimensions, which are the most supported");
  CHECK(tensor("\"F32\"", "[1]", "[0]") == "header: tensor \"x\": data_offsets has 1 numbers, not two");
  CHECK(tensor("\"F32\"", "[1]", "[0,4,8]") == "header: tensor \"x\": data_offsets has more than two numbers");
  CHECK(tensor("\"F32\"", "[1]", "[4,0]") == "header: tensor \"x\": data_offsets ends (0) before it begins (4)");
  CHECK(tensor("\"F32\"", "[4294967296,4294967296]", "[0,4]") ==
        "header: tensor \"x\": the shape has more than 2^62 elements");
  CHECK(tensor("\"F32\"", "[0,4294967296,4294967296]", "[0,0]") ==
        "header: tensor \"x\": the shape has more than 2^62 elements");
  CHECK(tensor("\"F64\"", "[2305843009213693952]", "[0,0]", 0) ==
        "tensor \"x\": F64[2305843009213693952] does not take the 0 bytes that data_offsets gives it");
  // Names in messages are cut and clean.
  CHECK(header("{\"" + std::string(1000, 'n') + "\":1}") ==
        "header: 1 stands where there should be the object of tensor \"" + std::string(160, 'n') + "...\"");
  CHECK(header(R"({"a\u0000\n":1})") == "header: 1 stands where there should be the object of tensor \"a\\u0000\\n\"");
}

TEST_CASE("data that the tensors do not fill exactly is refused") {
  const auto two = [](const std::string& a, const std::string& b, std::size_t data) {
    return refusal(safetensors_file("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" + a +
                                        "},\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" + b + "}}",
                                    std::string(data, '\0')));
  };
  CHECK(two("[0,4]", "[4,8]", 8) == "not refused");
  CHECK(two("[4,8]", "[0,4]", 8) == "not refused");
  CHECK(two("[0,4]", "[4,8]", 7) == "tensor \"b\": bytes [4, 8) are past the end of the data, which has 7");
  CHECK(two("[0,4]", "[4,8]", 9) == "bytes [8, 9) of the data, after the last tensor, belong to no tensor");
  CHECK(two("[0,4]", "[5,9]", 9) == "bytes [4, 5) of the data, before tensor \"b\", belong to no tensor");
  CHECK(two("[1,5]", "[5,9]", 9) == "bytes [0, 1) of the data, before tensor \"a\", belong to no tensor");
  CHECK(two("[0,4]", "[3,7]", 8) == "tensor \"b\": bytes [3, 7) overlap those of tensor \"a\", [0, 4)");
  CHECK(two("[0,4]", "[0,4]", 4) == "tensor \"b\": bytes [0, 4) overlap those of tensor \"a\", [0, 4)");
  CHECK(two("[0,4]", "[18446744073709551611,18446744073709551615]", 8) ==
        "tensor \"b\": bytes [18446744073709551611, 18446744073709551615) are past the end of the data, which has 8");
  CHECK(two("[0,5]", "[5,9]", 9) == "tensor \"a\": U8[4] does not take the 5 bytes that data_offsets gives it");
  CHECK(refusal(safetensors_file("{}", "x")) == "bytes [0, 1) of the data, after the last tensor, belong to no tensor");
}

}  // namespace
}  // namespace braise::weights
