// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/weights/gguf.h"

#include <catch2/catch.hpp>

#include "kernels/core/error.h"
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
using test::GgufBuilder;
using test::Layout;
using test::little;
using test::TemporaryFolder;
using test::TestTensor;

Gguf opened(const TemporaryFolder& folder, const std::string& bytes) {
  return open_gguf(folder.write("x.gguf", bytes));
}

/// The message with which a file of these bytes is refused, without the file's name.
std::string refusal(const std::string& bytes) {
  const TemporaryFolder folder;
  const fs::path path = folder.write("x.gguf", bytes);
  try {
    open_gguf(path);
  } catch (const core::Error& error) {
    const std::string message = error.what();
    CHECK(message.starts_with(path.string() + ": "));
    return message.substr(path.string().size() + 2);
  }
  return "not refused";
}

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  std::string bytes;
  for (const T value : values) bytes += little(value);
  return bytes;
}

TEST_CASE("metadata of every type is read") {
  const TemporaryFolder folder;
  for (const std::uint32_t version : {2u, 3u}) {
    GgufBuilder builder(version);
    builder.value("u8", 0, little<std::uint8_t>(200))
        .value("i8", 1, little<std::int8_t>(-100))
        .value("u16", 2, little<std::uint16_t>(60000))
        .value("i16", 3, little<std::int16_t>(-30000))
        .value("u32", 4, little<std::uint32_t>(4000000000u))
        .value("i32", 5, little<std::int32_t>(-2000000000))
        .value("f32", 6, little(0.5f))
        .value("bool", 7, "\1")
        .value("text", 8, GgufBuilder::text(std::string("a\0\xff", 3)))
        .value("u64", 10, little<std::uint64_t>(~0ull))
        .value("i64", 11, little<std::int64_t>(-5))
        .value("f64", 12, little(0.1));
    const std::string words = GgufBuilder::text("one") + GgufBuilder::text("") + GgufBuilder::text("three");
    builder.value("list u8", 9, GgufBuilder::list(0, 3, "\1\2\3"))
        .value("list i8", 9, GgufBuilder::list(1, 2, "\xff\1"))
        .value("list u16", 9, GgufBuilder::list(2, 1, little<std::uint16_t>(7)))
        .value("list i16", 9, GgufBuilder::list(3, 1, little<std::int16_t>(-7)))
        .value("list u32", 9, GgufBuilder::list(4, 2, bytes_of<std::uint32_t>({1, 2})))
        .value("list i32", 9, GgufBuilder::list(5, 2, bytes_of<std::int32_t>({-1, 2})))
        .value("list f32", 9, GgufBuilder::list(6, 2, bytes_of<float>({1, 2})))
        .value("list bool", 9, GgufBuilder::list(7, 3, std::string("\0\1\1", 3)))
        .value("list text", 9, GgufBuilder::list(8, 3, words))
        .value("list u64", 9, GgufBuilder::list(10, 1, little<std::uint64_t>(9)))
        .value("list i64", 9, GgufBuilder::list(11, 1, little<std::int64_t>(-9)))
        .value("list f64", 9, GgufBuilder::list(12, 1, little(0.25)))
        .value("none", 9, GgufBuilder::list(8, 0, ""))
        .value("lists", 9, GgufBuilder::list(9, 2, GgufBuilder::list(0, 2, "\1\2") + GgufBuilder::list(8, 3, words)));
    const GgufMetadata metadata = opened(folder, builder.bytes()).metadata;
    CHECK(metadata.values().size() == 26);
    CHECK(metadata.integer("u8") == 200);
    CHECK(metadata.integer("i8") == -100);
    CHECK(metadata.integer("u16") == 60000);
    CHECK(metadata.integer("i16") == -30000);
    CHECK(metadata.integer("u32") == 4000000000);
    CHECK(metadata.integer("i32") == -2000000000);
    CHECK(metadata.number("f32") == 0.5);
    CHECK(metadata.number("f64") == 0.1);
    CHECK(metadata.number("i32") == -2e9);
    CHECK(metadata.boolean("bool"));
    CHECK(metadata.text("text") == std::string("a\0\xff", 3));
    CHECK(metadata.integer("i64") == -5);
    CHECK(metadata.has("u64"));
    CHECK_FALSE(metadata.has("u65"));
    CHECK(metadata.list<std::uint8_t>("list u8") == std::vector<std::uint8_t>{1, 2, 3});
    CHECK(metadata.list<std::int8_t>("list i8") == std::vector<std::int8_t>{-1, 1});
    CHECK(metadata.list<std::uint16_t>("list u16") == std::vector<std::uint16_t>{7});
    CHECK(metadata.list<std::int16_t>("list i16") == std::vector<std::int16_t>{-7});
    CHECK(metadata.list<std::uint32_t>("list u32") == std::vector<std::uint32_t>{1, 2});
    CHECK(metadata.list<std::int32_t>("list i32") == std::vector<std::int32_t>{-1, 2});
    CHECK(metadata.list<float>("list f32") == std::vector<float>{1, 2});
    CHECK(metadata.list<bool>("list bool") == std::vector<bool>{false, true, true});
    CHECK(metadata.list<std::string>("list text") == std::vector<std::string>{"one", "", "three"});
    CHECK(metadata.list<std::uint64_t>("list u64") == std::vector<std::uint64_t>{9});
    CHECK(metadata.list<std::int64_t>("list i64") == std::vector<std::int64_t>{-9});
    CHECK(metadata.list<double>("list f64") == std::vector<double>{0.25});
    CHECK(metadata.list<std::string>("none").empty());
    const auto& lists = metadata.list<GgufList>("lists");
    REQUIRE(lists.size() == 2);
    CHECK(std::get<std::vector<std::uint8_t>>(lists[0].elements) == std::vector<std::uint8_t>{1, 2});
    CHECK(std::get<std::vector<std::string>>(lists[1].elements).size() == 3);

    const std::string start = (folder.path() / "x.gguf").string() + ": ";
    CHECK_THROWS_WITH(metadata.integer("u65"), start + "there is no metadata \"u65\"");
    CHECK_THROWS_WITH(metadata.integer("f32"), start + "metadata \"f32\" is float32, not an integer");
    CHECK_THROWS_WITH(metadata.integer("bool"), start + "metadata \"bool\" is bool, not an integer");
    CHECK_THROWS_WITH(metadata.integer("u64"),
                      start + "metadata \"u64\" is uint64, not below 2^63: 18446744073709551615");
    CHECK_THROWS_WITH(metadata.number("text"), start + "metadata \"text\" is text, not a number");
    CHECK_THROWS_WITH(metadata.text("lists"), start + "metadata \"lists\" is list of list, not text");
    CHECK_THROWS_WITH(metadata.boolean("u8"), start + "metadata \"u8\" is uint8, not bool");
    CHECK_THROWS_WITH(metadata.list<float>("list text"),
                      start + "metadata \"list text\" is list of text, not list of float32");
    CHECK_THROWS_WITH(metadata.list<float>("f32"), start + "metadata \"f32\" is float32, not list of float32");
  }
}

