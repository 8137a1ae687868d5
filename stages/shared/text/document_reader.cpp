// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/text/document_reader.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "kernels/core/error.h"

namespace braise::text {
namespace {

bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n\v\f") == std::string_view::npos;
}

bool holds_json_lines(const std::filesystem::path& path, DocumentFormat::Kind kind) {
  if (kind != DocumentFormat::Kind::automatic) return kind == DocumentFormat::Kind::json_lines;
  const std::string name = uncompressed_name(path.filename().string());
  return name.ends_with(".jsonl") || name.ends_with(".ndjson");
}

}  // namespace

DocumentReader::DocumentReader(std::filesystem::path path, const DocumentFormat& format, SourceOptions options)
    : path_(std::move(path)),
      json_lines_(holds_json_lines(path_, format.kind)),
      unit_(format.unit),
      text_key_(format.text_key),
      source_(open_text(path_, std::move(options))) {}

void DocumentReader::seek(Position position) {
  source_->seek(position.offset);
  position_ = position;
}

bool DocumentReader::next(std::string& document) {
  document.clear();
  if (json_lines_) {
    while (next_line(document)) {
      extract_text(document);
      if (!is_blank(document)) return true;
    }
    return false;
  }
  switch (unit_) {
    case DocumentUnit::line:
      return next_line(document);
    case DocumentUnit::paragraph:
      if (!next_line(document)) return false;
      for (std::size_t begin = document.size(); append_line(document); begin = document.size()) {
        if (is_blank(std::string_view(document).substr(begin))) break;
      }
      return true;
    case DocumentUnit::file:
      while (append_line(document)) {
      }
      return !is_blank(document);
  }
  return false;
}

/// Appends the rest of the current line, its newline included; false where there is nothing left.
bool DocumentReader::append_line(std::string& text) {
  const std::uint64_t begin = position_.offset;
  for (;;) {
    if (piece_.empty()) piece_ = source_->next();
    if (piece_.empty()) break;
    const std::size_t newline = piece_.find('\n');
    const bool ended = newline != std::string_view::npos;
    const std::size_t length = ended ? newline + 1 : piece_.size();
    text.append(piece_.substr(0, length));
    piece_.remove_prefix(length);
    position_.offset += length;
    if (ended) break;
  }
  if (position_.offset == begin) return false;
  ++position_.line;
  return true;
}

/// The next line that is not blank.
bool DocumentReader::next_line(std::string& line) {
  do {
    line.clear();
    if (!append_line(line)) return false;
  } while (is_blank(line));
  return true;
}

/// Puts in place of a JSON line the text it holds.
void DocumentReader::extract_text(std::string& line) {
  const auto fail = [this](const std::string& what) {
    throw core::Error(path_.string() + ":" + std::to_string(position_.line) + ": " + what);
  };
  const std::string key = "\"" + text_key_ + "\"";
  nlohmann::json object;
  try {
    object = nlohmann::json::parse(line);
  } catch (const nlohmann::json::parse_error& error) {
    fail("is not a line of JSON (at byte " + std::to_string(error.byte) + " of the line), so it has no " + key);
  }
  if (!object.is_object()) fail(std::string("is ") + object.type_name() + ", not a JSON object with the key " + key);
  const auto found = object.find(text_key_);
  if (found == object.end()) fail("has no key " + key);
  if (!found->is_string()) fail("the value of " + key + " is " + found->type_name() + ", not a string");
  line = std::move(found->get_ref<std::string&>());
}

}  // namespace braise::text
