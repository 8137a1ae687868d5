// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/data/token_file.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "kernels/core/error.h"
#include "kernels/core/ledger.h"
#include "kernels/core/tensor.h"
#include "stages/shared/hdf5/hdf5_file.h"
#include "stages/shared/io/digest.h"
#include "stages/shared/weights/mapped_file.h"
#include "stages/shared/weights/text.h"

namespace braise::data {
namespace {

namespace fs = std::filesystem;
using hdf5::Element;
using weights::in_quotes;

constexpr char kFormat[] = "braise tokens";
constexpr std::uint64_t kVersion = 1;
constexpr std::size_t kDigestPiece = 16 << 20;

constexpr std::array<Side, 2> kSides = {Side::kTrain, Side::kValidation};

std::size_t index(Side side) {
  return static_cast<std::size_t>(side);
}

std::string group(Side side) {
  return side == Side::kTrain ? "/train" : "/validation";
}

/// A dataset as it lies in a mapped file.
struct Tokens {
  const std::byte* data = nullptr;
  Element element = Element::uint16;
  std::uint64_t count = 0;
};

/// A dataset's bytes. Errors: core::Error where they do not lie in the file as one piece.
const std::byte* bytes_of(const weights::MappedFile& file, const std::string& name, const hdf5::DatasetInfo& info) {
  if (info.elements == 0) return nullptr;
  const std::uint64_t size = hdf5::size_of(info.element);
  const std::uint64_t length = file.bytes().size();
  if (!info.contiguous || info.file_offset > length || info.elements > (length - info.file_offset) / size)
    throw core::Error(file.path().string() + ": " + name +
                      " does not lie in the file as one piece, so it cannot be "
                      "mapped; make the tokens again");
  if (info.file_offset % size != 0)
    throw core::Error(file.path().string() + ": " + name + " begins at byte " + std::to_string(info.file_offset) +
                      ", which is no multiple of its elements' " + std::to_string(size) +
                      " bytes; make the tokens again");
  return file.bytes().data() + info.file_offset;
}

/// What every file says of itself, master and shards alike.
struct Header {
  std::string tokenizer;
  std::uint64_t vocabulary_size = 0;
  std::optional<std::uint64_t> end_of_document;
  bool operator==(const Header&) const = default;
};

Header read_header(const hdf5::Reader& file, const fs::path& path) {
  if (!file.has_attribute("/", "format") || !file.has_attribute("/", "version"))
    throw core::Error(path.string() + ": is not a token file, such as the `tokens` of a tokenize stage");
  const std::string format = file.text_attribute("/", "format");
  if (format != kFormat)
    throw core::Error(path.string() + ": is of format " + in_quotes(format) + ", not " + in_quotes(kFormat));
  const std::uint64_t version = file.attribute("/", "version");
  if (version != kVersion)
    throw core::Error(path.string() + ": is of version " + std::to_string(version) +
                      " of the layout; this build reads " + std::to_string(kVersion) + ", so make the tokens again");
  Header header{file.text_attribute("/", "tokenizer"), file.attribute("/", "vocabulary_size"), std::nullopt};
  if (file.has_attribute("/", "end_of_document")) header.end_of_document = file.attribute("/", "end_of_document");
  constexpr std::uint64_t kMost = std::numeric_limits<std::int32_t>::max();
  if (header.vocabulary_size == 0 || header.vocabulary_size > kMost)
    throw core::Error(path.string() + ": has a vocabulary of " + std::to_string(header.vocabulary_size) +
                      " tokens; 1 to " + std::to_string(kMost) + " are possible");
  if (header.end_of_document && *header.end_of_document >= header.vocabulary_size)
    throw core::Error(path.string() + ": its end of document, " + std::to_string(*header.end_of_document) +
                      ", is not in its vocabulary of " + std::to_string(header.vocabulary_size) + " tokens");
  return header;
}

/// A shard, as the master's provenance records it.
struct ShardRecord {
  std::string file;
  std::uint64_t bytes = 0;
  std::string sha256;
  std::array<std::uint64_t, 2> tokens{};  ///< by side
};

struct Provenance {
  std::string tokenizer;  ///< its configuration
  std::vector<ShardRecord> shards;
};

Provenance parse_provenance(const std::string& text, const fs::path& path) {
  Provenance provenance;
  try {
    const nlohmann::json json = nlohmann::json::parse(text);
    provenance.tokenizer = json.at("config").at("tokenizer").dump();
    for (const nlohmann::json& shard : json.at("shards")) {
      provenance.shards.push_back({shard.at("file"),
                                   shard.at("bytes"),
                                   shard.at("sha256"),
                                   {shard.at("train_tokens"), shard.at("validation_tokens")}});
    }
  } catch (const nlohmann::json::exception& error) {
    throw core::Error(path.string() + ": its /provenance is not what schemas/tokens.schema.json says: " + error.what());
  }
  for (const ShardRecord& shard : provenance.shards) {
    if (shard.file.empty() || shard.file != fs::path(shard.file).filename() || shard.file.starts_with('.'))
      throw core::Error(path.string() + ": its /provenance names a shard " + in_quotes(shard.file) +
                        ", which is not a file beside it");
  }
  return provenance;
}

std::string digest_of(const weights::MappedFile& file, const std::function<void(const std::string&)>& note) {
  io::Sha256 digest;
  const std::span<const std::byte> bytes = file.bytes();
  for (std::size_t begin = 0; begin < bytes.size(); begin += kDigestPiece) {
    const std::span<const std::byte> piece = bytes.subspan(begin, std::min(kDigestPiece, bytes.size() - begin));
    if (note)
      note("verify " + file.path().string() + ", " + core::bytes_text(static_cast<std::int64_t>(begin)) + " of " +
           core::bytes_text(static_cast<std::int64_t>(bytes.size())));
    file.bring_in(piece);
    digest.update(piece.data(), piece.size());
  }
  file.require_unchanged();
  return digest.finish();
}

struct Shard {
  weights::MappedFile file;
  std::array<Tokens, 2> tokens;
};

Shard open_shard(const fs::path& path, const ShardRecord& record, const Header& header, bool verify,
                 const std::function<void(const std::string&)>& note, std::array<std::uint64_t, 2>& documents) {
  Shard shard{weights::MappedFile(path), {}};
  const std::uint64_t bytes = shard.file.bytes().size();
  if (bytes != record.bytes)
    throw core::Error(path.string() + ": has " + std::to_string(bytes) + " bytes, not " + std::to_string(record.bytes) +
                      " as its master says: it was cut, or is of other text; make the tokens again");
  if (verify) {
    const std::string found = digest_of(shard.file, note);
    if (found != record.sha256)
      throw core::Error(path.string() + ": has SHA-256 " + found + ", not " + record.sha256 +
                        " as its master says: it is damaged or of other text; make the tokens again");
  }
  const hdf5::Reader reader(path);
  if (read_header(reader, path) != header)
    throw core::Error(path.string() + ": is of another tokenizer than its master; make the tokens again");
  for (const Side side : kSides) {
    const std::string name = group(side) + "/tokens";
    const hdf5::DatasetInfo info = reader.info(name);
    if (info.element == Element::uint64) throw core::Error(path.string() + ": " + name + " has 64 bits a token");
    if (info.elements != record.tokens[index(side)])
      throw core::Error(path.string() + ": " + name + " has " + std::to_string(info.elements) + " tokens, not " +
                        std::to_string(record.tokens[index(side)]) + " as its master says; make the tokens again");
    shard.tokens[index(side)] = {bytes_of(shard.file, name, info), info.element, info.elements};
    const std::string offsets = group(side) + "/document_offsets";
    const std::uint64_t count = reader.info(offsets).elements;
    if (count == 0) throw core::Error(path.string() + ": " + offsets + " is empty; make the tokens again");
    documents[index(side)] += count - 1;
  }
  // Windows are read here and there: reading ahead would load much that is not used. What it gives away, will_read
  // gets.
  if (bytes > 0) ::madvise(const_cast<std::byte*>(shard.file.bytes().data()), bytes, MADV_RANDOM);
  return shard;
}

/// Gives the tokens and their greatest.
template <class T>
std::int32_t copy_tokens(const std::byte* from, std::span<std::int32_t> to) {
  const T* const tokens = reinterpret_cast<const T*>(from);
  T greatest = 0;
  for (std::size_t i = 0; i < to.size(); ++i) {
    to[i] = static_cast<std::int32_t>(tokens[i]);
    greatest = std::max(greatest, tokens[i]);
  }
  return static_cast<std::int32_t>(std::min<std::uint32_t>(greatest, std::numeric_limits<std::int32_t>::max()));
}

}  // namespace

struct TokenFile::State {
  fs::path path;
  Header header;
  std::string tokenizer;
  std::string sha256;
  weights::MappedFile master;
  std::vector<Shard> shards;
  std::array<std::vector<std::uint64_t>, 2> begins;  ///< of each shard in the stream, and the end
  std::array<std::span<const std::uint64_t>, 2> offsets;