TEST_CASE("tensors of each type that is supported are read") {
  const TemporaryFolder folder;
  Bench bench;
  const std::string ones(16, '\x11');
  const std::string scale("\x00\x38", 2), minimum("\x00\xc0", 2);  // 0.5 and -2
  const Gguf file = opened(folder, GgufBuilder()
                                       .tensor("f32", {3, 2}, 0, bytes_of<float>({1, 2, 3, 4, 5, 6}))
                                       .tensor("f16", {2}, 1, bytes_of<std::uint16_t>({0x3c00, 0xc000}))
                                       .tensor("bf16", {1, 1, 2}, 30, bytes_of<std::uint16_t>({0x3f80, 0xc000}))
                                       .tensor("f64", {}, 28, little(0.1))
                                       .tensor("i32", {1}, 26, little<std::int32_t>(-7))
                                       .tensor("i64", {1}, 27, little<std::int64_t>(-7))
                                       .tensor("i16", {1}, 25, little<std::int16_t>(-7))
                                       .tensor("i8", {1}, 24, "\xf9")
                                       .tensor("q8_0", {32, 2}, 8, scale + ones + ones + scale + ones + ones)
                                       .tensor("q4_0", {32}, 2, scale + ones)
                                       .tensor("q4_1", {64}, 3, scale + minimum + ones + scale + minimum + ones)
                                       .tensor("none", {0, 5}, 0, "")
                                       .bytes());
  CHECK(file.weights.tensors().size() == 12);
  CHECK(file.weights.tensor("f32").shape == Shape{2, 3});
  CHECK(file.weights.tensor("bf16").shape == Shape{2, 1, 1});
  CHECK(file.weights.tensor("f64").shape == Shape());
  CHECK(file.weights.tensor("none").shape == Shape{5, 0});
  CHECK(file.weights.tensor("q8_0").type == "Q8_0");
  const auto read = [&](const char* name, Dtype dtype = Dtype::kFloat32, Layout layout = Layout::kContiguous) {
    TestTensor out(dtype, file.weights.tensor(name).shape, layout);
    file.weights.read(bench.stream(), name, out.view());
    CHECK(out.intact());
    return out.values();
  };
  CHECK(read("f32") == std::vector<double>{1, 2, 3, 4, 5, 6});
  CHECK(read("f16") == std::vector<double>{1, -2});
  CHECK(read("bf16") == std::vector<double>{1, -2});
  CHECK(read("f64") == std::vector<double>{0.1f});
  for (const char* name : {"i32", "i64", "i16", "i8"}) {
    CHECK(read(name, Dtype::kInt32) == std::vector<double>{-7});
    CHECK(read(name, Dtype::kInt8) == std::vector<double>{-7});
  }
  CHECK(read("none").empty());
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}) {
    for (const Layout layout : {Layout::kContiguous, Layout::kPaddedRows}) {
      CHECK(read("q8_0", dtype, layout) == std::vector<double>(64, 0.5 * 0x11));
      CHECK(read("q4_0", dtype, layout) == std::vector<double>(32, 0.5 * (1 - 8)));
      CHECK(read("q4_1", dtype, layout) == std::vector<double>(64, 0.5 - 2));
    }
  }
  CHECK(file.weights.view("f32"));
  CHECK(file.weights.view("bf16"));
  CHECK(file.weights.view("i8"));
  CHECK_FALSE(file.weights.view("q8_0"));
  TestTensor whole(Dtype::kInt32, {2, 32});
  CHECK_THROWS_WITH(file.weights.read(bench.stream(), "q8_0", whole.view()),
                    Contains("tensor \"q8_0\" is Q8_0[2 x 32] and cannot be read into int32[2 x 32]"));
  TestTensor across(Dtype::kFloat32, {32, 2});
  CHECK_THROWS_WITH(file.weights.read(bench.stream(), "q8_0", across.view().transposed(0, 1)),
                    Contains("the last dimension must be contiguous"));
}

