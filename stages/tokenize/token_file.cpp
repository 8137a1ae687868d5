// SPDX-License-Identifier: Apache-2.0
#include "stages/tokenize/token_file.h"

#include <nlohmann/json.hpp>
#include <optional>

#include "stages/tokenize/split.h"

namespace braise::tokenize {
namespace {

using hdf5::Element;

constexpr char kTrain[] = "/train";
constexpr char kValidation[] = "/validation";
constexpr std::uint32_t kNarrowVocabulary = 1 << 16;

// HDF5's headers, heaps and attributes of one file.
constexpr std::uint64_t kMetadataBytes = 64 * 1024;

Element token_type(const text::Tokenizer& tokenizer) {
  return tokenizer.vocabulary_size() <= kNarrowVocabulary ? Element::uint16 : Element::uint32;
}

void write_header(hdf5::Writer& file, const text::Tokenizer& tokenizer) {
  file.attribute("/", "format", std::string("braise tokens"));
  file.attribute("/", "version", kTokenFileVersion);
  file.attribute("/", "tokenizer", std::string(tokenizer.kind()));
  file.attribute("/", "vocabulary_size", tokenizer.vocabulary_size());
  if (const std::optional<std::uint32_t> end = tokenizer.end_of_document())
    file.attribute("/", "end_of_document", *end);
}

}  // namespace

ShardTokens::ShardTokens(const text::Tokenizer& tokenizer, const Validation& validation, std::int64_t seed)
    : tokenizer_(tokenizer), validation_(validation), seed_(seed) {}

void ShardTokens::add(std::uint64_t index, std::string_view document) {
  switch (validation_.take) {
    case Validation::Take::documents:
      add_to(is_validation_document(seed_, index, validation_.fraction) ? held_out_ : train_, document);
      return;
    case Validation::Take::tail: {
      const std::size_t cut = tail_begin(document, validation_.fraction);
      add_to(train_, document.substr(0, cut));
      add_to(held_out_, document.substr(cut));
      return;
    }
  }
}

void ShardTokens::add_to(Side& side, std::string_view text) {
  if (text.empty()) return;
  encoded_.clear();
  tokenizer_.encode(text, encoded_);
  if (const std::optional<std::uint32_t> end = tokenizer_.end_of_document()) encoded_.push_back(*end);
  if (token_type(tokenizer_) == Element::uint16) {
    // Every token is below the vocabulary's size, so nothing is lost.
    for (const std::uint32_t token : encoded_) side.narrow.push_back(static_cast<std::uint16_t>(token));
  } else {
    side.wide.insert(side.wide.end(), encoded_.begin(), encoded_.end());
  }
  side.document_offsets.push_back(side.document_offsets.back() + encoded_.size());
}

TokenCounts ShardTokens::counts() const {
  const auto count = [](const Side& side) {
    return SideCounts{side.document_offsets.back(), side.document_offsets.size() - 1};
  };
  return {count(train_), count(held_out_)};
}

std::uint64_t ShardTokens::file_bytes() const {
  const TokenCounts all = counts();
  return (all.train.tokens + all.validation.tokens) * hdf5::size_of(token_type(tokenizer_)) +
         (all.train.documents + all.validation.documents + 2) * sizeof(std::uint64_t) + kMetadataBytes;
}

void ShardTokens::write(const std::filesystem::path& path) const {
  hdf5::Writer file(path);
  write_header(file, tokenizer_);
  write_side(file, kTrain, train_);
  write_side(file, kValidation, held_out_);
  file.close();
}

void ShardTokens::write_side(hdf5::Writer& file, const std::string& group, const Side& side) const {
  const Element type = token_type(tokenizer_);
  const std::uint64_t tokens = side.document_offsets.back();
  file.group(group);
  file.dataset(group + "/tokens", type, tokens);
  if (type == Element::uint16) {
    file.write(group + "/tokens", type, 0, side.narrow.data(), tokens);
  } else {
    file.write(group + "/tokens", type, 0, side.wide.data(), tokens);
  }
  file.dataset(group + "/document_offsets", Element::uint64, side.document_offsets.size());
  file.write(group + "/document_offsets", Element::uint64, 0, side.document_offsets.data(),
             side.document_offsets.size());
}

void write_master_file(const std::filesystem::path& path, const text::Tokenizer& tokenizer,
                       const std::vector<ShardPart>& shards, const nlohmann::json& provenance) {
  hdf5::Writer file(path);
  write_header(file, tokenizer);
  const auto write_side = [&](const std::string& group, SideCounts TokenCounts::*side) {
    std::uint64_t tokens = 0, documents = 0;
    std::vector<hdf5::VirtualPart> parts;
    for (const ShardPart& shard : shards) {
      parts.push_back({shard.file, group + "/tokens", (shard.counts.*side).tokens});
      tokens += (shard.counts.*side).tokens;
      documents += (shard.counts.*side).documents;
    }
    file.group(group);
    file.virtual_dataset(group + "/tokens", token_type(tokenizer), {tokens}, parts);

    // The offsets are real data here, so that a reader can plan before it maps a shard.
    const std::string name = group + "/document_offsets";
    file.dataset(name, Element::uint64, documents + 1);
    const std::uint64_t zero = 0;
    file.write(name, Element::uint64, 0, &zero, 1);
    std::uint64_t tokens_before = 0, documents_before = 0;
    for (const ShardPart& shard : shards) {
      const SideCounts counts = shard.counts.*side;
      const hdf5::Reader part(path.parent_path() / shard.file);
      std::vector<std::uint64_t> offsets = part.read(name, 1, counts.documents);
      for (std::uint64_t& offset : offsets) offset += tokens_before;
      file.write(name, Element::uint64, 1 + documents_before, offsets.data(), offsets.size());
      tokens_before += counts.tokens;
      documents_before += counts.documents;
    }
  };
  write_side(kTrain, &TokenCounts::train);
  write_side(kValidation, &TokenCounts::validation);
  file.text("/provenance", provenance.dump());
  file.close();
}

}  // namespace braise::tokenize
