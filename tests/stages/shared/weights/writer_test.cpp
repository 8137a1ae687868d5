// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "kernels/core/random.h"
#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"
#include "stages/shared/weights/safetensors.h"
#include "tests/support/support.h"
#include "tests/support/tensors.h"

namespace braise::weights {
namespace {

namespace fs = std::filesystem;
using Catch::Contains;
using core::Dtype;
using core::Shape;
using test::TemporaryFolder;
using test::TestTensor;

constexpr Encoding kAll[] = {Encoding::kBool, Encoding::kU8,  Encoding::kI8,  Encoding::kF8E5m2, Encoding::kF8E4m3,
                             Encoding::kI16,  Encoding::kU16, Encoding::kF16, Encoding::kBf16,   Encoding::kI32,
                             Encoding::kU32,  Encoding::kF32, Encoding::kF64, Encoding::kI64,    Encoding::kU64};

std::vector<std::byte> random_bytes(std::size_t count, std::uint64_t seed) {
  const core::RandomStream random(seed, core::Purpose::kData);
  std::vector<std::byte> bytes(count);
  for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>(random.word(i) >> 24);
  return bytes;
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

/// Writes tensors t0, t1 ... of 100 bytes each.
void write_hundreds(const fs::path& path, int count, std::int64_t shard_bytes) {
  std::vector<NewTensor> tensors;
  for (int i = 0; i < count; ++i) tensors.push_back({"t" + std::to_string(i), Encoding::kU8, {100}});
  SafetensorsWriter writer(path, tensors, {{"format", "pt"}}, shard_bytes);
  for (int i = count - 1; i >= 0; --i) {
    writer.write("t" + std::to_string(i), random_bytes(100, static_cast<std::uint64_t>(i)));
  }
  writer.finish();
}

TEST_CASE("what is written of every dtype is read back") {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "all.safetensors";
  const std::map<std::string, std::string> metadata{{"format", "pt"}, {"quote\"\n", "\u00e9\\"}};
  std::vector<NewTensor> tensors;
  for (const Encoding encoding : kAll) {
    for (const Shape& shape : {Shape{3, 5}, Shape(), Shape{0}, Shape{2, 1, 7, 1, 1, 3}}) {
      tensors.push_back({std::string(name(encoding)) + "/" + shape.text() + " \u00fc\"", encoding, shape});
    }
  }
  const auto bytes_for = [&](std::size_t i) {
    const auto size = static_cast<std::size_t>(tensors[i].shape.elements() * element_bytes(tensors[i].encoding));
    return random_bytes(size, i);
  };
  SafetensorsWriter writer(path, tensors, metadata);
  for (std::size_t i = 0; i < tensors.size(); ++i) writer.write(tensors[i].name, bytes_for(i));
  CHECK_FALSE(fs::exists(path));
  writer.finish();
  CHECK(names_in(folder.path()) == std::vector<std::string>{"all.safetensors"});

  const Safetensors file = open_safetensors(path);
  CHECK(file.metadata == metadata);
  CHECK(file.weights.tensors().size() == tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const TensorInfo& found = file.weights.tensor(tensors[i].name);
    CHECK(found.encoding == tensors[i].encoding);
    CHECK(found.shape == tensors[i].shape);
    CHECK(std::ranges::equal(found.bytes, bytes_for(i)));
    CHECK(reinterpret_cast<std::uintptr_t>(found.bytes.data()) %
              static_cast<std::size_t>(element_bytes(found.encoding)) ==
          0);
  }
}

TEST_CASE("tensors of each dtype that has an encoding are written and read") {
  const TemporaryFolder folder;
  test::Bench bench;
  std::vector<NewTensor> tensors;
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16, Dtype::kInt8, Dtype::kInt32}) {
    tensors.push_back({std::string(core::name(dtype)), encoding_of(dtype), {4, 9}});
  }
  CHECK_THROWS_WITH(encoding_of(Dtype::kInt4), "weight files cannot hold int4");
  SafetensorsWriter writer(folder.path() / "x.safetensors", tensors, {});
  std::vector<TestTensor> written;
  for (const NewTensor& tensor : tensors) {
    const Dtype dtype = *core::dtype_named(tensor.name);
    const double scale = core::is_float(dtype) ? 1 : 120;
    written.emplace_back(dtype, tensor.shape, test::random_values(tensor.shape, dtype, 3, scale));
    writer.write(tensor.name, written.back().view());
  }
  writer.finish();
  const Safetensors file = open_safetensors(folder.path() / "x.safetensors");
  for (const TestTensor& tensor : written) {
    const std::string name(core::name(tensor.view().dtype()));
    TestTensor out(tensor.view().dtype(), {4, 9});
    file.weights.read(bench.stream(), name, out.view());
    CHECK(out.bytes() == tensor.bytes());
    const core::ConstTensorView view = file.weights.view(name);
    REQUIRE(view);
    CHECK(std::memcmp(view.raw(), tensor.view().raw(), static_cast<std::size_t>(view.bytes())) == 0);
  }
}

TEST_CASE("a file's bytes are these, whatever the order of calls") {
  const TemporaryFolder folder;
  const auto write = [&](const std::string& name, bool other_order) {
    std::vector<NewTensor> tensors{
        {"b", Encoding::kU8, {3}}, {"a", Encoding::kBf16, {1}}, {"c", Encoding::kF32, {}}, {"d", Encoding::kU8, {1}}};
    if (other_order) std::swap(tensors[0], tensors[3]);
    SafetensorsWriter writer(folder.path() / name, tensors, {{"z", "1"}, {"y", "2"}});
    const std::vector<std::pair<std::string, std::string>> data{{"a", "AA"}, {"b", "BBB"}, {"c", "CCCC"}, {"d", "D"}};
    for (std::size_t i = 0; i < data.size(); ++i) {
      const auto& [tensor, bytes] = data[other_order ? data.size() - 1 - i : i];
      writer.write(tensor, std::as_bytes(std::span(bytes)));
    }
    writer.finish();
    return io::read_file(folder.path() / name);
  };
  const std::string bytes = write("one.safetensors", false);
  CHECK(write("two.safetensors", true) == bytes);
  const std::string header =
      R"({"__metadata__":{"y":"2","z":"1"},"c":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
      R"("a":{"dtype":"BF16","shape":[1],"data_offsets":[4,6]},"b":{"dtype":"U8","shape":[3],"data_offsets":[6,9]},)"
      R"("d":{"dtype":"U8","shape":[1],"data_offsets":[9,10]}})";
  CHECK(bytes.substr(8, header.size()) == header);
  CHECK(bytes.size() == 8 + (header.size() + 7) / 8 * 8 + 10);
  CHECK(bytes.ends_with(" CCCCAABBBD"));
}

TEST_CASE("a model without tensors is a file") {
  const TemporaryFolder folder;
  SafetensorsWriter(folder.path() / "x.safetensors", {}, {}).finish();
  CHECK(open_safetensors(folder.path() / "x.safetensors").weights.tensors().empty());
}

TEST_CASE("a model larger than a shard is written in shards") {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "model.safetensors";
  write_hundreds(path, 7, 250);
  CHECK(names_in(folder.path()) ==
        std::vector<std::string>{"model-00001-of-00004.safetensors", "model-00002-of-00004.safetensors",
                                 "model-00003-of-00004.safetensors", "model-00004-of-00004.safetensors",
                                 "model.safetensors.index.json"});
  const auto index = nlohmann::json::parse(io::read_file(path.string() + ".index.json"));
  CHECK(index["metadata"]["total_size"] == 700);
  CHECK(index["weight_map"].size() == 7);
  CHECK(index["weight_map"]["t3"] == "model-00002-of-00004.safetensors");
  const Safetensors model = open_sharded_safetensors(path.string() + ".index.json");
  CHECK(model.metadata == std::map<std::string, std::string>{{"format", "pt"}});
  REQUIRE(model.weights.tensors().size() == 7);
  for (int i = 0; i < 7; ++i) {
    const TensorInfo& tensor = model.weights.tensor("t" + std::to_string(i));
    CHECK(std::ranges::equal(tensor.bytes, random_bytes(100, static_cast<std::uint64_t>(i))));
  }
  CHECK(open_weights(path.string() + ".index.json").tensors().size() == 7);
}

TEST_CASE("shards hold one tensor at least, and a model that fits is one file") {
  const TemporaryFolder folder;
  write_hundreds(folder.path() / "small.safetensors", 3, 10);
  CHECK(names_in(folder.path()).size() == 4);
  write_hundreds(folder.path() / "exact.safetensors", 3, 300);
  CHECK(fs::exists(folder.path() / "exact.safetensors"));
  CHECK_FALSE(fs::exists(folder.path() / "exact.safetensors.index.json"));
}

TEST_CASE("a model that is not finished leaves nothing") {
  const TemporaryFolder folder;
  {
    SafetensorsWriter writer(folder.path() / "x.safetensors", {{"a", Encoding::kU8, {4}}, {"b", Encoding::kU8, {4}}},
                             {}, 4);
    writer.write("a", random_bytes(4, 1));
    CHECK(names_in(folder.path()).size() == 2);
    CHECK_THROWS_WITH(writer.finish(), Contains("tensor \"b\" was not written"));
  }
  CHECK(names_in(folder.path()).empty());
}

TEST_CASE("a file is replaced at once, a sharded model never") {
  const TemporaryFolder folder;
  write_hundreds(folder.path() / "x.safetensors", 1, 1000);
  write_hundreds(folder.path() / "x.safetensors", 2, 1000);
  CHECK(open_safetensors(folder.path() / "x.safetensors").weights.tensors().size() == 2);
  write_hundreds(folder.path() / "y.safetensors", 2, 100);
  CHECK_THROWS_WITH(write_hundreds(folder.path() / "y.safetensors", 2, 100),
                    Contains("an index of a sharded model is there already"));
}

TEST_CASE("what cannot be written is named") {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "x.safetensors";
  const auto make = [&](std::vector<NewTensor> tensors, std::map<std::string, std::string> metadata = {}) {
    SafetensorsWriter writer(path, std::move(tensors), std::move(metadata));
  };
  const std::string start = path.string() + ": ";
  CHECK_THROWS_WITH(make({{"a", Encoding::kU8, {}}, {"a", Encoding::kU8, {}}}), start + "tensor \"a\" is given twice");
  CHECK_THROWS_WITH(make({{"a\xff", Encoding::kU8, {}}}), Contains("its name is not UTF-8"));
  CHECK_THROWS_WITH(make({{"__metadata__", Encoding::kU8, {}}}), start + "no tensor can be named __metadata__");
  CHECK_THROWS_WITH(make({{"a", Encoding::kQ8_0, {32}}}),
                    start + "tensor \"a\": safetensors has no blocks of quantised elements");
  CHECK_THROWS_WITH(make({{"a", Encoding::kOther, {32}}}), Contains("safetensors has no blocks"));
  CHECK_THROWS_WITH(make({}, {{"k", "\xff"}}), start + "metadata \"k\" is not UTF-8");
  CHECK_THROWS_WITH(make({{"a", Encoding::kF64, {std::int64_t{1} << 60}}}), Contains("more than 2^62 bytes in all"));
  CHECK_THROWS_WITH(make({}, {{"k", std::string(kMostHeaderBytes, 'x')}}), Contains("the header would have"));
  CHECK_THROWS_WITH(SafetensorsWriter(folder.path() / "none" / "x.safetensors", {}, {}), Contains("cannot create "));

  SafetensorsWriter writer(path, {{"a", Encoding::kF32, {2}}}, {});
  const TestTensor good(Dtype::kFloat32, {2}, {1, 2}), shape(Dtype::kFloat32, {1, 2}), dtype(Dtype::kInt32, {2});
  CHECK_THROWS_WITH(writer.write("b", good.view()), start + "tensor \"b\" was not announced");
  CHECK_THROWS_WITH(writer.write("a", shape.view()),
                    start +
                        "tensor \"a\" is announced as F32[2], and was given fp32[1 x 2] on cpu; it must be the "
                        "same, contiguous, on the cpu");
  CHECK_THROWS_WITH(writer.write("a", dtype.view()), Contains("and was given int32[2]"));
  CHECK_THROWS_WITH(writer.write("a", random_bytes(7, 1)), start + "tensor \"a\" has 8 bytes, and was given 7");
  writer.write("a", good.view());
  CHECK_THROWS_WITH(writer.write("a", good.view()), start + "tensor \"a\" is written twice");
}

TEST_CASE("an index and its shards must agree") {
  const TemporaryFolder folder;
  const auto file = [](const std::vector<std::string>& names) {
    std::string header;
    for (std::size_t i = 0; i < names.size(); ++i) {
      header += (i == 0 ? "{\"" : ",\"") + names[i] + "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[" +
                std::to_string(i) + "," + std::to_string(i + 1) + "]}";
    }
    header += "}";
    std::string length(8, '\0');
    length[0] = static_cast<char>(header.size());
    return length + header + std::string(names.size(), 'x');
  };
  folder.write("1.safetensors", file({"a"}));
  folder.write("2.safetensors", file({"b"}));
  folder.write("1+2.safetensors", file({"b", "a"}));
  const fs::path path = folder.path() / "model.safetensors.index.json";
  const auto refusal = [&](const std::string& index) -> std::string {
    folder.write("model.safetensors.index.json", index);
    try {
      open_sharded_safetensors(path);
    } catch (const core::Error& error) {
      const std::string message = error.what();
      return message.starts_with(path.string() + ": ") ? message.substr(path.string().size() + 2) : message;
    }
    return "not refused";
  };
  const auto map = [&](const std::string& entries) { return refusal("{\"weight_map\":{" + entries + "}}"); };
  CHECK(map(R"("a":"1.safetensors","b":"2.safetensors")") == "not refused");
  CHECK(refusal(R"({"metadata":{"total_size":2.5,"deep":[[{"a":null}]]},"weight_map":{"a":"1.safetensors"},"x":-1})") ==
        "not refused");
  CHECK(map(R"("a":"1.safetensors","b":"1+2.safetensors")") ==
        "tensor \"a\" is listed in shard \"1.safetensors\", and is in shard \"1+2.safetensors\"");
  CHECK(map(R"("a":"1.safetensors","b":"1.safetensors")") ==
        "tensor \"b\" is listed in shard \"1.safetensors\", and is not there");
  CHECK(map(R"("b":"1+2.safetensors")") == "tensor \"a\" of shard \"1+2.safetensors\" is not listed");
  CHECK(map(R"("a":"3.safetensors")") ==
        "cannot open " + (folder.path() / "3.safetensors").string() + ": No such file or directory");
  for (const std::string escape : {"../x.safetensors", "/etc/passwd", "a/../1.safetensors", "sub/x", "..", ".", ""}) {
    CHECK(map("\"a\":\"" + escape + "\"") == "index: tensor \"a\" is said to be in \"" + escape +
                                                 "\"; that must be the name of a file in the index's own folder");
  }
  for (const std::string control : {"\\u0000", "\\u001b[2J", "\\n", "\\u007f"}) {
    CHECK_THAT(map("\"a\":\"1.safetensors" + control + "\""), Contains("must be the name of a file"));
  }
  CHECK(map(R"("a":"1.safetensors","a":"1.safetensors")") == "index: tensor \"a\" is given twice");
  CHECK(refusal(R"({"weight_map":{},"weight_map":{}})") == "index: the key \"weight_map\" is given twice");
  CHECK(map("") == "weight_map lists no tensor");
  CHECK(refusal("{}") == "weight_map lists no tensor");
  CHECK(map(R"("a":1)") == "index: 1 stands where there should be the name of the file of tensor \"a\"");
  CHECK(map(R"("a":{})") == "index: an object stands where there should be the name of the file of tensor \"a\"");
  CHECK(map(R"("a":["1.safetensors"])") ==
        "index: a list stands where there should be the name of the file of tensor \"a\"");
  CHECK(refusal(R"({"weight_map":["a"]})") == "index: a list stands where there should be the object weight_map");
  CHECK(refusal("[]") == "index: a list stands where there should be an object with weight_map");
  CHECK(refusal(R"({"metadata":)" + std::string(20, '[') + std::string(20, ']') + "}") ==
        "index: nested more than 16 deep");
  CHECK_THAT(refusal(std::string(100000, '[')), Contains("a list stands where"));
  CHECK_THAT(refusal(""), Contains("index: not JSON at byte "));
  CHECK_THAT(refusal("{"), Contains("index: not JSON at byte "));
  CHECK_THAT(refusal("{\"\xff\":1}"), Contains("index: not JSON at byte ") && Contains("ill-formed UTF-8"));
  folder.write("2.safetensors", "cut");
  CHECK_THAT(map(R"("a":"1.safetensors","b":"2.safetensors")"),
             Contains("2.safetensors: has 3 bytes; a safetensors file begins with"));
}

}  // namespace
}  // namespace braise::weights
