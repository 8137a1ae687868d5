// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <catch2/catch.hpp>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/core/arena.h"
#include "kernels/core/error.h"
#include "stages/shared/data/batch_source.h"
#include "stages/shared/hdf5/hdf5_file.h"
#include "stages/shared/io/digest.h"
#include "tests/support/support.h"

namespace braise::test {

using Document = std::vector<std::uint32_t>;
using Documents = std::vector<Document>;

/// What goes into token files.
struct TokenContent {
  std::vector<Documents> train = {};       ///< by shard
  std::vector<Documents> validation = {};  ///< the same; may be shorter
  std::uint64_t vocabulary_size = 1 << 20;
  std::optional<std::uint64_t> end_of_document;
  hdf5::Element element = hdf5::Element::uint32;
  nlohmann::json tokenizer = {{"kind", "bytes"}, {"end_of_document", true}};
};

inline Documents documents_of(const std::vector<Documents>& shards, std::size_t shard) {
  return shard < shards.size() ? shards[shard] : Documents();
}

inline std::vector<std::uint32_t> joined(const Documents& documents) {
  std::vector<std::uint32_t> tokens;
  for (const Document& document : documents) tokens.insert(tokens.end(), document.begin(), document.end());
  return tokens;
}

inline std::vector<std::uint64_t> offsets_of(const Documents& documents) {
  std::vector<std::uint64_t> offsets = {0};
  for (const Document& document : documents) offsets.push_back(offsets.back() + document.size());
  return offsets;
}

inline Documents all_of(const std::vector<Documents>& shards) {
  Documents all;
  for (const Documents& documents : shards) all.insert(all.end(), documents.begin(), documents.end());
  return all;
}

inline void write_header(hdf5::Writer& file, const TokenContent& content) {
  file.attribute("/", "format", std::string("braise tokens"));
  file.attribute("/", "version", std::uint64_t{1});
  file.attribute("/", "tokenizer", std::string("bytes"));
  file.attribute("/", "vocabulary_size", content.vocabulary_size);
  if (content.end_of_document) file.attribute("/", "end_of_document", *content.end_of_document);
}

inline void write_offsets(hdf5::Writer& file, const std::string& group, const std::vector<std::uint64_t>& offsets) {
  file.dataset(group + "/document_offsets", hdf5::Element::uint64, offsets.size());
  file.write(group + "/document_offsets", hdf5::Element::uint64, 0, offsets.data(), offsets.size());
}

inline void write_tokens(hdf5::Writer& file, const std::string& group, hdf5::Element element,
                         const std::vector<std::uint32_t>& tokens) {
  file.dataset(group + "/tokens", element, tokens.size());
  if (element == hdf5::Element::uint16) {
    const std::vector<std::uint16_t> narrow(tokens.begin(), tokens.end());
    file.write(group + "/tokens", element, 0, narrow.data(), narrow.size());
  } else {
    file.write(group + "/tokens", element, 0, tokens.data(), tokens.size());
  }
}

/// What a test may falsify before the master is written.
struct MasterParts {
  std::vector<std::vector<std::uint64_t>> offsets;  ///< train, validation
  nlohmann::json provenance;
};

/// Writes tokens.h5 and its shards, as schemas/tokens.schema.json has them, and gives the master's path.
inline std::filesystem::path write_token_files(const std::filesystem::path& folder, const TokenContent& content,
                                               const std::function<void(MasterParts&)>& falsify = {}) {
  std::filesystem::create_directories(folder);
  const std::vector<const std::vector<Documents>*> sides = {&content.train, &content.validation};
  const std::vector<std::string> groups = {"/train", "/validation"};
  nlohmann::json shards = nlohmann::json::array();
  std::vector<std::vector<hdf5::VirtualPart>> parts(2);
  for (std::size_t shard = 0; shard < std::max<std::size_t>(content.train.size(), 1); ++shard) {
    std::string number = std::to_string(shard);
    number.insert(0, 5 - number.size(), '0');
    const std::string name = "tokens." + number + ".h5";
    hdf5::Writer file(folder / name);
    write_header(file, content);
    std::vector<std::uint64_t> counts;
    for (std::size_t side = 0; side < 2; ++side) {
      const Documents documents = documents_of(*sides[side], shard);
      file.group(groups[side]);
      write_tokens(file, groups[side], content.element, joined(documents));
      write_offsets(file, groups[side], offsets_of(documents));
      counts.push_back(joined(documents).size());
      parts[side].push_back({name, groups[side] + "/tokens", counts.back()});
    }
    file.close();
    const io::FileDigest digest = io::digest_file(folder / name);
    shards.push_back({{"file", name},
                      {"bytes", digest.bytes},
                      {"sha256", digest.sha256},
                      {"train_tokens", counts[0]},
                      {"validation_tokens", counts[1]}});
  }
  MasterParts master;
  master.provenance = {{"braise", "1.2.3"},
                       {"kind_version", 1},
                       {"seed", 1},
                       {"config", {{"tokenizer", content.tokenizer}}},
                       {"inputs", nlohmann::json::array()},
                       {"shards", shards}};
  for (const auto* side : sides) master.offsets.push_back(offsets_of(all_of(*side)));
  if (falsify) falsify(master);
  const std::filesystem::path path = folder / "tokens.h5";
  hdf5::Writer file(path);
  write_header(file, content);
  for (std::size_t side = 0; side < 2; ++side) {
    file.group(groups[side]);
    std::uint64_t tokens = 0;
    for (const hdf5::VirtualPart& part : parts[side]) tokens += part.elements;
    file.virtual_dataset(groups[side] + "/tokens", content.element, {tokens}, parts[side]);
    write_offsets(file, groups[side], master.offsets[side]);
  }
  file.text("/provenance", master.provenance.dump());
  file.close();
  return path;
}

/// Documents of the given lengths; every token of all is another, so that a token tells its place in the stream.
inline Documents numbered(const std::vector<std::size_t>& lengths, std::uint32_t first = 0) {
  Documents documents;
  for (const std::size_t length : lengths) {
    documents.emplace_back(length);
    std::iota(documents.back().begin(), documents.back().end(), first);
    first += static_cast<std::uint32_t>(length);
  }
  return documents;
}

/// Arena for the host's memory, with its ledger.
struct HostMemory {
  core::MemoryLedger ledger;
  core::Arena arena{core::kCpu, core::Space::kHost, ledger};
};

using Values = std::vector<std::int32_t>;

inline Values values(const core::ConstTensorView& tensor) {
  if (!tensor) return {};
  const auto* data = tensor.data<std::int32_t>();
  return Values(data, data + tensor.elements());
}

/// One sequence of a batch.
struct Sequence {
  Values ids, targets, positions, document_starts;
  bool operator==(const Sequence&) const = default;
};

inline std::vector<Sequence> sequences_of(const data::HostBatch& batch) {
  std::vector<Sequence> sequences;
  const std::int64_t rows = batch.ids.extent(0);
  for (std::int64_t b = 0; b < rows; ++b) {
    const auto row = [&](const core::ConstTensorView& tensor) {
      return tensor ? values(tensor.select(0, b)) : Values();
    };
    sequences.push_back({row(batch.ids), row(batch.targets), row(batch.positions), row(batch.document_starts)});
  }
  return sequences;
}

inline std::vector<Sequence> fetch(const data::BatchSource& source, std::uint64_t first, std::int64_t count) {
  return sequences_of(source.fetch(first, count));
}

/// The message of the core::Error that `action` throws.
template <class Action>
std::string error_of(const Action& action) {
  try {
    action();
  } catch (const core::Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace braise::test
