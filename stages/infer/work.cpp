// SPDX-License-Identifier: Apache-2.0
#include "stages/infer/work.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "kernels/comm/communicator.h"
#include "kernels/core/arena.h"
#include "kernels/core/error.h"
#include "stages/api/input_path.h"
#include "stages/infer/finished.h"
#include "stages/infer/generator.h"
#include "stages/infer/model_source.h"
#include "stages/infer/prompts.h"
#include "stages/infer/settings.h"
#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"

namespace braise::infer {
namespace fs = std::filesystem;
namespace {

using Clock = std::chrono::steady_clock;
using nlohmann::json;

// How long ranks work between two agreements: short enough to stop within the second that mpirun leaves after a TERM,
// long enough to cost nothing.
constexpr auto kSlice = std::chrono::milliseconds(100);

// How often progress is told.
constexpr double kReportSeconds = 1;

/// What a rank has done.
struct Progress {
  bool done = false;
  std::uint64_t completions = 0;  ///< finished, those taken over included
  std::uint64_t tokens = 0;       ///< of those that were generated in this attempt
};

[[noreturn]] void fail(const std::map<std::uint64_t, std::string>& problems) {
  constexpr std::size_t kShown = 10;
  std::string text = "prompts that cannot be continued (they count from 0):";
  std::size_t shown = 0;
  for (const auto& [prompt, problem] : problems) {
    if (shown++ == kShown) {
      text += "\n  and " + std::to_string(problems.size() - kShown) + " more";
      break;
    }
    text += "\n  prompt " + std::to_string(prompt) + " " + problem;
  }
  throw core::Error(text);
}

class Infer {
 public:
  explicit Infer(stages::StageContext& context)
      : context_(context),
        job_(context.job()),
        settings_(settings_from(job_.config, job_.seed)),
        arena_(core::kCpu, core::Space::kDevice, ledger_),
        stream_(core::make_stream(arena_)) {}

  stages::Ending run(stages::Outputs& outputs) {
    verify_inputs();
    prompts_ = read_prompts(job_.config.at("prompts"), [this](const std::string& what) { context_.operation(what); });
    if (prompts_.size() > std::numeric_limits<std::uint32_t>::max()) throw core::Error("there are too many prompts");
    deal();
    if (!generate()) return stages::Ending::stopped;
    write(outputs);
    return stages::Ending::completed;
  }

 private:
  void verify_inputs();
  void deal();
  std::unique_ptr<Generator> make_generator();
  bool generate();
  Progress sum_over_ranks(const Progress& mine);
  void report(const Progress& all, double elapsed_s);
  void write(stages::Outputs& outputs);

  std::size_t request_count() const { return prompts_.size() * settings_.samples; }
  Origin origin_of(std::size_t request) const {
    const std::uint64_t prompt = request / settings_.samples;
    return {prompt, request % settings_.samples, settings_.sampling.seed, prompts_[prompt]};
  }

