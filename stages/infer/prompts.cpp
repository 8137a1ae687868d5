// SPDX-License-Identifier: Apache-2.0
#include "stages/infer/prompts.h"

#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "stages/api/input_path.h"
#include "stages/shared/text/document_reader.h"
#include "stages/shared/weights/text.h"

namespace braise::infer {
namespace {

text::DocumentFormat::Kind kind_named(const std::string& word) {
  using Kind = text::DocumentFormat::Kind;
  if (word == "auto") return Kind::automatic;
  if (word == "lines") return Kind::text;
  if (word == "jsonl") return Kind::json_lines;
  throw core::Error("there is no `format` '" + word + "' in this build");
}

void read_file(const nlohmann::json& source, std::vector<std::string>& prompts,
               const std::function<void(const std::string&)>& note) {
  const std::string path = stages::input_path(source.at("path"));
  note("read the prompts of " + path);
  text::DocumentFormat format;
  format.kind = kind_named(source.at("format"));
  format.unit = text::DocumentUnit::line;
  format.text_key = source.at("text_key");
  text::DocumentReader reader(path, format, {});
  const std::size_t before = prompts.size();
  for (std::string prompt; reader.next(prompt);) {
    if (!reader.reads_json_lines()) {
      if (prompt.ends_with('\n')) prompt.pop_back();
      if (prompt.ends_with('\r')) prompt.pop_back();
    }
    if (!weights::is_utf8(prompt)) {
      throw core::Error(path + ":" + std::to_string(reader.position().line) +
                        ": the prompt is not UTF-8; convert the file to UTF-8");
    }
    prompts.push_back(prompt);
  }
  if (prompts.size() == before) throw core::Error("there is no prompt in " + path);
}

}  // namespace

std::vector<std::string> read_prompts(const nlohmann::json& prompts,
                                      const std::function<void(const std::string&)>& note) {
  std::vector<std::string> texts;
  for (const nlohmann::json& source : prompts) {
    if (source.is_string()) {
      texts.push_back(source);
    } else {
      read_file(source, texts, note);
    }
  }
  return texts;
}

}  // namespace braise::infer
