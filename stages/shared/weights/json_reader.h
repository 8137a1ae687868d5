// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "kernels/core/error.h"

namespace braise::weights {

/// The events of a JSON text that an untrusted file holds. A member that is not overridden refuses what it stands for,
/// so that a reader takes nothing it does not expect, and no nesting deeper than it follows. Members throw core::Error
/// "<path>: ...".
class JsonReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  /// `what` names the text in messages: "header".
  JsonReader(const std::filesystem::path& path, std::string what) : path_(path), what_(std::move(what)) {}

  /// Reads all of `text`.
  void run(std::string_view text);

  bool null() override { unexpected("null"); }
  bool boolean(bool value) override { unexpected(value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override { unexpected(std::to_string(value)); }
  bool number_unsigned(number_unsigned_t value) override { unexpected(std::to_string(value)); }
  bool number_float(number_float_t, const string_t& text) override;
  bool string(string_t& value) override;
  bool binary(binary_t&) override { unexpected("binary data"); }
  bool start_object(std::size_t) override { unexpected("an object"); }
  bool key(string_t& value) override;
  bool end_object() override { return true; }
  bool start_array(std::size_t) override { unexpected("a list"); }
  bool end_array() override { return true; }
  bool parse_error(std::size_t position, const std::string& token, const nlohmann::json::exception& error) override;

 protected:
  /// What should have stood there: "an object of tensors".
  virtual std::string expected() const = 0;

  [[noreturn]] void unexpected(const std::string& found) const;
  [[noreturn]] void fail(const std::string& problem) const;

 private:
  const std::filesystem::path& path_;
  std::string what_;
};

}  // namespace braise::weights
