// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "stages/shared/text/text_source.h"

namespace braise::text {

/// What one document of a text file is.
enum class DocumentUnit {
  file,
  paragraph,  ///< up to and with a blank line
  line        ///< with its newline
};

/// How files are cut into documents.
struct DocumentFormat {
  enum class Kind { automatic, text, json_lines };
  Kind kind = Kind::automatic;  ///< automatic: by the name, .jsonl and .ndjson are JSON lines
  DocumentUnit unit = DocumentUnit::file;
  std::string text_key;  ///< of a JSON line
};

/// The documents of one file in order. Documents of nothing but white space are left out, as are blank lines between
/// JSON lines. Text is taken as it is, byte for byte; a JSON line must be UTF-8, as JSON says. Errors: core::Error with
/// "file:line: ..." for a line that is not a JSON object with a text under the key; those of TextSource.
class DocumentReader {
 public:
  /// A place between two documents, from which reading can go on in a file that is not compressed.
  struct Position {
    std::uint64_t offset = 0;
    std::uint64_t line = 0;  ///< lines before it
  };

  DocumentReader(std::filesystem::path path, const DocumentFormat& format, SourceOptions options);

  /// Gives the next document; false at the end.
  bool next(std::string& document);

  bool reads_json_lines() const { return json_lines_; }
  Position position() const { return position_; }  ///< before the next document
  bool can_seek() const { return source_->can_seek(); }
  void seek(Position position);  ///< see TextSource::seek

  std::string sha256() { return source_->sha256(); }
  FileIdentity identity() const { return source_->identity(); }

 private:
  bool append_line(std::string& text);
  bool next_line(std::string& line);
  void extract_text(std::string& line);

  std::filesystem::path path_;
  bool json_lines_;
  DocumentUnit unit_;
  std::string text_key_;
  std::unique_ptr<TextSource> source_;
  std::string_view piece_;  ///< of the source, not yet taken
  Position position_;
};

}  // namespace braise::text
