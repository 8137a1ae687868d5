// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <nlohmann/json.hpp>

#include "stages/api/descriptor.h"
#include "stages/api/input_path.h"
#include "stages/shared/model/part.h"
#include "stages/shared/model/recipe.h"
#include "stages/train/fit.h"
#include "stages/train/memory.h"
#include "stages/train/parameter_rules.h"
#include "stages/train/settings.h"

namespace braise::train {
namespace {

using nlohmann::json;

// Token batches, buffers of files, HDF5's own.
constexpr std::uint64_t kBufferBytes = std::uint64_t{32} << 20;

bool is_given(const json& value) {
  return !value.empty() && value != json("");
}

void check_length(const stages::RuleContext& context) {
  int given = 0;
  for (const char* const key : {"steps", "tokens", "epochs"}) given += context.config.at(key) != 0 ? 1 : 0;
  if (given != 1) {
    context.fault("", given == 0 ? "says not how long to train" : "says more than once how long to train",
                  "give one of `steps`, `tokens` and `epochs`");
  }
  if (context.config.at("epochs") != 0 && context.config.at("data").at("cut") == "random") {
    context.fault("/epochs", "is given, but windows drawn at random make no epochs", "give `steps` or `tokens`");
  }
  const json& schedule = context.config.at("schedule");
  const std::int64_t steps = context.config.at("steps");
  if (steps > 0 && context.config.at("until") > steps) {
    context.fault("/until", "is " + context.config.at("until").dump() + " of " + std::to_string(steps) + " steps",
                  "must be at most `steps`");
  }
  if (steps > 0 && schedule.at("warmup") > steps) {
    context.fault("/schedule/warmup", "is " + schedule.at("warmup").dump() + " of " + std::to_string(steps) + " steps",
                  "must be at most `steps`");
  }
  if (schedule.at("kind") == "wsd" && steps > 0 &&
      schedule.at("warmup").get<std::int64_t>() + schedule.at("decay").get<std::int64_t>() > steps) {
    context.fault("/schedule/decay", "leaves no place for the warmup in " + std::to_string(steps) + " steps",
                  "warmup and decay together must be at most `steps`");
  }
}

void check_data(const stages::RuleContext& context) {
  const json& data = context.config.at("data");
  const bool tokens = is_given(data.at("tokens"));
  const bool examples = is_given(data.at("examples").at("files"));
  if (tokens == examples) {
    context.fault("/data", tokens ? "has both `tokens` and `examples`" : "has neither `tokens` nor `examples`",
                  "give one of them");
  }
  if (examples && data.at("examples").at("pack") == true && data.at("document_mask") == false) {
    context.fault("/data/examples/pack", "is true, but packed examples would see each other",
                  "give document_mask: true, or pack: false");
  }
  if (data.at("cut") == "random" && data.at("document_mask") == true) {
    context.fault("/data/document_mask", "does not go with windows drawn at random", "take cut: windows or documents");
  }
}

/// Tells what is wrong with the model, and gives it where it is known.
std::optional<model::Config> check_model(const stages::RuleContext& context) {
  const json& described = context.config.at("model");
  const std::string from = described.at("from");
  if (!from.empty()) {
    if (!stages::is_of_this_run(from) && stages::is_pattern(from)) {
      context.fault("/model/from", "is a pattern of names", "name one model; escape a special character as \"[*]\"");
    }
    for (const char* const key : {"layers", "hidden", "heads", "kv_heads", "head_size", "intermediate", "vocabulary"}) {
      if (described.at(key) != 0) {
        context.fault("/model/" + std::string(key), "is given besides `from`", "leave it out: the model has its own");
      }
    }
  }
  std::vector<model::RecipeProblem> problems;
  std::optional<model::Config> config = known_model(context.config, context.models, problems);
  for (const model::RecipeProblem& problem : problems) {
    context.fault(problem.key.empty() ? "/model" : "/model/" + problem.key, problem.problem, problem.remedy);
  }
  if (!config) return std::nullopt;
  const std::int64_t sequence = context.config.at("data").at("sequence");
  if (from.empty() && config->positions < sequence) {
    context.fault("/model/positions", "is " + std::to_string(config->positions) + ", less than data.sequence",
                  "must be at least " + std::to_string(sequence));
  }
  if (!from.empty() && !config->rope && config->positions < sequence) {
    context.fault("/data/sequence", "is " + std::to_string(sequence),
                  "must be at most " + std::to_string(config->positions) + ", the positions of the model " + from);
  }
  const Settings settings(context.config);
  std::vector<std::string> unused;
  const std::vector<model::ParameterSpec> specs = model::parameter_specs(*config);
  parameter_rules(specs, settings.optimizer, settings.freeze, unused);
  for (const std::string& pattern : unused) {
    const bool frozen = std::find(settings.freeze.begin(), settings.freeze.end(), pattern) != settings.freeze.end();
    context.fault(frozen ? "/freeze" : "/optimizer/groups", "the pattern \"" + pattern + "\" fits no parameter",
                  "names are those of Hugging Face, as \"" + specs.front().name + "\"");
  }
  return config;
}

/// Whether the ranks can be dealt to the axes, and the model to the ranks.
bool check_parallel(const stages::RuleContext& context, const Settings& settings,
                    const std::optional<model::Config>& model) {
  const int ranks = context.resources.ranks();
  const int parts = settings.tensor * settings.pipeline;
  const std::string widths = std::to_string(settings.tensor) + " x " + std::to_string(settings.pipeline);
  if (ranks % parts != 0) {
    context.fault("/parallel",
                  "asks for " + widths + " ranks (tensor x pipeline), which do not divide the " +
                      std::to_string(ranks) + " there are",
                  "nodes x workers_per_node must be a multiple of tensor x pipeline");
    return false;
  }
  if (settings.pipeline > 1 && settings.zero == 3) {
    context.fault("/parallel/zero",
                  "is 3 with pipeline stages, which would gather their blocks anew for every "
                  "micro-batch while others wait for them",
                  "take zero: 1; stages hold their own blocks alone");
  }
  if (settings.pipeline > 1 && settings.zero == 2 && settings.reduction == Reduction::kMicro) {
    context.fault("/parallel/zero",
                  "is 2 with pipeline stages and numerics.reduction: micro, which would exchange "
                  "gradients after every micro-batch while other stages wait",
                  "take zero: 1, or reduction: step");
  }
  if (!model) return true;
  for (const model::SplitProblem& problem : model::split_problems(*model, settings.tensor, settings.pipeline)) {
    context.fault("/parallel/" + problem.axis, problem.problem, problem.remedy);
  }
  return true;
}

/// What lies elsewhere must be there, and apart from what is needed on the device.
void check_offload(const stages::RuleContext& context, const Settings& settings) {
  const OffloadSettings& offload = settings.offload;
  if (offload.master != Home::kDevice && settings.compute == core::Dtype::kFloat32) {
    context.fault("/offload/master", "is given, but with precision.compute: fp32 there are no master weights",
                  "leave it out: the parameters are what the optimizer updates");
  }
  if (offload.optimizer != Home::kDevice && settings.optimizer.state_tensors() == 0) {
    context.fault("/offload/optimizer", "is given, but plain SGD has no state", "leave it out");
  }
  if (offload.gradients != Home::kDevice && settings.zero < 2 && settings.reduction == Reduction::kStep) {
    context.fault("/offload/gradients", "is given, but sums of all micro-batches are whole where they are made",
                  "take parallel.zero: 2 or 3, or numerics.reduction: micro");
  }
  if (offload.parameters != Home::kDevice && settings.zero != 3) {
    context.fault("/offload/parameters", "is given, but every rank computes with whole parameters",
                  "take parallel.zero: 3");
  }
  if (offload.activations != Home::kDevice && !settings.recomputes_blocks()) {
    context.fault("/offload/activations", "is given, but no block is computed again from its input",
                  "take activation_checkpointing: half or all");
  }
}

/// What would help, as a remedy.
std::string fit_text(const std::optional<stages::Fit>& fit) {
  if (!fit || !fit->fits) return "give more device memory or more workers: no layout of this training fits";
  std::string text = "this would fit:";
  for (const stages::Fit::Change& change : fit->changes) text += " " + change.key + ": " + change.value + ",";
  text.pop_back();
  return text;
}

/// What is certain not to fit is refused before it begins: what a rank keeps all the time, and its gradients.
void check_budget(const stages::RuleContext& context, const Settings& settings, const Lanes& lanes,
                  const std::optional<model::Config>& model) {
  const std::uint64_t budget = context.resources.device_memory_bytes;
  if (budget == 0 || !model) return;
  if (!model::split_problems(*model, settings.tensor, settings.pipeline).empty()) return;  // told elsewhere
  const RankMemory memory =
      most_memory(*model, settings, lanes, context.resources.ranks() / (settings.tensor * settings.pipeline),
                  context.resources.threads);
  std::int64_t bytes = 0;
  std::string parts;
  for (const core::Category category :
       {core::Category::kParameters, core::Category::kGradients, core::Category::kMaster, core::Category::kOptimizer}) {
    const std::int64_t part = memory.device[static_cast<std::size_t>(category)];
    bytes += part;
    if (part > 0)
      parts += (parts.empty() ? "" : ", ") + std::string(core::name(category)) + " " + core::bytes_text(part);
  }
  if (static_cast<std::uint64_t>(bytes) <= budget) return;
  context.fault("",
                "needs more of each worker's device memory than resources.device_memory, " +
                    core::bytes_text(static_cast<std::int64_t>(budget)) + ": " + parts,
                fit_text(fit(context.config, context.resources, context.models)));
}

void check(const stages::RuleContext& context) {
  check_length(context);
  check_data(context);
  const std::optional<model::Config> model = check_model(context);
  const Settings settings(context.config);
  std::string key, problem, remedy;
  const int parts = settings.tensor * settings.pipeline;
  std::optional<Lanes> lanes;
  if (check_parallel(context, settings, model)) {
    lanes =
        deal(settings.global, settings.micro, settings.lanes, context.resources.ranks() / parts, key, problem, remedy);
    if (!lanes) context.fault(key, problem, remedy);
  }
  check_offload(context, settings);
  if (lanes) check_budget(context, settings, *lanes, model);
  const OptimizerSettings& optimizer = settings.optimizer;
  if (optimizer.nesterov && (optimizer.algorithm != Algorithm::kSgd || optimizer.momentum == 0)) {
    context.fault("/optimizer/nesterov", "is true", "goes with `kind: sgd` and a momentum only");
  }
  if (settings.on_nan == OnNan::kRollback && settings.checkpoint_every == 0) {
    context.fault("/on_nan", "is rollback, but there are no checkpoints to go back to", "give checkpoint.every");
  }
  if (settings.keep_best && settings.validate_every == 0) {
    context.fault("/checkpoint/best", "is true, but nothing tells which is best", "give validation.every");
  }
}

std::vector<stages::InputPattern> inputs(const json& config) {
  std::vector<stages::InputPattern> patterns;
  const auto add = [&](const std::string& pointer, const std::string& path, const std::string& suffix = "") {
    if (!stages::is_of_this_run(path)) patterns.push_back({pointer, path + suffix, ""});
  };
  const auto add_all = [&](const std::string& pointer, const json& entries) {
    if (entries.is_string()) return add(pointer, entries);
    for (std::size_t i = 0; i < entries.size(); ++i) {
      const std::string here = pointer + "/" + std::to_string(i);
      entries[i].is_object() ? add(here + "/path", entries[i].at("path")) : add(here, entries[i]);
    }
  };
  add_all("/data/tokens", config.at("data").at("tokens"));
  add_all("/data/examples/files", config.at("data").at("examples").at("files"));
  const std::string from = config.at("model").at("from");
  // All files of a folder make the model.
  const bool is_file = from.ends_with(".gguf") || from.ends_with("/manifest.json");
  if (!from.empty()) add("/model/from", from, is_file ? "" : "/*");
  const std::string state = config.at("continue_from");
  if (!state.empty()) add("/continue_from", state, state.ends_with("/manifest.json") ? "" : "/*");
  return patterns;
}

stages::Estimate estimate(const json& config, const stages::Resources& resources, const std::vector<stages::InputFile>&,
                          const stages::KnownModels& models) {
  stages::Estimate result;
  const Settings settings(config);
  result.step_unit = "step";
  result.steps = static_cast<std::uint64_t>(settings.until > 0 ? settings.until : settings.total_steps());
  std::vector<model::RecipeProblem> problems;
  std::string key, problem, remedy;
  const int data_ranks = std::max(1, resources.ranks() / (settings.tensor * settings.pipeline));
  const std::optional<Lanes> lanes =
      deal(settings.global, settings.micro, settings.lanes, data_ranks, key, problem, remedy);
  const std::optional<model::Config> described = known_model(config, models, problems);
  if (!lanes || !described) return result;  // a model that is not known yet, or not there
  const RankMemory memory = most_memory(*described, settings, *lanes, data_ranks, resources.threads);
  const auto tell = [](const RankMemory::Peaks& peaks, std::map<std::string, std::uint64_t>& to) {
    for (int i = 0; i < core::kCategories; ++i) {
      const std::int64_t bytes = peaks[static_cast<std::size_t>(i)];
      if (bytes > 0) to[std::string(core::name(static_cast<core::Category>(i)))] = static_cast<std::uint64_t>(bytes);
    }
  };
  tell(memory.device, result.memory_bytes_per_rank);
  tell(memory.host, result.host_bytes_per_rank);
  result.host_bytes_per_rank["workspace"] += kBufferBytes;
  result.disk_bytes_per_rank = static_cast<std::uint64_t>(memory.disk);
  const auto tell_sent = [&](const char* axis, int ranks, std::int64_t bytes) {
    if (ranks > 1) result.sent_bytes_per_step[axis] = static_cast<std::uint64_t>(bytes);
  };
  tell_sent("data", data_ranks, memory.sent_per_step);
  tell_sent("tensor", settings.tensor, memory.sent_to_tensor);
  tell_sent("pipeline", settings.pipeline, memory.sent_to_stages);
  return result;
}

std::optional<json> model_left(const json& config, const stages::KnownModels& models) {
  std::vector<model::RecipeProblem> problems;
  const std::optional<model::Config> model = known_model(config, models, problems);
  return model ? std::optional(model::to_hugging_face(*model)) : std::nullopt;
}

}  // namespace

const stages::StageDescriptor& descriptor() {
  static const stages::StageDescriptor descriptor = {
      .kind = "train",
      .version = 1,
      .summary = "Trains a decoder, with checkpoints from which it goes on to the same bits.",
      .reusable = true,
      .devices = {"cpu"},
      .outputs = {{"checkpoint", "artifacts/checkpoint/manifest.json",
                   "the state after the last step; see schemas/checkpoint.schema.json"},
                  {"best", "artifacts/best/manifest.json",
                   "the state of the lowest validation loss, where checkpoint.best asks for it; else that after the "
                   "last step"}},
      .check = check,
      .inputs = inputs,
      .estimate = estimate,
      .fit = fit,
      .model = model_left,
  };
  return descriptor;
}

}  // namespace braise::train