  explicit State(const fs::path& file) : path(file), master(file) {}

  void check_offsets(Side side, const hdf5::Reader& reader, std::uint64_t shard_documents);

  /// Calls `visit` with each shard that has some of the tokens: shard, first token in it, how many.
  template <class Visit>
  void for_each_part(Side side, std::uint64_t begin, std::uint64_t count, const Visit& visit) const {
    const std::vector<std::uint64_t>& starts = begins[index(side)];
    auto next = std::upper_bound(starts.begin(), starts.end(), begin);
    for (const std::uint64_t end = begin + count; begin < end; ++next) {
      const std::uint64_t part = std::min(*next, end) - begin;
      const auto shard = static_cast<std::size_t>(next - starts.begin()) - 1;
      if (part > 0) visit(shards[shard], begin - starts[shard], part);
      begin += part;
    }
  }

  void fail_token(const Shard& shard, Side side, std::uint64_t begin, std::span<const std::int32_t> tokens) const;
};

/// Maps the master's offsets, which are data of its own, and checks that they fit the shards.
void TokenFile::State::check_offsets(Side side, const hdf5::Reader& reader, std::uint64_t shard_documents) {
  const std::string name = group(side) + "/document_offsets";
  const auto fail = [&](const std::string& what) {
    throw core::Error(path.string() + ": " + name + " " + what + "; make the tokens again");
  };
  const hdf5::DatasetInfo info = reader.info(name);
  if (info.element != Element::uint64) fail("has not 64 bits an offset");
  if (info.elements == 0 || info.elements - 1 != shard_documents)
    fail("has " + std::to_string(info.elements) + " offsets, but the shards have " + std::to_string(shard_documents) +
         " documents");
  const std::byte* const data = bytes_of(master, name, info);
  master.bring_in({data, info.elements * sizeof(std::uint64_t)});
  const std::span<const std::uint64_t> values(reinterpret_cast<const std::uint64_t*>(data), info.elements);
  if (values.front() != 0) fail("does not begin with 0");
  for (std::size_t i = 1; i < values.size(); ++i) {
    if (values[i] <= values[i - 1]) fail("does not grow at document " + std::to_string(i - 1));
  }
  const std::vector<std::uint64_t>& starts = begins[index(side)];
  if (values.back() != starts.back())
    fail("ends with " + std::to_string(values.back()) + ", but the shards have " + std::to_string(starts.back()) +
         " tokens");
  for (std::size_t i = 0; i < shards.size(); ++i) {
    if (!std::binary_search(values.begin(), values.end(), starts[i]))
      fail("lets a document cross from one shard into " + shards[i].file.path().filename().string());
  }
  offsets[index(side)] = values;
}

void TokenFile::State::fail_token(const Shard& shard, Side side, std::uint64_t begin,
                                  std::span<const std::int32_t> tokens) const {
  const auto limit = static_cast<std::uint32_t>(header.vocabulary_size);
  const auto bad = std::find_if(tokens.begin(), tokens.end(),
                                [&](std::int32_t token) { return static_cast<std::uint32_t>(token) >= limit; });
  throw core::Error(shard.file.path().string() + ": element " +
                    std::to_string(begin + static_cast<std::uint64_t>(bad - tokens.begin())) + " of " + group(side) +
                    "/tokens is " + std::to_string(static_cast<std::uint32_t>(*bad)) + ", but the vocabulary has " +
                    std::to_string(limit) + " tokens: the file is damaged; make the tokens again");
}

TokenFile::TokenFile(const fs::path& master, const std::string& sha256, bool verify,
                     const std::function<void(const std::string&)>& note)
    : state_(std::make_unique<State>(master)) {
  // Before HDF5 reads it, which trusts what it reads.
  state_->sha256 = digest_of(state_->master, note);
  if (!sha256.empty() && state_->sha256 != sha256)
    throw core::Error(master.string() + ": has SHA-256 " + state_->sha256 + ", not " + sha256 +
                      " as was planned: it is damaged or was made again; plan again");
  const hdf5::Reader reader(master);
  state_->header = read_header(reader, master);
  Provenance provenance = parse_provenance(reader.text("/provenance"), master);
  state_->tokenizer = std::move(provenance.tokenizer);
  std::array<std::uint64_t, 2> documents{};
  for (std::vector<std::uint64_t>& begins : state_->begins) begins = {0};
  for (const ShardRecord& record : provenance.shards) {
    state_->shards.push_back(
        open_shard(master.parent_path() / record.file, record, state_->header, verify, note, documents));
    // Each is at most the length of a file that exists, so no sum overflows.
    for (const Side side : kSides) {
      std::vector<std::uint64_t>& begins = state_->begins[index(side)];
      begins.push_back(begins.back() + record.tokens[index(side)]);
    }
  }
  for (const Side side : kSides) state_->check_offsets(side, reader, documents[index(side)]);
}

TokenFile::~TokenFile() = default;

const fs::path& TokenFile::path() const {
  return state_->path;
}

std::uint32_t TokenFile::vocabulary_size() const {
  return static_cast<std::uint32_t>(state_->header.vocabulary_size);
}

std::optional<std::uint32_t> TokenFile::end_of_document() const {
  if (!state_->header.end_of_document) return std::nullopt;
  return static_cast<std::uint32_t>(*state_->header.end_of_document);
}

const std::string& TokenFile::tokenizer() const {
  return state_->tokenizer;
}

const std::string& TokenFile::sha256() const {
  return state_->sha256;
}

std::uint64_t TokenFile::tokens(Side side) const {
  return state_->begins[index(side)].back();
}

std::uint64_t TokenFile::documents(Side side) const {
  return state_->offsets[index(side)].size() - 1;
}

std::span<const std::uint64_t> TokenFile::document_offsets(Side side) const {
  return state_->offsets[index(side)];
}

void TokenFile::read(Side side, std::uint64_t begin, std::span<std::int32_t> out) const {
  core::require(begin <= tokens(side) && out.size() <= tokens(side) - begin, "TokenFile::read",
                "beyond the end of the tokens");
  const auto part = [&](const Shard& shard, std::uint64_t at, std::uint64_t count) {
    const Tokens& tokens = shard.tokens[index(side)];
    const std::size_t size = hdf5::size_of(tokens.element);
    const std::byte* const from = tokens.data + at * size;
    const std::span<std::int32_t> to = out.first(count);
    shard.file.bring_in({from, count * size});
    const std::int32_t greatest =
        tokens.element == Element::uint16 ? copy_tokens<std::uint16_t>(from, to) : copy_tokens<std::uint32_t>(from, to);
    // After the copy: the end of a file that was cut reads as zeros up to the end of the page.
    shard.file.require_unchanged();
    if (static_cast<std::uint64_t>(greatest) >= state_->header.vocabulary_size) state_->fail_token(shard, side, at, to);
    out = out.subspan(count);
  };
  state_->for_each_part(side, begin, out.size(), part);
}

void TokenFile::will_read(Side side, std::uint64_t begin, std::uint64_t count) const {
  static const auto kPage = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  state_->for_each_part(side, begin, count, [&](const Shard& shard, std::uint64_t at, std::uint64_t part) {
    const Tokens& tokens = shard.tokens[index(side)];
    const std::size_t size = hdf5::size_of(tokens.element);
    const auto from = reinterpret_cast<std::uintptr_t>(tokens.data + at * size);
    const std::uintptr_t page = from / kPage * kPage;
    // Advice: where it is not taken, reading waits instead.
    ::madvise(reinterpret_cast<void*>(page), from + part * size - page, MADV_WILLNEED);
  });
}

}  // namespace braise::data