TEST_CASE("types that are not supported are listed, and refused when they are read") {
  const TemporaryFolder folder;
  Bench bench;
  const Gguf file = opened(folder, GgufBuilder()
                                       .tensor("k", {256}, 12, std::string(144, 'k'))
                                       .tensor("new", {7}, 1000, std::string(64, 'n'))
                                       .tensor("f", {1}, 0, little(1.0f))
                                       .bytes());
  CHECK(file.weights.tensor("k").type == "Q4_K");
  CHECK(file.weights.tensor("k").bytes.size() == 144);
  CHECK(file.weights.tensor("new").type == "type 1000");
  CHECK(file.weights.tensor("new").bytes.size() == 64);
  TestTensor k(Dtype::kFloat32, {256}), n(Dtype::kFloat32, {7}), f(Dtype::kFloat32, {1});
  const std::string end = ", which is not supported; F32, F16, BF16, Q8_0, Q4_0 and Q4_1 are";
  const std::string start = (folder.path() / "x.gguf").string() + ": tensor ";
  CHECK_THROWS_WITH(file.weights.read(bench.stream(), "k", k.view()), start + "\"k\" is stored as Q4_K" + end);
  CHECK_THROWS_WITH(file.weights.read(bench.stream(), "new", n.view()), start + "\"new\" is stored as type 1000" + end);
  CHECK_FALSE(file.weights.view("k"));
  file.weights.read(bench.stream(), "f", f.view());
  CHECK(f.values() == std::vector<double>{1});
}

