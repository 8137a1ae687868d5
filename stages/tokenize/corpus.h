// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "stages/api/job.h"
#include "stages/shared/text/document_reader.h"

namespace braise::tokenize {

using Deadline = std::chrono::steady_clock::time_point;

/// Notes what a rank is doing: for the heartbeat.
using Note = std::function<void(const std::string&)>;

/// Lengths of documents in sequence, in a byte or two each.
class LengthList {
 public:
  LengthList() = default;
  LengthList(std::string packed, std::uint64_t count) : packed_(std::move(packed)), count_(count) {}

  void push_back(std::uint64_t length);
  std::uint64_t size() const { return count_; }
  const std::string& packed() const { return packed_; }
  void for_each(const std::function<void(std::uint64_t)>& visit) const;

 private:
  std::string packed_;  ///< seven bits a byte, lowest first, the top bit set in all but the last
  std::uint64_t count_ = 0;
};

/// A place in a file from which reading can go on, noted every so often.
struct Landmark {
  std::uint64_t document = 0;  ///< index in the file of the document that follows
  text::DocumentReader::Position position;
};

/// What scanning one file has found.
struct FileScan {
  text::FileIdentity identity;
  std::string sha256;
  std::uint64_t documents = 0;
  std::uint64_t text_bytes = 0;
  LengthList lengths;
  std::vector<Landmark> landmarks;  ///< only of files that can be sought in

  std::string to_bytes() const;
  static FileScan from_bytes(const std::string& bytes);
};

/// Reads one file through: counts and measures its documents and digests it.
class Scanner {
 public:
  /// With `expected.sha256` not empty, a file of another digest is an error that names the file and both digests.
  Scanner(const stages::InputFile& expected, const text::DocumentFormat& format, const Note& note);

  /// Goes on until the deadline at the earliest; true once the file is through.
  bool advance(Deadline deadline);

  const FileScan& result() const { return scan_; }
  std::uint64_t bytes_read() const { return *bytes_read_; }

 private:
  stages::InputFile expected_;
  std::shared_ptr<std::uint64_t> bytes_read_;
  text::DocumentReader reader_;
  FileScan scan_;
  std::string document_;
};

/// Which rank scans which file: the largest files first, each to the rank that has least. The same on every rank.
std::vector<int> deal_files(const std::vector<std::uint64_t>& bytes, int ranks);

/// The scanned files as one sequence of documents.
class CorpusReader {
 public:
  CorpusReader(const std::vector<stages::InputFile>& files, const std::vector<FileScan>& scans,
               const text::DocumentFormat& format, Note note);

  /// Makes `document` (an index in the whole corpus, one that exists) the next.
  void seek(std::uint64_t document);

  /// The next document. Errors: core::Error where a file is no longer what was scanned.
  void next(std::string& document);

  /// Checks that the file being read has not been touched since it was scanned; next() does so when it leaves a file.
  void verify() const;

 private:
  void open(std::size_t file, std::uint64_t document);

  const std::vector<stages::InputFile>& files_;
  const std::vector<FileScan>& scans_;
  const text::DocumentFormat& format_;
  Note note_;
  std::unique_ptr<text::DocumentReader> reader_;
  std::size_t file_ = 0;        ///< the one that is open
  std::uint64_t document_ = 0;  ///< index in that file of the next document
  std::string skipped_;
};

}  // namespace braise::tokenize
