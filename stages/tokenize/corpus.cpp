// SPDX-License-Identifier: Apache-2.0
#include "stages/tokenize/corpus.h"

#include <algorithm>
#include <cassert>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>

#include "kernels/core/error.h"

namespace braise::tokenize {
namespace {

// A rank that starts in the middle of a file reads at most this much in vain.
constexpr std::uint64_t kLandmarkBytes = std::uint64_t{1} << 20;

std::string name_of(const std::string& path) {
  return std::filesystem::path(path).filename().string();
}

/// Notes progress once in 16 MiB, so that the note changes while a long file is read and costs nothing.
text::SourceOptions source_options(const std::string& what, const Note& note, bool digest,
                                   std::shared_ptr<std::uint64_t> bytes_read) {
  note(what);
  return {digest,
          [what, note, bytes_read = std::move(bytes_read), noted = std::uint64_t{0}](std::uint64_t bytes) mutable {
            if (bytes_read) *bytes_read = bytes;
            if (bytes - std::min(bytes, noted) < (std::uint64_t{1} << 24)) return;
            noted = bytes;
            note(what + " at byte " + std::to_string(bytes));
          }};
}

}  // namespace

void LengthList::push_back(std::uint64_t length) {
  ++count_;
  for (; length >= 0x80; length >>= 7) packed_ += static_cast<char>(0x80 | (length & 0x7F));
  packed_ += static_cast<char>(length);
}

void LengthList::for_each(const std::function<void(std::uint64_t)>& visit) const {
  std::uint64_t length = 0;
  int shift = 0;
  for (const char c : packed_) {
    const auto byte = static_cast<unsigned char>(c);
    length |= std::uint64_t{byte & 0x7Fu} << shift;
    shift += 7;
    if (byte < 0x80) {
      visit(length);
      length = 0;
      shift = 0;
    }
  }
}

std::string FileScan::to_bytes() const {
  nlohmann::json places = nlohmann::json::array();
  for (const Landmark& l : landmarks) places.push_back({l.document, l.position.offset, l.position.line});
  const nlohmann::json json = {{"bytes", identity.bytes},  {"modified", identity.modified_ns}, {"sha256", sha256},
                               {"documents", documents},   {"text_bytes", text_bytes},         {"landmarks", places},
                               {"lengths", lengths.size()}};
  return json.dump() + "\n" + lengths.packed();
}

FileScan FileScan::from_bytes(const std::string& bytes) {
  const std::size_t newline = bytes.find('\n');
  const nlohmann::json json = nlohmann::json::parse(bytes.substr(0, newline));
  FileScan scan;
  scan.identity = {json.at("bytes"), json.at("modified")};
  scan.sha256 = json.at("sha256");
  scan.documents = json.at("documents");
  scan.text_bytes = json.at("text_bytes");
  for (const nlohmann::json& place : json.at("landmarks")) scan.landmarks.push_back({place[0], {place[1], place[2]}});
  scan.lengths = LengthList(bytes.substr(newline + 1), json.at("lengths"));
  return scan;
}

Scanner::Scanner(const stages::InputFile& expected, const text::DocumentFormat& format, const Note& note)
    : expected_(expected),
      bytes_read_(std::make_shared<std::uint64_t>(0)),
      reader_(expected.path, format, source_options("scan " + name_of(expected.path), note, true, bytes_read_)) {
  scan_.identity = reader_.identity();
}

bool Scanner::advance(Deadline deadline) {
  do {
    const text::DocumentReader::Position before = reader_.position();
    if (reader_.can_seek() &&
        (scan_.landmarks.empty() || before.offset >= scan_.landmarks.back().position.offset + kLandmarkBytes)) {
      scan_.landmarks.push_back({scan_.documents, before});
    }
    if (!reader_.next(document_)) {
      scan_.sha256 = reader_.sha256();
      if (!expected_.sha256.empty() && scan_.sha256 != expected_.sha256) {
        throw core::Error(expected_.path + " has changed since the job was planned: its sha256 is " + scan_.sha256 +
                          ", not " + expected_.sha256 + "; plan the run again, or put the old file back");
      }
      return true;
    }
    ++scan_.documents;
    scan_.text_bytes += document_.size();
    scan_.lengths.push_back(document_.size());
  } while (std::chrono::steady_clock::now() < deadline);
  return false;
}

std::vector<int> deal_files(const std::vector<std::uint64_t>& bytes, int ranks) {
  std::vector<std::size_t> order(bytes.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return bytes[a] > bytes[b]; });
  std::vector<std::uint64_t> load(static_cast<std::size_t>(ranks), 0);
  std::vector<int> owner(bytes.size());
  for (const std::size_t file : order) {
    const auto least = std::min_element(load.begin(), load.end());
    owner[file] = static_cast<int>(least - load.begin());
    *least += bytes[file] + 1;  // the 1 spreads empty files too
  }
  return owner;
}

CorpusReader::CorpusReader(const std::vector<stages::InputFile>& files, const std::vector<FileScan>& scans,
                           const text::DocumentFormat& format, Note note)
    : files_(files), scans_(scans), format_(format), note_(std::move(note)) {}

void CorpusReader::seek(std::uint64_t document) {
  std::size_t file = 0;
  while (document >= scans_[file].documents) document -= scans_[file++].documents;
  const auto& landmarks = scans_[file].landmarks;
  const auto after = std::upper_bound(landmarks.begin(), landmarks.end(), document,
                                      [](std::uint64_t wanted, const Landmark& l) { return wanted < l.document; });
  const std::uint64_t reachable = after == landmarks.begin() ? 0 : std::prev(after)->document;
  const bool ahead_here = reader_ && file == file_ && document >= document_ && reachable <= document_;
  if (!ahead_here) open(file, document);
  while (document_ < document) next(skipped_);
}

/// Opens a file at the last place before a document from which it can be read.
void CorpusReader::open(std::size_t file, std::uint64_t document) {
  const FileScan& scan = scans_[file];
  file_ = file;
  document_ = 0;
  reader_ = std::make_unique<text::DocumentReader>(
      files_[file].path, format_, source_options("read " + name_of(files_[file].path), note_, false, nullptr));
  const auto after = std::upper_bound(scan.landmarks.begin(), scan.landmarks.end(), document,
                                      [](std::uint64_t wanted, const Landmark& l) { return wanted < l.document; });
  if (after != scan.landmarks.begin()) {
    reader_->seek(std::prev(after)->position);
    document_ = std::prev(after)->document;
  }
}

void CorpusReader::next(std::string& document) {
  if (!reader_) open(0, 0);
  while (document_ == scans_[file_].documents) {
    verify();
    assert(file_ + 1 < scans_.size());
    open(file_ + 1, 0);
  }
  if (!reader_->next(document)) throw core::Error(files_[file_].path + " has become shorter while it was read");
  ++document_;
}

void CorpusReader::verify() const {
  if (reader_ && reader_->identity() != scans_[file_].identity)
    throw core::Error(files_[file_].path + " was changed while it was read");
}

}  // namespace braise::tokenize