TEST_CASE("the alignment a file asks for is kept") {
  const TemporaryFolder folder;
  Bench bench;
  for (const std::uint32_t alignment : {1u, 8u, 64u, 4096u}) {
    const Gguf file = opened(folder, GgufBuilder(3, alignment)
                                         .value("general.alignment", 4, little(alignment))
                                         .tensor("a", {1}, 24, "\1")
                                         .tensor("b", {2}, 0, bytes_of<float>({3, 4}))
                                         .bytes());
    TestTensor b(Dtype::kFloat32, {2});
    file.weights.read(bench.stream(), "b", b.view());
    CHECK(b.values() == std::vector<double>{3, 4});
    const auto address = reinterpret_cast<std::uintptr_t>(file.weights.tensor("b").bytes.data());
    CHECK(static_cast<bool>(file.weights.view("b")) == (address % 4 == 0));
    CHECK((alignment < 4 || address % 4 == 0));
  }
  const std::string end = "; it must be a uint32 that is a power of two";
  const auto with = [](std::uint32_t type, const std::string& bytes) {
    return refusal(GgufBuilder().value("general.alignment", type, bytes).bytes());
  };
  CHECK(with(4, little<std::uint32_t>(0)) == "general.alignment is 0" + end);
  CHECK(with(4, little<std::uint32_t>(24)) == "general.alignment is 24" + end);
  CHECK(with(10, little<std::uint64_t>(32)) == "general.alignment is of type uint64" + end);
}

TEST_CASE("tensors may lie in any order and apart") {
  const TemporaryFolder folder;
  Bench bench;
  const Gguf file = opened(
      folder,
      GgufBuilder().entry("b", {1}, 0, 96).entry("a", {1}, 0, 32).data(std::string(96, '\0') + little(2.0f)).bytes());
  TestTensor b(Dtype::kFloat32, {1});
  file.weights.read(bench.stream(), "b", b.view());
  CHECK(b.values() == std::vector<double>{2});
}

TEST_CASE("files that are no GGUF are refused") {
  CHECK(refusal("") ==
        "the mark GGUF at byte 0 takes 4 bytes, and the file ends after 0; it is cut short, or no GGUF file");
  CHECK(refusal("GGML" + std::string(100, '\0')) == "does not begin with GGUF; this is no GGUF file");
  CHECK(refusal("GGUF") ==
        "the version at byte 4 takes 4 bytes, and the file ends after 0; it is cut short, or no GGUF file");
  CHECK(refusal(GgufBuilder(1).bytes()) == "is GGUF version 1; 2 and 3 are supported");
  CHECK(refusal(GgufBuilder(4).bytes()) == "is GGUF version 4; 2 and 3 are supported");
  CHECK(refusal(GgufBuilder(0).bytes()) == "is GGUF version 0; 2 and 3 are supported");
  CHECK(refusal(GgufBuilder(0x03000000).bytes()) == "is big-endian; only little-endian GGUF files are supported");
  const TemporaryFolder folder;
  CHECK_THROWS_WITH(open_gguf(folder.path()), folder.path().string() + " is a folder, not a file");
}

