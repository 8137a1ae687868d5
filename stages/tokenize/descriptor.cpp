// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <nlohmann/json.hpp>

#include "stages/api/descriptor.h"
#include "stages/api/input_path.h"

namespace braise::tokenize {
namespace {

// Read and decompression buffers, document lengths, HDF5's own.
constexpr std::uint64_t kBufferBytes = std::uint64_t{32} << 20;

// What text is to its gzip or zstd file: prose is 2.5 to 3.5, logs and code more.
constexpr std::uint64_t kCompressionRatio = 4;

// Tokens are held as 16 bits each until their shard is written (the vocabulary of `bytes` is 256 or 257).
constexpr std::uint64_t kBytesPerToken = 2;

// While a document is encoded its text is there, and its tokens as 32 bits each.
constexpr std::uint64_t kBytesPerDocumentByte = 1 + 4;

bool is_compressed(const std::string& path) {
  return path.ends_with(".gz") || path.ends_with(".dz") || path.ends_with(".zst");
}

void check(const stages::RuleContext& context) {
  const std::uint64_t needed = context.config.at("shard_size").get<std::uint64_t>() * kBytesPerToken + kBufferBytes;
  if (needed > context.resources.host_memory_bytes) {
    context.fault("/shard_size",
                  "a shard is held in memory, " + std::to_string(needed) + " bytes with buffers, which is more than " +
                      "resources.host_memory (" + std::to_string(context.resources.host_memory_bytes) + ")",
                  "must be smaller, or resources.host_memory larger");
  }
}

std::vector<stages::InputPattern> inputs(const nlohmann::json& config) {
  std::vector<stages::InputPattern> patterns;
  const auto add = [&patterns](const std::string& pointer, const nlohmann::json& entry) {
    stages::InputPattern pattern;
    if (entry.is_object()) {
      pattern = {pointer + "/path", entry.at("path"), entry.value("sha256", "")};
    } else {
      pattern = {pointer, entry, ""};
    }
    if (!stages::is_of_this_run(pattern.pattern)) patterns.push_back(std::move(pattern));
  };
  const nlohmann::json& input = config.at("input");
  if (input.is_array()) {
    for (std::size_t i = 0; i < input.size(); ++i) add("/input/" + std::to_string(i), input[i]);
  } else {
    add("/input", input);
  }
  return patterns;
}

/// Whether a file is a single document.
bool is_one_document(const nlohmann::json& config, const std::string& path) {
  if (config.at("documents") != "file" || config.at("format") == "jsonl") return false;
  if (config.at("format") == "text") return true;
  const std::string name = is_compressed(path) ? path.substr(0, path.rfind('.')) : path;
  return !name.ends_with(".jsonl") && !name.ends_with(".ndjson");
}

stages::Estimate estimate(const nlohmann::json& config, const stages::Resources&,
                          const std::vector<stages::InputFile>& inputs, const stages::KnownModels&) {
  const std::uint64_t shard_size = config.at("shard_size");
  std::uint64_t text = 0, largest_document = 0, shards = 0, in_shard = 0;
  bool exact = !inputs.empty();
  for (const stages::InputFile& file : inputs) {
    const bool compressed = is_compressed(file.path);
    exact = exact && !compressed;
    const std::uint64_t bytes = file.bytes * (compressed ? kCompressionRatio : 1);
    text += bytes;
    in_shard += bytes;
    if (is_one_document(config, file.path)) {
      largest_document = std::max(largest_document, bytes);
      shards += in_shard >= shard_size ? 1 : 0;
      in_shard = in_shard >= shard_size ? 0 : in_shard;
    } else {
      shards += in_shard / shard_size;
      in_shard %= shard_size;
    }
  }
  shards += in_shard > 0 ? 1 : 0;

  // A shard ends with the document that fills it.
  const std::uint64_t shard = inputs.empty() ? shard_size : std::min(shard_size + largest_document, text);
  stages::Estimate result;
  result.memory_bytes_per_rank["workspace"] =
      shard * kBytesPerToken + largest_document * kBytesPerDocumentByte + kBufferBytes;
  result.steps = exact ? shards : 0;
  result.step_unit = "shard";
  return result;
}

}  // namespace

const stages::StageDescriptor& descriptor() {
  static const stages::StageDescriptor descriptor = {
      .kind = "tokenize",
      .version = 1,
      .summary = "Turns text into HDF5 token files that training reads.",
      .reusable = true,
      .devices = {"cpu"},
      .outputs =
          {{"tokens", "artifacts/tokens.h5",
            "the tokens, training and validation, with document offsets and provenance; the shards lie beside it"}},
      .check = check,
      .inputs = inputs,
      .estimate = estimate,
  };
  return descriptor;
}

}  // namespace braise::tokenize
