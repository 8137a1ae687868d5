// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "stages/api/descriptor.h"
#include "stages/api/input_path.h"
#include "stages/infer/settings.h"
#include "stages/shared/model/generation_memory.h"
#include "stages/shared/model/model_at.h"
#include "stages/shared/text/tokenizer.h"

namespace braise::infer {
namespace {

using nlohmann::json;

// Texts, tokens and buffers of files.
constexpr std::uint64_t kBufferBytes = std::uint64_t{16} << 20;

/// The model's configuration; nothing where it is not known yet, where nothing is there, or where `problems` say why
/// there can be none.
std::optional<model::Config> known_model(const json& config, const stages::KnownModels& models,
                                         std::vector<std::string>& problems) {
  const std::string path = config.at("model");
  if (stages::is_of_this_run(path)) {
    const auto found = models.find(path);
    return found == models.end() ? std::nullopt : model::read_hugging_face(found->second, problems);
  }
  const std::filesystem::path place = stages::input_path(path);
  return std::filesystem::exists(place) ? model::config_at(place, problems) : std::nullopt;
}

/// Better told now than by a job that has waited for its turn: of models elsewhere only a checkpoint says its
/// tokenizer.
void check_tokenizer(const stages::RuleContext& context, const model::Config& model) {
  const std::string path = context.config.at("model");
  const json& tokenizer = context.config.at("tokenizer");
  constexpr const char* kRemedy = "give the tokenizer that the model was trained with";
  if (tokenizer.at("kind") == "model") {
    if (model::is_checkpoint(stages::input_path(path))) return;
    context.fault("/tokenizer", "is left to the model, and " + path + " does not say it", kRemedy);
  } else if (const std::int64_t tokens = text::make_tokenizer(tokenizer)->vocabulary_size();
             tokens != model.vocabulary) {
    context.fault(
        "/tokenizer",
        "has " + std::to_string(tokens) + " tokens, and the model " + path + " has " + std::to_string(model.vocabulary),
        kRemedy);
  }
}

void check(const stages::RuleContext& context) {
  const json& config = context.config;
  if (config.at("sampling").at("temperature") == 0 && config.at("samples") > 1) {
    context.fault("/samples", "is " + config.at("samples").dump() + ", but at temperature 0 all are the same",
                  "must be 1, or sampling.temperature above 0");
  }
  const auto check_path = [&](const std::string& pointer, const std::string& path, const char* remedy) {
    if (stages::is_of_this_run(path) || !stages::is_pattern(path)) return;
    context.fault(pointer, "is a pattern of names", std::string(remedy) + "; escape a special character as \"[*]\"");
  };
  check_path("/model", config.at("model"), "name one folder");
  std::vector<std::string> problems;
  const std::optional<model::Config> model = known_model(config, context.models, problems);
  if (model && !stages::is_of_this_run(config.at("model").get<std::string>())) check_tokenizer(context, *model);
  for (const std::string& problem : problems) context.fault("/model", problem, "");
  const json& prompts = config.at("prompts");
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    if (!prompts[i].is_object()) continue;
    check_path("/prompts/" + std::to_string(i) + "/path", prompts[i].at("path"),
               "name one file, and give each an entry of its own");
  }
}

std::vector<stages::InputPattern> inputs(const json& config) {
  std::vector<stages::InputPattern> patterns;
  const std::string model = config.at("model");
  if (!stages::is_of_this_run(model)) {
    const bool is_file = model.ends_with(".gguf") || model.ends_with("/manifest.json");
    patterns.push_back({"/model", is_file ? model : model + "/*", ""});  // all files of a folder make the model
  }
  const json& prompts = config.at("prompts");
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    if (!prompts[i].is_object()) continue;
    const std::string file = prompts[i].at("path");
    if (!stages::is_of_this_run(file)) patterns.push_back({"/prompts/" + std::to_string(i) + "/path", file, ""});
  }
  return patterns;
}

stages::Estimate estimate(const json& config, const stages::Resources& resources, const std::vector<stages::InputFile>&,
                          const stages::KnownModels& models) {
  stages::Estimate result;
  result.step_unit = "completion";
  const Settings settings(settings_from(config, 0));
  bool known = true;         // whether all prompts are
  std::int64_t longest = 1;  // in bytes: there are no more tokens
  for (const json& prompt : config.at("prompts")) {
    known = known && prompt.is_string();
    if (known) longest = std::max(longest, std::ssize(prompt.get_ref<const std::string&>()));
  }
  const std::uint64_t prompts = config.at("prompts").size();
  if (known) result.steps = prompts * settings.samples;
  std::vector<std::string> problems;
  const std::optional<model::Config> model = known_model(config, models, problems);
  if (!model) return result;

  model::GenerationShape shape;
  shape.threads = resources.threads;
  shape.tier = core::tier();
  shape.sequences = settings.batch;
  shape.positions = model->positions;
  shape.pass_tokens = std::max(kPassTokens, settings.batch);
  if (known) {
    const auto ranks = static_cast<std::uint64_t>(resources.ranks());
    shape.sequences = std::min(shape.sequences, static_cast<std::int64_t>((result.steps + ranks - 1) / ranks));
    shape.positions = std::min(shape.positions, longest + settings.sampling.max_tokens - 1);
    shape.pass_tokens = std::min(shape.pass_tokens, shape.sequences * longest);
  }
  const model::GenerationMemory memory = model::generation_memory(*model, settings.compute, shape);
  result.memory_bytes_per_rank["parameters"] = static_cast<std::uint64_t>(memory.parameters);
  result.memory_bytes_per_rank["kv"] = static_cast<std::uint64_t>(memory.kv);
  result.memory_bytes_per_rank["activations"] = static_cast<std::uint64_t>(memory.activations);
  result.memory_bytes_per_rank["workspace"] = static_cast<std::uint64_t>(memory.workspace) + kBufferBytes;
  return result;
}

}  // namespace

const stages::StageDescriptor& descriptor() {
  static const stages::StageDescriptor descriptor = {
      .kind = "infer",
      .version = 1,
      .summary = "Continues prompts with a model.",
      .reusable = true,
      .devices = {"cpu"},
      .outputs = {{"generations", "artifacts/generations.jsonl",
                   "the completions, a JSON line each; see schemas/generations.schema.json"},
                  {"text", "artifacts/generations.txt", "the same to be read: prompts and what follows them", true}},
      .check = check,
      .inputs = inputs,
      .estimate = estimate,
  };
  return descriptor;
}

}  // namespace braise::infer