TEST_CASE("a file that is cut anywhere is refused") {
  const std::string whole = GgufBuilder()
                                .value("k", 9, GgufBuilder::list(8, 2, GgufBuilder::text("a") + GgufBuilder::text("b")))
                                .value("i", 4, little<std::uint32_t>(4))
                                .tensor("x", {2, 3}, 0, std::string(24, 'x'))
                                .bytes();
  CHECK(refusal(whole) == "not refused");
  for (std::size_t length = 0; length < whole.size(); ++length) {
    CAPTURE(length);
    CHECK_THAT(refusal(whole.substr(0, length)), Contains("cut short") || Contains("the file ends after"));
  }
}

TEST_CASE("metadata that is not as it must be is refused") {
  const std::string huge = little<std::uint64_t>(~0ull);
  CHECK_THAT(refusal(GgufBuilder().bytes(0, ~0ull)), Contains("the key of metadata 0 at byte 24 takes 8 bytes"));
  CHECK_THAT(refusal(GgufBuilder().value("k", 0, "\1").bytes(0, 2)), Contains("the key of metadata 1 at byte "));
  CHECK(refusal(GgufBuilder().value("k", 8, huge + "x").bytes()) ==
        "metadata \"k\" at byte 45 takes 18446744073709551615 bytes, and the file ends after 1; it is cut short, or "
        "no GGUF file");
  CHECK(refusal(GgufBuilder().value("k", 13, "\1").bytes()) == "metadata \"k\" has type 13; known are 0 to 12");
  CHECK(refusal(GgufBuilder().value("k", 7, "\2").bytes()) == "metadata \"k\" is 2; a bool is 0 or 1");
  CHECK(refusal(GgufBuilder().value("k", 9, GgufBuilder::list(7, 1, "\3")).bytes()) ==
        "metadata \"k\" is 3; a bool is 0 or 1");
  CHECK(refusal(GgufBuilder().value("k", 9, GgufBuilder::list(13, 0, "")).bytes()) ==
        "metadata \"k\" has type 13; known are 0 to 12");
  CHECK(refusal(GgufBuilder().value("k", 9, GgufBuilder::list(6, ~0ull, "four")).bytes()) ==
        "metadata \"k\" has 18446744073709551615 elements of float32, and the file ends after 4 bytes");
  CHECK(refusal(GgufBuilder().value("k", 9, GgufBuilder::list(6, 1ull << 62, "four")).bytes()) ==
        "metadata \"k\" has 4611686018427387904 elements of float32, and the file ends after 4 bytes");
  CHECK(refusal(GgufBuilder().value("k", 9, GgufBuilder::list(8, 2, GgufBuilder::text(""))).bytes()) ==
        "metadata \"k\" has 2 elements of text, and the file ends after 8 bytes");
  CHECK(refusal(GgufBuilder().value("k", 0, "\1").value("k", 0, "\1").bytes()) == "metadata \"k\" is given twice");
  CHECK(refusal(GgufBuilder().value("k\xff", 0, "\1").bytes()) == "metadata \"k\xef\xbf\xbd\": the key is not UTF-8");
  std::string nested = GgufBuilder::list(0, 0, "");
  for (int i = 0; i < 7; ++i) nested = GgufBuilder::list(9, 1, nested);
  CHECK(refusal(GgufBuilder().value("k", 9, nested).bytes()) == "not refused");
  nested = GgufBuilder::list(9, 1, nested);
  CHECK(refusal(GgufBuilder().value("k", 9, nested).bytes()) == "metadata \"k\" has lists in lists more than 8 deep");
}

