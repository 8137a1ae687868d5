// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "kernels/core/arena.h"
#include "kernels/core/error.h"
#include "stages/shared/checkpoint/checkpoint.h"
#include "stages/shared/checkpoint/digest.h"
#include "stages/shared/hdf5/hdf5_file.h"
#include "stages/shared/io/digest.h"
#include "stages/shared/weights/weights.h"
#include "stages/tools/target.h"
#include "stages/tools/tools.h"
#include "stages/tools/values.h"

namespace braise::tools {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;

// What is read at once of tensors that may be of any size.
constexpr std::int64_t kSliceElements = checkpoint::kChunkElements;

// A value of metadata is shown on one line, as far as it fits there.
constexpr std::size_t kLongestValue = 90;

/// Numbers of a tensor, and what else is known of it, as JSON; the text is made from it.
json statistics_json(const Statistics& statistics) {
  json object = json::object();
  if (statistics.finite() > 0) {
    object = {{"min", statistics.min()},
              {"max", statistics.max()},
              {"mean", statistics.mean()},
              {"std", statistics.deviation()}};
  }
  if (statistics.nan() > 0) object["nan"] = statistics.nan();
  if (statistics.infinite() > 0) object["infinite"] = statistics.infinite();
  return object;
}

void add_all(core::Dtype dtype, std::span<const std::byte> bytes, Statistics& statistics) {
  const std::size_t elements = bytes.size() / static_cast<std::size_t>(core::bits(dtype) / 8);
  for (std::size_t i = 0; i < elements; ++i) statistics.add(value_at(dtype, bytes, i));
}

json tensor_json(const std::string& name, std::string_view type, const core::Shape& shape, const Statistics& statistics,
                 const std::string& digest) {
  json object = {
      {"name", name}, {"dtype", type}, {"shape", shape.extents()}, {"statistics", statistics_json(statistics)}};
  if (!digest.empty()) object["digest"] = digest;
  return object;
}

json inspect_checkpoint(const fs::path& folder, bool verify) {
  const checkpoint::Checkpoint found(folder);
  if (verify) found.verify();
  json object = {{"kind", "checkpoint"},
                 {"path", folder.string()},
                 {"step", found.step()},
                 {"attempt", found.attempt()},
                 {"weights_digest", found.weights_digest()},
                 {"metadata", found.metadata()},
                 {"files", json::array()},
                 {"tensors", json::array()}};
  if (found.metric()) object["metric"] = *found.metric();
  for (const checkpoint::FileInfo& file : found.files())
    object["files"].push_back({{"name", file.name}, {"bytes", file.bytes}});
  std::vector<std::byte> bytes;
  for (const checkpoint::TensorInfo& info : found.tensors()) {
    Statistics statistics;
    const std::int64_t elements = info.shape.elements();
    for (std::int64_t begin = 0; begin < elements; begin += kSliceElements) {
      const std::int64_t count = std::min(kSliceElements, elements - begin);
      bytes.resize(static_cast<std::size_t>(count * core::bits(info.dtype) / 8));
      found.read(info.path, begin, core::TensorView(bytes.data(), info.dtype, {count}));
      add_all(info.dtype, bytes, statistics);
    }
    object["tensors"].push_back(tensor_json(info.path, core::name(info.dtype), info.shape, statistics, info.digest));
  }
  return object;
}

json inspect_weights(const fs::path& path) {
  const weights::Weights found = weights::open_weights(path);
  core::MemoryLedger ledger;
  core::Arena arena(core::kCpu, core::Space::kHost, ledger);
  const std::unique_ptr<core::Stream> stream = core::make_stream(arena);
  json object = {{"kind", "weights"}, {"path", path.string()}, {"tensors", json::array()}};
  for (const weights::TensorInfo& info : found.tensors()) {
    Statistics statistics;
    std::string digest;
    const std::optional<core::Dtype> dtype = weights::same_dtype(info.encoding);
    if (dtype) {
      const std::int64_t elements = info.shape.elements();
      const checkpoint::Range all{0, elements};
      const core::ConstTensorView flat(info.bytes.data(), *dtype, core::Shape{elements});
      const checkpoint::RangeContent whole{flat, all, elements};
      const std::vector<checkpoint::RangeDigests> digests = checkpoint::digests_of({&whole, 1}, 1);
      const checkpoint::DigestedRange range{all, &digests[0]};
      digest = checkpoint::tensor_digest({&range, 1}, elements);
      add_all(*dtype, info.bytes, statistics);
    } else if (info.encoding != weights::Encoding::kOther && weights::is_float(info.encoding)) {
      const core::Tensor values =
          arena.tensor(core::Dtype::kFloat32, info.shape, core::Category::kWorkspace, "inspect");
      found.read(*stream, info.name, values.view);
      add_all(core::Dtype::kFloat32,
              {static_cast<const std::byte*>(values.view.raw()), static_cast<std::size_t>(values.view.bytes())},
              statistics);
    }
    object["tensors"].push_back(tensor_json(info.name, info.type, info.shape, statistics, digest));
  }
  return object;
}

/// The shards of a token file's master, against the digests that it records.
void verify_shards(const fs::path& master, const json& provenance) {
  for (const json& shard : provenance.value("shards", json::array())) {
    const fs::path path = master.parent_path() / fs::path(shard.value("file", "")).filename();
    if (io::digest_file(path).sha256 != shard.value("sha256", ""))
      throw core::Error(path.string() + " is damaged: it does not have the digest that " + master.string() +
                        " records");
  }
}

json inspect_tokens(const fs::path& path, bool verify) {
  const hdf5::Reader file(path);
  if (file.text_attribute("/", "format") != "braise tokens")
    throw BadInput(path.string() + " is HDF5, but no token file");
  json object = {{"kind", "tokens"},
                 {"path", path.string()},
                 {"tokenizer", file.text_attribute("/", "tokenizer")},
                 {"vocabulary_size", file.attribute("/", "vocabulary_size")},
                 {"tensors", json::array()}};
  if (file.has("/provenance")) {
    const json provenance = json::parse(file.text("/provenance"), nullptr, false);
    if (provenance.is_object() && verify) verify_shards(path, provenance);
    object["metadata"] = {{"provenance", provenance}};
  }
  for (const std::string name :
       {"/train/tokens", "/train/document_offsets", "/validation/tokens", "/validation/document_offsets"}) {
    const hdf5::DatasetInfo info = file.info(name);
    Statistics statistics;
    for (std::uint64_t begin = 0; begin < info.elements; begin += kSliceElements) {
      const auto count = std::min<std::uint64_t>(kSliceElements, info.elements - begin);
      for (const std::uint64_t value : file.read(name, begin, count)) statistics.add(static_cast<double>(value));
    }
    object["tensors"].push_back({{"name", name.substr(1)},
                                 {"dtype", hdf5::name_of(info.element)},
                                 {"shape", info.extents},
                                 {"statistics", statistics_json(statistics)}});
  }
  return object;
}

std::string number_text(const json& value) {
  if (value.is_null()) return "-";
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value.get<double>());
  return text;
}

