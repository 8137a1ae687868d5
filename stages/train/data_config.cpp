// SPDX-License-Identifier: Apache-2.0
#include "stages/train/data_config.h"

#include <algorithm>

#include "kernels/core/error.h"
#include "stages/api/input_path.h"
#include "stages/shared/io/digest.h"

namespace braise::train {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

data::Cutting cutting_of(const std::string& name) {
  return name == "windows"     ? data::Cutting::kWindows
         : name == "documents" ? data::Cutting::kDocuments
                               : data::Cutting::kRandom;
}

data::ExampleSource examples_of(const json& config, const stages::JobSpec& job) {
  data::ExampleSource source;
  // The other inputs of such a job are the files of the model, and of the state that it goes on from.
  const fs::path others[] = {stages::input_path(job.config.at("model").at("from").get<std::string>()),
                             stages::input_path(job.config.at("continue_from").get<std::string>())};
  for (const stages::InputFile& input : job.inputs) {
    const bool other = std::any_of(std::begin(others), std::end(others), [&](const fs::path& path) {
      return fs::path(input.path).parent_path() == path || input.path == path;
    });
    if (!other) source.files.emplace_back(input.path);
  }
  const json& files = config.at("files");
  for (const json& file : files.is_array() ? files : json::array({files})) {
    // What another stage of the run left was known only when the job was bound.
    const fs::path path = stages::input_path(file.get<std::string>());
    const bool listed =
        std::any_of(source.files.begin(), source.files.end(), [&](const fs::path& known) { return known == path; });
    if (!listed && fs::exists(path)) source.files.push_back(path);
  }
  source.prompt_key = config.at("prompt");
  source.completion_key = config.at("completion");
  source.pack = config.at("pack");
  source.too_long =
      config.at("too_long") == "cut" ? data::ExampleSource::TooLong::kCut : data::ExampleSource::TooLong::kSkip;
  source.validation = config.at("validation");
  return source;
}

}  // namespace

DataConfig data_config(const stages::JobSpec& job) {
  const json& config = job.config.at("data");
  DataConfig result;
  result.settings.seed = static_cast<std::uint64_t>(job.seed);
  result.settings.sequence = config.at("sequence");
  result.settings.cutting = cutting_of(config.at("cut"));
  result.settings.document_mask = config.at("document_mask");
  result.prefetch = config.at("prefetch");
  if (!config.at("examples").at("files").empty()) {
    result.sources.push_back({examples_of(config.at("examples"), job), 1});
    result.tokenizer = config.at("examples").at("tokenizer");
    return result;
  }
  const json& tokens = config.at("tokens");
  for (const json& entry : tokens.is_array() ? tokens : json::array({tokens})) {
    data::TokenSource source{stages::input_path(entry.is_object() ? entry.at("path") : entry)};
    for (const stages::InputFile& input : job.inputs) {
      if (input.path == source.master) source.sha256 = input.sha256;
    }
    result.sources.push_back({std::move(source), entry.is_object() ? entry.at("weight").get<double>() : 1});
  }
  return result;
}

void verify_inputs(const stages::JobSpec& job) {
  for (const stages::InputFile& input : job.inputs) {
    const io::FileDigest digest = io::digest_file(input.path);
    if (digest.bytes == input.bytes && digest.sha256 == input.sha256) continue;
    throw core::Error(input.path + " has changed since the run was planned (then " + std::to_string(input.bytes) +
                      " bytes, SHA-256 " + input.sha256 + "; now " + std::to_string(digest.bytes) + " bytes, " +
                      digest.sha256 + "); put the old file back, or run the recipe again");
  }
}

}  // namespace braise::train
