// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/checkpoint/manifest.h"

#include <catch2/catch.hpp>
#include <functional>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "stages/shared/checkpoint/digest.h"
#include "stages/shared/io/file.h"
#include "tests/stages/shared/checkpoint/sample.h"
#include "tests/support/support.h"

namespace braise::checkpoint {
namespace {

using Catch::Contains;
using nlohmann::json;

/// The digest of a tensor as its description says, done plainly.
std::string plain_digest(const std::string& bytes, std::size_t element_bytes) {
  const std::size_t leaf = 4096 * element_bytes, chunk = 64 * leaf;
  const auto raw = [](const std::string& text) {
    const io::Sha256Bytes digest = io::sha256_bytes(std::as_bytes(std::span(text.data(), text.size())));
    return std::string(reinterpret_cast<const char*>(digest.data()), digest.size());
  };
  std::string chunks;
  for (std::size_t c = 0; c < bytes.size(); c += chunk) {
    std::string leaves;
    const std::string of_chunk = bytes.substr(c, chunk);
    for (std::size_t l = 0; l < of_chunk.size(); l += leaf) leaves += raw(of_chunk.substr(l, leaf));
    chunks += raw(leaves);
  }
  return io::sha256(chunks);
}

TEST_CASE("a tensor's digest is the same however it is cut") {
  for (const std::int64_t elements :
       {std::int64_t{0}, std::int64_t{1}, kLeafElements, kChunkElements - 1, kChunkElements, kChunkElements + 1,
        3 * kChunkElements + 5 * kLeafElements + 17}) {
    const SampleTensor tensor = sample_tensor("a/b", core::Dtype::kBfloat16, {elements}, 3);
    const std::string bytes(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
    const std::string expected = plain_digest(bytes, 2);
    for (const std::vector<std::int64_t>& cuts : std::vector<std::vector<std::int64_t>>{
             {}, {1}, {63}, {64}, {65}, {1, 2, 3, 64, 65, 127, 128}, {10, 20, 30}, {128}}) {
      std::vector<std::int64_t> edges = {0};
      for (const std::int64_t cut : cuts) {
        if (cut * kLeafElements < elements) edges.push_back(cut * kLeafElements);
      }
      edges.push_back(elements);
      std::vector<RangeDigests> digests(edges.size() - 1);
      std::vector<DigestedRange> ranges;
      for (std::size_t i = 0; i + 1 < edges.size(); ++i) {
        const Range range{edges[i], edges[i + 1]};
        const core::ConstTensorView view(tensor.bytes.data() + range.begin * 2, core::Dtype::kBfloat16,
                                         core::Shape{range.elements()});
        // Every second range is read rather than looked at where it lies.
        const Content read(core::Dtype::kBfloat16, range.elements(), [&](std::int64_t offset, std::span<std::byte> to) {
          std::memcpy(to.data(), tensor.bytes.data() + range.begin * 2 + offset, to.size());
        });
        const RangeContent part{i % 2 == 0 ? Content(view) : read, range, elements};
        digests[i] = digests_of({&part, 1}, static_cast<int>(i % 3) + 1)[0];
        ranges.push_back({range, &digests[i]});
      }
      CHECK(tensor_digest(ranges, elements) == expected);
    }
  }
}

TEST_CASE("shares are equal, in order, cut at blocks, and whole") {
  for (const std::int64_t elements : {0, 1, 4096, 4097, 100'000, 1'000'000}) {
    for (const int ranks : {1, 2, 3, 8, 64}) {
      std::int64_t next = 0, least = elements, most = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        const Range range = share_of(elements, rank, ranks);
        CHECK(range.begin == next);
        if (range.elements() > 0) CHECK(range.begin % core::kReductionBlock == 0);
        next = range.end;
        least = std::min(least, range.elements());
        most = std::max(most, range.elements());
      }
      CHECK(next == elements);
      CHECK(most - least <= 2 * core::kReductionBlock);
    }
  }
}

/// A manifest that someone has changed, with the first line to match.
class Forged {
 public:
  explicit Forged(int ranks = 2) {
    const test::TemporaryFolder folder;
    text_ = io::read_file(save_sample(folder.path() / "1-a", sample(1), 7, ranks) / kManifestName);
    document_ = json::parse(text_);
    document_.erase("manifest_sha256");
  }

  std::string text(const std::function<void(json&)>& change) const {
    json document = document_;
    change(document);
    const std::string rest = document.dump(1).substr(2) + "\n";
    return "{\"manifest_sha256\": \"" + io::sha256(rest) + "\",\n" + rest;
  }

  /// What is said against it.
  std::string fault(const std::function<void(json&)>& change) const {
    try {
      parse_manifest(text(change), "M");
      return "";
    } catch (const core::Error& error) {
      return error.what();
    }
  }

  const std::string& original() const { return text_; }

 private:
  std::string text_;
  json document_;
};

TEST_CASE("a manifest reads back as it was written") {
  const Forged forged;
  CHECK(to_text(parse_manifest(forged.original(), "M")) == forged.original());
  CHECK(forged.fault([](json&) {}) == "");
}

TEST_CASE("hostile manifests are refused, each with what is wrong") {
  const Forged forged;
  const auto fault = [&](const std::function<void(json&)>& change) { return forged.fault(change); };
  // Tensors by path: 0 master/h.0.weight, two pieces of some chunks.
  const auto tensor = [&](const std::function<void(json&)>& change) {
    return fault([&](json& document) { change(document["tensors"][0]); });
  };
  const auto piece = [&](const std::function<void(json&)>& change) {
    return fault([&](json& document) { change(document["tensors"][0]["pieces"][1]); });
  };

  CHECK_THAT(fault([](json& d) { d.erase("step"); }), Contains("M: has no step"));
  CHECK_THAT(fault([](json& d) { d["step"] = -1; }), Contains("M:.step is not a whole number"));
  CHECK_THAT(fault([](json& d) { d["step"] = 1.5; }), Contains("M:.step"));
  CHECK_THAT(fault([](json& d) { d["step"] = 18446744073709551615u; }), Contains("M:.step"));
  CHECK_THAT(fault([](json& d) { d["format"] = "other"; }), Contains("braise checkpoint"));
  CHECK_THAT(fault([](json& d) { d["version"] = 2; }), Contains("version is 2; this build reads 1"));
  CHECK_THAT(fault([](json& d) { d["metric"] = "x"; }), Contains("metric is no number"));
  CHECK_THAT(fault([](json& d) { d["metadata"] = 1; }), Contains("metadata is no object"));
  CHECK_THAT(fault([](json& d) { d["weights_digest"] = std::string(64, '0'); }), Contains("weights_digest"));
  CHECK_THAT(fault([](json& d) { d["tensors"] = json::object(); }), Contains("tensors is no list"));
  CHECK_THAT(fault([](json& d) { d["files"] = json::array(); }), Contains("files names none"));
  CHECK_THAT(fault([](json& d) { d["files"][1]["name"] = "../../etc/passwd"; }), Contains("part.00000.h5"));
  CHECK_THAT(fault([](json& d) { d["files"][0]["name"] = "part.00000.h5"; }), Contains("checkpoint.h5"));
  CHECK_THAT(fault([](json& d) { d["files"][1].erase("frame_sha256"); }), Contains("has no frame_sha256"));
  CHECK_THAT(fault([](json& d) { d["files"][1]["frame_sha256"] = "abc"; }), Contains("is no SHA-256"));
  CHECK_THAT(fault([](json& d) { d["files"][1]["bytes"] = 100; }), Contains("does not lie in its file"));
  CHECK_THAT(fault([](json& d) { d["files"].erase(2); }), Contains("file is not a whole number from 0 to 1"));
  CHECK_THAT(fault([](json& d) { d["files"][1] = 5; }), Contains("files[1] is no object"));

  CHECK_THAT(tensor([](json& t) { t["path"] = "a/../b"; }), Contains("path has an empty part"));
  CHECK_THAT(tensor([](json& t) { t["path"] = std::string("a/b\0c", 5); }), Contains("printable"));
  CHECK_THAT(tensor([](json& t) { t["path"] = "z/z"; }), Contains("does not come after"));
  CHECK_THAT(fault([](json& d) { d["tensors"][1] = d["tensors"][0]; }), Contains("does not come after"));
  CHECK_THAT(tensor([](json& t) { t["dtype"] = "fp128"; }), Contains("is no dtype"));
  CHECK_THAT(tensor([](json& t) { t["dtype"] = "int4"; }), Contains("is no dtype"));
  CHECK_THAT(tensor([](json& t) { t["shape"] = {1, 1, 1, 1, 1, 1, 130, 4096}; }), Contains("is no shape"));
  CHECK_THAT(tensor([](json& t) {
               t["shape"] = {std::int64_t{1} << 40, std::int64_t{1} << 40};
             }),
             Contains("is no shape"));
  CHECK_THAT(tensor([](json& t) { t["shape"] = {-1, 4}; }), Contains("shape[0]"));
  CHECK_THAT(tensor([](json& t) { t["shape"] = {131, 4096}; }), Contains("is not"));
  CHECK_THAT(tensor([](json& t) { t["shape"] = {129, 4096}; }), Contains("is no range"));
  CHECK_THAT(Forged(1).fault([](json& d) { d["tensors"][0]["digest"] = std::string(64, '0'); }),
             Contains("the digest of master/h.0.weight"));
  CHECK_THAT(tensor([](json& t) { t["pieces"] = json::array(); }), Contains("elements [0, 532480) are in no piece"));
  CHECK_THAT(tensor([](json& t) { t["pieces"].erase(0); }), Contains("are in no piece"));
  CHECK_THAT(tensor([](json& t) { t["pieces"].push_back(t["pieces"][1]); }), Contains("are in two pieces"));
  CHECK_THAT(tensor([](json& t) { std::swap(t["pieces"][0], t["pieces"][1]); }), Contains("are in no piece"));

  CHECK_THAT(piece([](json& p) { p["file"] = 0; }), Contains("no part"));
  CHECK_THAT(piece([](json& p) { p["file"] = 3; }), Contains("file is not"));
  CHECK_THAT(piece([](json& p) { p["begin"] = p["begin"].get<int>() + 1; }), Contains("not cut at multiples"));
  CHECK_THAT(piece([](json& p) { p["end"] = p["end"].get<int>() - 1; }), Contains("not cut at multiples"));
  CHECK_THAT(piece([](json& p) { p["end"] = 1'000'000'000; }), Contains("is no range"));
  CHECK_THAT(piece([](json& p) { p["begin"] = p["end"].get<int>() + 4096; }), Contains("is no range"));
  CHECK_THAT(piece([](json& p) { p["offset"] = std::int64_t{1} << 60; }), Contains("does not lie in its file"));
  CHECK_THAT(piece([](json& p) { p["offset"] = p["offset"].get<int>() + 1; }), Contains("is not aligned"));
  CHECK_THAT(fault([](json& d) {
               d["tensors"][1]["pieces"][0]["offset"] = d["tensors"][0]["pieces"][0]["offset"].get<int>() + 64;
             }),
             Contains("pieces overlap in part.00000.h5"));
  CHECK_THAT(piece([](json& p) { p["chunks"].erase(0); }), Contains("chunks, not"));
  CHECK_THAT(piece([](json& p) { p["chunks"].push_back(p["chunks"][0]); }), Contains("chunks, not"));
  CHECK_THAT(piece([](json& p) { p["chunks"][0] = std::string(64, 'g'); }), Contains("is no SHA-256"));
}

TEST_CASE("texts that are no manifest are refused") {
  const Forged forged;
  for (const std::string& text : {std::string(), std::string("{}"), std::string(200, '{'), forged.original().substr(1),
                                  forged.original().substr(0, 500), " " + forged.original()}) {
    CHECK_THROWS_AS(parse_manifest(text, "M"), core::Error);
  }
  const std::string rest(100'000, '[');
  CHECK_THROWS_WITH(parse_manifest("{\"manifest_sha256\": \"" + io::sha256(rest) + "\",\n" + rest, "M"),
                    Contains("M is not JSON"));
}

TEST_CASE("sidecars are checked too") {
  CHECK_THROWS_WITH(parse_part("", "S"), Contains("S is not JSON"));
  CHECK_THROWS_WITH(parse_part("{}", "S"), Contains("has no save"));
  CHECK(parse_part(R"({"save": 3, "failure": "why"})", "S").failure == "why");
  const std::string digest(64, 'a');
  const json part = {{"save", 1},
                     {"file", {{"name", "part.00000.h5"}, {"bytes", 100'000}, {"frame_sha256", digest}}},
                     {"tensors",
                      {{{"path", "a/b"},
                        {"dtype", "fp32"},
                        {"shape", {8192}},
                        {"pieces",
                         {{{"file", 0},
                           {"begin", 0},
                           {"end", 4096},
                           {"offset", 64},
                           {"chunks", {digest}},
                           {"partial", {{{"chunk", 0}, {"leaves", {digest}}}}}}}}}}}};
  CHECK(parse_part(part.dump(), "S").tensors.at(0).pieces.at(0).digests.partial.size() == 1);
  const auto fault = [&](const std::function<void(json&)>& change) {
    json changed = part;
    change(changed["tensors"][0]["pieces"][0]);
    try {
      parse_part(changed.dump(), "S");
      return std::string();
    } catch (const core::Error& error) {
      return std::string(error.what());
    }
  };
  CHECK_THAT(fault([](json& p) { p.erase("partial"); }), Contains("leaves of chunk 0"));
  CHECK_THAT(fault([](json& p) { p["partial"][0]["chunk"] = 1; }), Contains("leaves of chunk 0"));
  CHECK_THAT(fault([](json& p) { p["partial"][0]["leaves"].push_back(p["chunks"][0]); }),
             Contains("leaves of chunk 0"));
  CHECK_THAT(fault([](json& p) { p["partial"].push_back(p["partial"][0]); }), Contains("a chunk that is whole"));
}

}  // namespace
}  // namespace braise::checkpoint