std::string shape_text(const json& shape) {
  std::string text;
  for (const json& extent : shape) text += (text.empty() ? "" : " x ") + extent.dump();
  return text.empty() ? "scalar" : text;
}

/// Columns as wide as their widest entry, the first to the left.
std::string table_text(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths(rows[0].size());
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line = " ";
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - row[i].size(), ' ');
      line += i < 3 ? " " + row[i] + padding + " " : " " + padding + row[i] + " ";
    }
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return text;
}

std::string text_of(const json& object, bool verified) {
  std::string text = object["kind"].get<std::string>() + " " + object["path"].get<std::string>() + "\n";
  for (const char* const key : {"step", "attempt", "metric", "weights_digest", "tokenizer", "vocabulary_size"}) {
    if (object.contains(key))
      text += std::string("  ") + key + ": " +
              (object[key].is_string() ? object[key].get<std::string>() : object[key].dump()) + "\n";
  }
  for (const json& file : object.value("files", json::array())) {
    text += "  file " + file["name"].get<std::string>() + ": " + file["bytes"].dump() + " bytes\n";
  }
  const json metadata = object.value("metadata", json::object());
  for (const auto& [key, value] : metadata.items()) {
    // JSON text has no control characters, whatever the metadata holds.
    std::string line = value.dump(-1, ' ', true, json::error_handler_t::replace);
    if (line.size() > kLongestValue) line = line.substr(0, kLongestValue) + "...";
    text += "  metadata " + key + ": " + line + "\n";
  }
  std::vector<std::vector<std::string>> rows = {
      {"tensor", "dtype", "shape", "min", "max", "mean", "std", "not finite", "digest"}};
  for (const json& tensor : object["tensors"]) {
    const json& statistics = tensor["statistics"];
    const std::uint64_t odd = statistics.value("nan", 0u) + statistics.value("infinite", 0u);
    rows.push_back({tensor["name"].get<std::string>(), tensor["dtype"].get<std::string>(), shape_text(tensor["shape"]),
                    number_text(statistics.value("min", json())), number_text(statistics.value("max", json())),
                    number_text(statistics.value("mean", json())), number_text(statistics.value("std", json())),
                    odd > 0 ? std::to_string(odd) : "-", tensor.value("digest", "-").substr(0, 12)});
  }
  text += table_text(rows);
  if (verified) {
    text += object["kind"] == "weights" ? "everything was read; the format has no digests to check it against\n"
                                        : "everything was read, and is what was written\n";
  }
  return text;
}

}  // namespace

int inspect(const fs::path& path, bool verify, bool as_json) {
  const Target target = find_target(path);
  json object;
  switch (target.kind) {
    case TargetKind::kCheckpoint:
      object = inspect_checkpoint(target.path, verify);
      break;
    case TargetKind::kWeights:
      object = inspect_weights(target.path);
      break;
    case TargetKind::kTokens:
      object = inspect_tokens(target.path, verify);
      break;
  }
  if (verify) object["verified"] = true;
  const std::string text =
      as_json ? object.dump(2, ' ', false, json::error_handler_t::replace) + "\n" : text_of(object, verify);
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
    core::fail_errno("cannot write to standard output");
  return kSuccess;
}

}  // namespace braise::tools