TEST_CASE("tensors that are not as they must be are refused") {
  const std::string four(4, 'x');
  CHECK_THAT(refusal(GgufBuilder().bytes(~0ull, 0)), Contains("the name of tensor 0 at byte 24 takes 8 bytes"));
  CHECK(refusal(GgufBuilder().tensor("x", {1}, 0, four).tensor("x", {1}, 0, four).bytes()) ==
        "tensor \"x\" is given twice");
  CHECK(refusal(GgufBuilder().tensor("x\xc0", {1}, 0, four).bytes()) ==
        "tensor \"x\xef\xbf\xbd\": the name is not UTF-8");
  CHECK(refusal(GgufBuilder().tensor("x", {1, 1, 1, 1, 1}, 0, four).bytes()) ==
        "tensor \"x\" has 5 dimensions; at most 4 are allowed");
  CHECK(refusal(GgufBuilder().tensor("x", {1ull << 32, 1ull << 32}, 0, four).bytes()) ==
        "tensor \"x\": the shape has more than 2^62 elements");
  CHECK(refusal(GgufBuilder().tensor("x", {~0ull}, 0, four).bytes()) ==
        "tensor \"x\": the shape has more than 2^62 elements");
  CHECK(refusal(GgufBuilder().tensor("x", {0, ~0ull}, 0, "").bytes()) ==
        "tensor \"x\": the shape has more than 2^62 elements");
  CHECK(refusal(GgufBuilder().tensor("x", {1ull << 61}, 28, four).bytes()) ==
        "tensor \"x\": the shape takes more than 2^62 bytes");
  CHECK(refusal(GgufBuilder().tensor("x", {33}, 8, std::string(68, 'x')).bytes()) ==
        "tensor \"x\": rows of 33 elements are no whole blocks of Q8_0, which have 32");
  CHECK(refusal(GgufBuilder().tensor("x", {16, 2}, 2, std::string(18, 'x')).bytes()) ==
        "tensor \"x\": rows of 16 elements are no whole blocks of Q4_0, which have 32");
  CHECK(refusal(GgufBuilder().tensor("x", {}, 8, std::string(34, 'x')).bytes()) ==
        "tensor \"x\": rows of 1 elements are no whole blocks of Q8_0, which have 32");
  CHECK(refusal(GgufBuilder().entry("x", {1}, 0, 4).data(std::string(64, 'x')).bytes()) ==
        "tensor \"x\": offset 4 is not a multiple of the alignment, 32");
  CHECK(refusal(GgufBuilder().entry("x", {9}, 0, 32).data(std::string(67, 'x')).bytes()) ==
        "tensor \"x\" takes 36 bytes from 32 on, and the data ends after 67; the file is cut short");
  CHECK(refusal(GgufBuilder().entry("x", {1}, 0, ~0ull << 5).data(four).bytes()) ==
        "tensor \"x\" takes 4 bytes from 18446744073709551584 on, and the data ends after 4; the file is cut short");
  CHECK(refusal(GgufBuilder().entry("x", {0}, 0, 32).data(four).bytes()) ==
        "tensor \"x\" takes 0 bytes from 32 on, and the data ends after 4; the file is cut short");
  CHECK(refusal(GgufBuilder().entry("x", {}, 1000, 32).data(four).bytes()) ==
        "tensor \"x\" takes 0 bytes from 32 on, and the data ends after 4; the file is cut short");
  CHECK(refusal(GgufBuilder().entry("x", {36, 1}, 1000, 0).data(four).bytes()) == "not refused");
  CHECK(refusal(GgufBuilder().entry("x", {20, 2}, 1000, 0).data(four).bytes()) ==
        "tensor \"x\": 2 x 20 elements of type 1000 cannot be in 4 bytes");
  CHECK(refusal(GgufBuilder().entry("a", {9}, 0, 0).entry("b", {1}, 0, 32).data(std::string(64, 'x')).bytes()) ==
        "tensor \"b\" begins at byte 32 of the data, within tensor \"a\"");
  CHECK(refusal(GgufBuilder().entry("a", {1}, 0, 0).entry("b", {1}, 0, 0).data(std::string(64, 'x')).bytes()) ==
        "tensor \"b\" begins at byte 0 of the data, within tensor \"a\"");
}

}  // namespace
}  // namespace braise::weights
