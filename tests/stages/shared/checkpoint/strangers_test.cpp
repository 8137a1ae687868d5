// SPDX-License-Identifier: Apache-2.0
// What h5py, h5dump and a general validator of JSON make of a checkpoint.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "kernels/core/half.h"
#include "stages/shared/io/file.h"
#include "tests/stages/shared/checkpoint/sample.h"
#include "tests/support/schema.h"
#include "tests/support/support.h"

namespace braise::checkpoint {
namespace {
namespace fs = std::filesystem;

using Catch::Contains;

TEST_CASE("a manifest is as its schema says") {
  const test::TemporaryFolder folder;
  for (const int ranks : {1, 3}) {
    const fs::path saved = save_sample(folder.path() / std::to_string(ranks), sample(1), 7, ranks);
    const nlohmann::json manifest = nlohmann::json::parse(io::read_file(saved / "manifest.json"));
    CHECK(test::schema_faults(manifest, "checkpoint.schema.json") == "");
    // The schema is no formality: it refuses what it should.
    for (const char* const key : {"step", "tensors", "metadata", "manifest_sha256"}) {
      nlohmann::json lacking = manifest;
      lacking.erase(key);
      CHECK(test::schema_faults(lacking, "checkpoint.schema.json") != "");
    }
  }
}

// Writes every tensor of the master as float64, and checks digests as the schema words them.
constexpr char kScript[] = R"python(
import hashlib, h5py, json, numpy, os, sys
folder, out = sys.argv[1:]
sha = lambda data: hashlib.sha256(data).digest()
text = open(os.path.join(folder, "manifest.json"), "rb").read()
first, rest = text.split(b"\n", 1)
manifest = json.loads(text)
assert first == b'{"manifest_sha256": "' + hashlib.sha256(rest).hexdigest().encode() + b'",', first
for entry in manifest["files"]:
    data = open(os.path.join(folder, entry["name"]), "rb").read()
    assert len(data) == entry["bytes"]
    assert ("sha256" in entry) == (entry["name"] == "checkpoint.h5") and ("frame_sha256" in entry) != ("sha256" in entry)
    if "sha256" in entry: assert hashlib.sha256(data).hexdigest() == entry["sha256"]
    if "frame_sha256" in entry:
        size = {"bf16": 2, "fp16": 2, "fp32": 4, "int32": 4, "int8": 1}
        taken = sorted((p["offset"], p["offset"] + (p["end"] - p["begin"]) * size[t["dtype"]]) for t in manifest["tensors"]
                       for p in t["pieces"] if manifest["files"][p["file"]] is entry)
        frame, end = b"", 0
        for piece in taken: frame, end = frame + data[end : piece[0]], max(end, piece[1])
        assert hashlib.sha256(frame + data[end:]).hexdigest() == entry["frame_sha256"]
lines = ""
with h5py.File(os.path.join(folder, "checkpoint.h5"), "r") as file:
    assert file.attrs["format"] == b"braise checkpoint" and file.attrs["step"] == 7
    assert file.attrs["weights_digest"].decode() == manifest["weights_digest"]
    for key, value in manifest["metadata"].items():
        found = file["metadata"][key][()]
        if isinstance(value, dict): found = json.loads(found)
        elif isinstance(value, str): found = found.decode()
        assert found == value, (key, found, value)
    for number, tensor in enumerate(manifest["tensors"]):
        data = file[tensor["path"]]
        assert list(data.shape) == tensor["shape"], tensor["path"]
        assert data.attrs["digest"].decode() == tensor["digest"]
        wanted = {"bf16": "<f4", "fp16": "<f2", "fp32": "<f4", "int32": "<i4", "int8": "|i1"}[tensor["dtype"]]
        assert data.dtype == numpy.dtype(wanted), (tensor["path"], data.dtype)
        values = data[()]
        numpy.asarray(values, dtype="<f8").tofile(os.path.join(out, str(number)))
        if tensor["dtype"] != "bf16":
            raw, size = numpy.asarray(values).tobytes(), numpy.dtype(wanted).itemsize
            chunks = b""
            for c in range(0, len(raw), 262144 * size):
                chunk = raw[c : c + 262144 * size]
                chunks += sha(b"".join(sha(chunk[l : l + 4096 * size]) for l in range(0, len(chunk), 4096 * size)))
            assert sha(chunks).hex() == tensor["digest"], tensor["path"]
        if tensor["path"].startswith("parameters/"):
            extents = " x ".join(map(str, tensor["shape"])) or "scalar"
            lines += f'{tensor["path"]} {tensor["dtype"]} {extents} {tensor["digest"]}\n'
assert hashlib.sha256(lines.encode()).hexdigest() == manifest["weights_digest"]
print("read", len(manifest["tensors"]))
)python";

double value_of(const SampleTensor& tensor, std::size_t i) {
  const auto load = [&]<class T>(T value) {
    std::memcpy(&value, tensor.bytes.data() + i * sizeof value, sizeof value);
    return value;
  };
  switch (tensor.dtype) {
    case core::Dtype::kBfloat16:
      return core::to_float(load(core::Bfloat16{}));
    case core::Dtype::kFloat16:
      return core::to_float(load(core::Float16{}));
    case core::Dtype::kFloat32:
      return load(0.0f);
    case core::Dtype::kInt8:
      return load(std::int8_t{});
    default:
      return load(std::int32_t{});
  }
}

TEST_CASE("h5py reads every tensor of the master, and its digests are as documented") {
  if (test::run_program({"/usr/bin/python3", "-c", "import h5py"}).status != 0) {
    WARN("skipped: /usr/bin/python3 has no h5py");
    return;
  }
  const test::TemporaryFolder folder;
  const Sample state = sample(5);
  for (const int ranks : {1, 4}) {
    const fs::path saved = save_sample(folder.path() / std::to_string(ranks), state, 7, ranks);
    const fs::path out = folder.path() / ("out" + std::to_string(ranks));
    fs::create_directory(out);
    const test::Finished python =
        test::run_program({"/usr/bin/python3", "-c", kScript, saved.string(), out.string()}, {}, folder.path());
    INFO(python.err);
    REQUIRE(python.out == "read " + std::to_string(state.size()) + "\n");
    const Checkpoint checkpoint(saved);
    for (std::size_t number = 0; number < checkpoint.tensors().size(); ++number) {
      const std::string& path = checkpoint.tensors()[number].path;
      const auto tensor = std::ranges::find(state, path, &SampleTensor::path);
      REQUIRE(tensor != state.end());
      const std::string bytes = io::read_file(out / std::to_string(number));
      const auto elements = static_cast<std::size_t>(tensor->shape.elements());
      REQUIRE(bytes.size() == 8 * elements);
      std::size_t different = 0;
      for (std::size_t i = 0; i < elements; ++i) {
        double found = 0;
        std::memcpy(&found, bytes.data() + 8 * i, 8);
        const double expected = value_of(*tensor, i);
        if (!(found == expected || (std::isnan(found) && std::isnan(expected)))) ++different;
      }
      INFO(path);
      CHECK(different == 0);
    }
  }
}

TEST_CASE("h5dump shows the master and the parts") {
  const test::TemporaryFolder folder;
  const Sample state = small_sample(1);
  const fs::path saved = save_sample(folder.path() / "1-a", state, 7, 2);
  const test::Finished header = test::run_program({"h5dump", "-H", (saved / "checkpoint.h5").string()});
  CHECK(header.status == 0);
  for (const char* const expected :
       {"GROUP \"parameters\"", "DATASET \"weight\"", "16-bit little-endian floating-point", "( 10, 100 )", "SCALAR"})
    CHECK_THAT(header.out, Contains(expected));
  std::int32_t step = 0;
  std::memcpy(&step, state[2].bytes.data(), sizeof step);
  const test::Finished scalar =
      test::run_program({"h5dump", "-d", "/optimizer/step", (saved / "checkpoint.h5").string()});
  CHECK_THAT(scalar.out, Contains("(0): " + std::to_string(step)));
  const test::Finished part =
      test::run_program({"h5dump", "-H", "-p", "-d", "/parameters/bias@0", (saved / "part.00000.h5").string()});
  CHECK_THAT(part.out, Contains("CONTIGUOUS") && Contains("( 7 )"));
}

}  // namespace
}  // namespace braise::checkpoint
