// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/weights/json_reader.h"

#include "stages/shared/weights/text.h"

namespace braise::weights {

void JsonReader::run(std::string_view text) {
  nlohmann::json::sax_parse(text.begin(), text.end(), this);
}

bool JsonReader::number_float(number_float_t, const string_t& text) {
  unexpected(text.substr(0, 40));
}

bool JsonReader::string(string_t& value) {
  unexpected(in_quotes(value));
}

bool JsonReader::key(string_t& value) {
  unexpected("the key " + in_quotes(value));
}

bool JsonReader::parse_error(std::size_t position, const std::string&, const nlohmann::json::exception& error) {
  std::string_view reason = error.what();
  // nlohmann's own number, and the line and column, which mean little in text that has one line.
  for (const std::string_view before : {"] ", ": "}) {
    if (const auto at = reason.find(before); at != std::string_view::npos) reason.remove_prefix(at + before.size());
  }
  fail("not JSON at byte " + std::to_string(position) + ": " + in_quotes(reason));
}

void JsonReader::unexpected(const std::string& found) const {
  fail(found + " stands where there should be " + expected());
}

void JsonReader::fail(const std::string& problem) const {
  throw core::Error(path_.string() + ": " + what_ + ": " + problem);
}

}  // namespace braise::weights