  stages::StageContext& context_;
  const stages::JobSpec& job_;
  const Settings settings_;
  core::MemoryLedger ledger_;
  core::Arena arena_;
  std::unique_ptr<core::Stream> stream_;
  LoadedModel model_;
  std::vector<std::string> prompts_;
  std::vector<std::size_t> mine_;                ///< the requests of this rank: prompt after prompt, sample by sample
  std::map<std::size_t, Generation> generated_;  ///< by request, of this rank
};

/// The files of the job are those it was planned with. Each is read by one rank.
void Infer::verify_inputs() {
  const auto ranks = static_cast<std::size_t>(context_.comm().size());
  for (auto i = static_cast<std::size_t>(context_.comm().rank()); i < job_.inputs.size(); i += ranks) {
    const stages::InputFile& input = job_.inputs[i];
    context_.operation("verify " + input.path);
    const io::FileDigest digest = io::digest_file(input.path);
    if (digest.sha256 == input.sha256) continue;
    throw core::Error(input.path + " has changed since the run was planned: its SHA-256 is " + digest.sha256 +
                      ", not " + input.sha256 + "; put the file back, or start a new run");
  }
}

/// Gives each rank its requests, in turn, and takes over what earlier attempts have finished of them.
void Infer::deal() {
  const auto ranks = static_cast<std::size_t>(context_.comm().size());
  for (auto i = static_cast<std::size_t>(context_.comm().rank()); i < request_count(); i += ranks) mine_.push_back(i);
  if (mine_.empty()) return;
  context_.operation("load the model");
  model_ =
      load_model(*stream_, stages::input_path(job_.config.at("model")), settings_.compute, job_.config.at("tokenizer"));
  context_.log("the model has " + std::to_string(model_.decoder->config().parameter_count()) + " parameters, in " +
               core::bytes_text(ledger_.current_bytes(core::Space::kDevice, core::Category::kParameters)));
  std::map<std::size_t, Generation> taken = take_over(context_, *model_.tokenizer);
  for (const std::size_t request : mine_) {
    if (const auto found = taken.find(request); found != taken.end()) generated_.insert(taken.extract(found));
  }
  if (!generated_.empty()) context_.log(std::to_string(generated_.size()) + " completions taken over");
}

/// With what this rank has still to do; null where that is nothing.
std::unique_ptr<Generator> Infer::make_generator() {
  std::vector<Request> requests;
  std::map<std::uint64_t, std::string> problems;  ///< by prompt
  std::int64_t longest = 0;
  const std::int64_t available = model_.decoder == nullptr ? 0 : model_.decoder->config().positions;
  for (const std::size_t request : mine_) {
    if (generated_.contains(request)) continue;
    const Origin origin = origin_of(request);
    std::vector<std::uint32_t> tokens;
    model_.tokenizer->encode(origin.prompt, tokens);
    if (tokens.empty() && model_.tokenizer->end_of_document()) tokens.push_back(*model_.tokenizer->end_of_document());
    const std::int64_t length = std::ssize(tokens);
    longest = std::max(longest, length);
    if (tokens.empty()) {
      problems[origin.prompt_index] = "is empty, and the tokenizer has no end-of-document token to begin with";
    } else if (length > available) {
      problems[origin.prompt_index] =
          "has " + std::to_string(length) + " tokens, and the model " + std::to_string(available) + " positions";
    }
    // So that a prompt's samples stay what they are when there are more of them.
    requests.push_back({request, origin.prompt_index << 32 | origin.sample, std::move(tokens)});
  }
  if (!problems.empty()) fail(problems);
  if (requests.empty()) return nullptr;
  // The last token of a completion needs no position: it is not looked at any more.
  const std::int64_t positions = std::min(available, longest + settings_.sampling.max_tokens - 1);
  const std::int64_t batch = std::min(settings_.batch, std::ssize(requests));
  auto generator =
      std::make_unique<Generator>(*stream_, *model_.decoder, *model_.tokenizer, settings_.sampling, batch, positions);
  for (Request& request : requests) generator->add(std::move(request));
  return generator;
}

Progress Infer::sum_over_ranks(const Progress& mine) {
  context_.operation("wait for the other ranks");
  Progress sum = {true, 0, 0};
  for (const std::string& text : context_.comm().all_gather(json{mine.done, mine.completions, mine.tokens}.dump())) {
    const json theirs = json::parse(text);
    sum.done = sum.done && theirs[0].get<bool>();
    sum.completions += theirs[1].get<std::uint64_t>();
    sum.tokens += theirs[2].get<std::uint64_t>();
  }
  return sum;
}

void Infer::report(const Progress& all, double elapsed_s) {
  const double rate = static_cast<double>(all.tokens) / std::max(elapsed_s, 1e-9);
  json line = {{"step", all.completions},
               {"steps", request_count()},
               {"rate", rate},
               {"unit", "tokens/s"},
               {"values", {{"tokens", all.tokens}}}};
  context_.metric(std::move(line));
}

/// Works until all ranks are done; they take the same number of turns, so that requests can be agreed on. Returns
/// false where a stop was asked for.
bool Infer::generate() {
  const std::unique_ptr<Generator> generator = make_generator();
  Finished finished(context_);
  Progress mine;
  mine.completions = generated_.size();
  mine.done = generator == nullptr;
  const auto done = [&](std::size_t request, Generation generation) {
    finished.add(request, generation);
    ++mine.completions;
    generated_.emplace(request, std::move(generation));
  };
  const Clock::time_point start = Clock::now();
  double next_report_s = 0;
  for (std::uint64_t pass = 0;;) {
    for (const Clock::time_point deadline = Clock::now() + kSlice; !mine.done && Clock::now() < deadline; ++pass) {
      context_.operation("pass " + std::to_string(pass));
      mine.done = !generator->step(done);
      mine.tokens = generator->tokens();
    }
    const Progress all = sum_over_ranks(mine);
    const double elapsed_s = std::chrono::duration<double>(Clock::now() - start).count();
    if (all.done || elapsed_s >= next_report_s) {
      report(all, elapsed_s);
      next_report_s = elapsed_s + kReportSeconds;
    }
    if (all.done) return true;
    switch (context_.poll_request(0)) {
      case stages::Request::none:
        break;
      case stages::Request::checkpoint:
        context_.log("checkpoint: what is finished is on the disk already");
        break;
      case stages::Request::stop:
        context_.log("stopping as asked: " + std::to_string(all.completions) + " completions finished");
        return false;
    }
  }
}

void Infer::write(stages::Outputs& outputs) {
  json lines = json::array();
  for (const auto& [request, generation] : generated_) {
    const Origin origin = origin_of(request);
    lines.push_back({request, to_json(origin, generation).dump(), to_text(origin, generation)});
  }
  context_.operation("wait for the other ranks' completions");
  const std::vector<std::string> all = context_.comm().all_gather(lines.dump());
  if (context_.comm().rank() != 0) return;
  context_.operation("write the completions");
  std::vector<std::string> records(request_count());
  std::vector<std::string> texts(request_count());
  for (const std::string& text : all) {
    for (json& line : json::parse(text)) {
      records[line[0].get<std::size_t>()] = std::move(line[1].get_ref<std::string&>());
      texts[line[0].get<std::size_t>()] = std::move(line[2].get_ref<std::string&>());
    }
  }
  const fs::path artifacts = context_.attempt_dir() / "artifacts";
  io::create_directories_durably(artifacts);
  const auto put = [&](const char* output, const std::string& file, const std::vector<std::string>& parts,
                       const char* end) {
    std::string text;
    for (const std::string& part : parts) text += part + end;
    io::write_file_durably(artifacts / file, text);
    outputs[output].files.push_back({"artifacts/" + file, text.size(), io::sha256(text)});
  };
  put("generations", "generations.jsonl", records, "\n");
  put("text", "generations.txt", texts, "");
}

}  // namespace

stages::Ending run(stages::StageContext& context, stages::Outputs& outputs) {
  return Infer(context).run(outputs);
}

}  // namespace braise::infer
