// SPDX-License-Identifier: Apache-2.0
#include "stages/train/training.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <set>
#include <utility>

#include "kernels/core/error.h"
#include "kernels/core/tier.h"
#include "kernels/linear/tier.h"
#include "stages/api/input_path.h"
#include "stages/shared/checkpoint/parameters.h"
#include "stages/shared/machine/gemm.h"
#include "stages/shared/model/gguf_model.h"
#include "stages/shared/telemetry/metrics_lines.h"
#include "stages/shared/weights/weights.h"
#include "stages/train/memory.h"

namespace braise::train {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// Rollbacks to one checkpoint before it is given up: where leaving out data does not help, something else is wrong.
constexpr int kMostRollbacks = 5;

// Steps between two looks at the other ranks' memory.
constexpr std::int64_t kPeaksEvery = 100;

constexpr char kTensorBoardFolder[] = "tensorboard";

std::int64_t budget(std::uint64_t bytes) {
  return bytes == 0 ? core::kUnlimited : static_cast<std::int64_t>(bytes);
}

std::set<std::int64_t> as_set(const std::vector<std::int64_t>& values) {
  return {values.begin(), values.end()};
}

/// Weights that are multiplied with in every forward pass: all but embeddings that are only looked up.
std::int64_t multiplying_weights(const model::Config& config) {
  std::int64_t weights = config.parameter_count();
  for (const model::ParameterSpec& spec : model::parameter_specs(config)) {
    const bool looked_up = spec.role == model::Role::kPositions || (spec.role == model::Role::kTokens && !config.tied);
    if (looked_up) weights -= spec.shape.elements();
  }
  return weights;
}

double seconds_since(telemetry::Clock::time_point begun) {
  return std::chrono::duration<double>(telemetry::Clock::now() - begun).count();
}

std::string number(double value) {
  return json(value).dump();
}

}  // namespace

Training::Training(stages::StageContext& context)
    : context_(context),
      comm_(context.comm()),
      settings_(context.job().config),
      data_config_(data_config(context.job())),
      ledger_(budget(context.job().resources.device_memory_bytes), budget(context.job().resources.host_memory_bytes)),
      device_(core::kCpu, core::Space::kDevice, ledger_),
      host_(core::kCpu, core::Space::kHost, ledger_),
      stream_(core::make_stream(device_)) {
  grid_ = std::make_unique<Grid>(comm_, settings_.tensor, settings_.pipeline);
  std::string key, problem, remedy;
  const std::optional<Lanes> lanes =
      deal(settings_.global, settings_.micro, settings_.lanes, grid_->groups().data, key, problem, remedy);
  if (!lanes) throw core::Error(key + " " + problem + "; " + remedy);
  lanes_ = *lanes;
}

stages::Ending Training::run(stages::Outputs& outputs) {
  compare_tiers();
  open_data();
  begin_state();
  begin_telemetry();
  while (step_ < end_) {
    const stages::Request request = context_.poll_request(needed_s());
    if (request != stages::Request::none && saved_step_ != step_) save(std::nullopt);
    if (request == stages::Request::stop) {
      context_.operation("finish the checkpoint");
      saver_->wait();
      tell_end();
      context_.log("stopping as asked, after step " + std::to_string(step_));
      return stages::Ending::stopped;
    }
    take_step();
  }
  finish(outputs);
  return stages::Ending::completed;
}

/// How long it will take to do one more step and save it, where rank 0 can tell: it alone knows when a checkpoint is
/// whole.
std::optional<double> Training::needed_s() {
  if (!is_first_rank()) return std::nullopt;
  for (const checkpoint::Saved& saved : saver_->take_saved()) pace_.note_save(saved.seconds);
  return pace_.next_s(validates_after(step_ + 1));
}

/// The instructions that products are computed with decide their bits: all ranks must have the same.
void Training::compare_tiers() {
  const std::string mine(core::name(linear::settle_tier()));
  for (const std::string& theirs : comm_.all_gather(mine)) {
    if (theirs != mine) {
      throw core::Error("ranks have different instruction-set tiers, " + mine + " and " + theirs +
                        ", and would not compute the same bits; pin one that all have with numerics.tier");
    }
  }
}

void Training::open_data() {
  context_.operation("verify the inputs");
  if (is_first_rank()) verify_inputs(context_.job());
  const auto open = [&](bool verify) {
    context_.operation("open the data");
    const data::OpenOptions options{verify, [this](const std::string& what) { context_.operation(what); }};
    dataset_ = std::make_unique<data::Dataset>(data_config_.settings, data_config_.sources, data_config_.tokenizer,
                                               host_, options);
  };
  if (is_first_rank()) open(true);
  context_.operation("wait for rank 0 to verify the data");
  comm_.barrier();
  if (!is_first_rank()) open(false);
  for (const data::SourceSummary& source : dataset_->training().summaries()) {
    context_.log("data " + source.name + ": " + std::to_string(source.documents) + " documents, " +
                 std::to_string(source.tokens) + " tokens, " + std::to_string(source.sequences_per_epoch) +
                 " sequences an epoch, padding " + number(source.padding) + ", examples cut " +
                 std::to_string(source.examples_cut) + ", left out " + std::to_string(source.examples_skipped));
  }
  const std::int64_t epoch =
      settings_.epochs > 0 ? static_cast<std::int64_t>(dataset_->training().sequences_for_epochs(settings_.epochs)) : 0;
  steps_ = settings_.epochs > 0 ? (epoch + settings_.global - 1) / settings_.global : settings_.total_steps();
  end_ = settings_.until > 0 ? std::min(settings_.until, steps_) : steps_;
}

model::Config Training::model_config() {
  const auto vocabulary = static_cast<std::int64_t>(dataset_->vocabulary_size());
  std::vector<model::RecipeProblem> problems;
  const std::optional<model::Config> config = described_model(context_.job().config, vocabulary, problems);
  if (!config) {
    std::string text = "the model cannot be made:";
    for (const model::RecipeProblem& one : problems) text += " model." + one.key + " " + one.problem + ";";
    text.pop_back();
    throw core::Error(text);
  }
  if (config->vocabulary < vocabulary) {
    throw core::Error("the model has " + std::to_string(config->vocabulary) + " tokens, and the data have " +
                      std::to_string(vocabulary) + "; tokenize with the tokenizer of the model");
  }
  if (!config->rope && config->positions < settings_.sequence) {
    throw core::Error("the model has " + std::to_string(config->positions) + " positions, and sequences have " +
                      std::to_string(settings_.sequence) + " tokens; shorten data.sequence");
  }
  return *config;
}

void Training::begin_state() {
  context_.operation("wait for the other ranks to begin");
  comm_.barrier();
  profile_.reset(new telemetry::Profile{
      telemetry::PhaseTimer(),
      {context_.attempt_dir(), comm_.rank(), as_set(settings_.traced_steps), telemetry::Clock::now()}});
  context_.operation("make the model");
  const model::Config config = model_config();
  model_json_ = model::to_hugging_face(config);
  const auto seed = static_cast<std::uint64_t>(context_.job().seed);
  const Trainer::Around around{*stream_,
                               host_,
                               *grid_,
                               *profile_,
                               [this](std::string_view what) { context_.operation(what); },
                               [this](std::string_view what) { context_.log(what); },
                               context_.scratch_dir()};
  trainer_ = std::make_unique<Trainer>(around, config, settings_, lanes_, seed);
  context_.log("model of " + std::to_string(config.parameter_count()) + " parameters; " + std::to_string(steps_) +
               " steps" + (end_ < steps_ ? ", of which this job ends after " + std::to_string(end_) + "," : "") +
               " of " + std::to_string(settings_.global) + " sequences, in " + std::to_string(lanes_.count) +
               " lanes of " + std::to_string(lanes_.micro_batches) + " micro-batches");

  checkpoint::SaverSettings saving;
  saving.attempt_dir = context_.attempt_dir();
  saving.retention.last = static_cast<int>(settings_.keep);
  saving.retention.best = settings_.keep_best ? 1 : 0;
  saving.retention.every = settings_.keep_every;
  saving.log = [this](std::string_view what) { context_.log(what); };
  saving.before_manifest = [this] { context_.sync_metrics(); };
  saver_ = std::make_unique<checkpoint::Saver>(comm_, *stream_, host_, std::move(saving));

  context_.operation("load the newest checkpoint");
  const std::optional<checkpoint::Checkpoint> newest = checkpoint::load_newest(
      comm_, context_.earlier_attempts(), [this](const checkpoint::Checkpoint& found) { load_state(found); },
      [this](std::string_view what) { context_.log(what); });
  if (newest) {
    trainer_->restored();
    origin_ = newest->folder().string();
    saved_step_ = step_;
    context_.log("goes on after step " + std::to_string(step_) + " from " + origin_);
  } else {
    begin_from_recipe();
  }
  seek(next_sequence_);
}

/// The weights that the training begins with.
void Training::begin_from_recipe() {
  const std::string state = context_.job().config.at("continue_from");
  if (!state.empty()) return continue_from(stages::input_path(state));
  const std::string from = context_.job().config.at("model").at("from");
  step_ = tokens_ = 0;
  next_sequence_ = 0;
  trainer_->set_updates(0);
  if (from.empty()) {
    context_.operation("draw the initial weights");
    trainer_->initialise();
    origin_ = "random weights";
  } else {
    context_.operation("load the model");
    const fs::path path = stages::input_path(from);
    if (const auto folder = checkpoint::folder_of(path)) {
      trainer_->load(checkpoint::Checkpoint(*folder));
    } else if (path.extension() == ".gguf") {
      trainer_->load(model::open_gguf_model(path).weights);
    } else {
      trainer_->load(weights::open_model_weights(path));
    }
    origin_ = path.string();
  }
  context_.log("begins from " + origin_);
}

/// The whole state that an earlier job of this training left.
void Training::continue_from(const fs::path& path) {
  context_.operation("load the state to go on from");
  const std::optional<fs::path> folder = checkpoint::folder_of(path);
  if (!folder) throw core::Error(path.string() + " is no checkpoint; name its folder or its manifest.json");
  const checkpoint::Checkpoint from(*folder);
  if (is_first_rank()) from.verify_frames();
  load_state(from);
  trainer_->restored();
  origin_ = folder->string();
  if (step_ > end_) {
    throw core::Error(origin_ + " is of step " + std::to_string(step_) + ", after this job's end at step " +
                      std::to_string(end_));
  }
  context_.log("continues after step " + std::to_string(step_) + " from " + origin_);
}

void Training::load_state(const checkpoint::Checkpoint& checkpoint) {
  const json& state = checkpoint.metadata();
  dataset_->training().require_same(
      {state.at("data").at("next_sequence"), state.at("data").at("identity").get<std::string>()});
  trainer_->restore(checkpoint);
  trainer_->set_updates(state.at("updates"));
  const json& scale = state.at("loss_scale");
  trainer_->loss_scale().restore({scale.at("scale"), scale.at("good_steps"), scale.at("overflows")});
  step_ = checkpoint.step();
  tokens_ = state.at("tokens");
  next_sequence_ = state.at("data").at("next_sequence");
  best_loss_.reset();
  if (!state.at("best_validation_loss").is_null()) best_loss_ = state.at("best_validation_loss").get<double>();
}

json Training::metadata() const {
  const LossScale::State scale = trainer_->loss_scale().state();
  const data::Position position = dataset_->training().position(next_sequence_);
  return {{"model", model_json_},
          {"tokenizer", json::parse(dataset_->tokenizer())},
          {"steps", steps_},
          {"updates", trainer_->updates()},
          {"tokens", tokens_},
          {"data", {{"next_sequence", position.next_sequence}, {"identity", position.identity}}},
          {"loss_scale", {{"scale", scale.scale}, {"good_steps", scale.good_steps}, {"overflows", scale.overflows}}},
          {"best_validation_loss", best_loss_ ? json(*best_loss_) : json()},
          {"tier", core::name(core::tier())},
          {"job", context_.job().to_json()}};
}

void Training::begin_telemetry() {
  context_.operation("measure the rate of matrix products");
  const double rate = machine::measure_gemm_rate(context_.job().resources.threads, settings_.compute);
  double all_ranks = 0;
  for (const std::string& theirs : comm_.all_gather(json(rate).dump())) all_ranks += std::stod(theirs);
  if (!is_first_rank()) return;
  const model::Config& config = trainer_->decoder().config();
  const std::vector<fs::path>& latest_first = context_.earlier_attempts();
  const std::vector<fs::path> attempts(latest_first.rbegin(), latest_first.rend());
  telemetry::TrainMetrics::Settings told;
  told.steps = end_;
  told.flops_per_token = telemetry::train_flops_per_token(multiplying_weights(config), config.layers,
                                                          config.heads * config.head_size, settings_.sequence);
  told.gemm_flops = all_ranks;
  told.resume_step = step_;
  told.resume_tokens = tokens_;
  metrics_.emplace(told, telemetry::read_losses(attempts));
  std::vector<fs::path> earlier_events;
  for (const fs::path& attempt : attempts) earlier_events.push_back(attempt / kTensorBoardFolder);
  events_.emplace(context_.attempt_dir() / kTensorBoardFolder, earlier_events);
  tell(metrics_->begin());
  if (step_ == 0) events_->add_text(step_, "recipe", "```json\n" + context_.job().config.dump(2) + "\n```");
}

void Training::tell(const json& line) {
  if (!is_first_rank()) return;
  context_.metric(line);
  telemetry::add_to_events(*events_, line);
}

void Training::seek(std::uint64_t next_sequence) {
  next_sequence_ = next_sequence;
  const auto global = static_cast<std::uint64_t>(settings_.global);
  const std::int64_t mine = settings_.global / grid_->groups().data;
  const std::uint64_t first = next_sequence + static_cast<std::uint64_t>(mine * grid_->place().data);
  const auto left = static_cast<std::uint64_t>(end_ - step_);
  prefetcher_.reset();
  prefetcher_ = std::make_unique<data::Prefetcher>(
      dataset_->training(),
      [=](std::uint64_t i) -> std::optional<data::BatchRange> {
        if (i >= left) return std::nullopt;
        return data::BatchRange{first + i * global, mine};
      },
      data_config_.prefetch);
}

void Training::take_step() {
  const std::int64_t step = step_ + 1;
  const telemetry::Clock::time_point begun = telemetry::Clock::now();
  profile_->trace.begin_step(step);
  std::optional<data::HostBatch> batch;
  {
    context_.operation("wait for the batch of step " + std::to_string(step));
    const telemetry::Scope scope(*profile_, telemetry::Phase::kData, "batch");
    batch = prefetcher_->next();
  }
  if (!batch) throw core::Error("the data end before step " + std::to_string(step));
  const double rate = settings_.optimizer.lr * learning_rate_factor(settings_.schedule, step, steps_);
  const std::int64_t first = grid_->place().data * (settings_.global / grid_->groups().data);
  const double scale = trainer_->loss_scale().scale();
  const StepOutcome outcome = trainer_->step(*batch, first, step, rate);
  batch.reset();
  if (!outcome.is_applied() && handle_not_finite(outcome)) {
    profile_->trace.end_step();
    return;
  }
  if (outcome.is_applied() && settings_.compute == core::Dtype::kFloat16) trainer_->loss_scale().good_step();
  step_ = step;
  tokens_ += outcome.targets;
  next_sequence_ += static_cast<std::uint64_t>(settings_.global);
  profile_->phases.count_step();
  if (step_ <= 2 || step_ % kPeaksEvery == 0) exchange_peaks();
  if (is_first_rank()) {
    telemetry::StepValues values;
    values.step = step_;
    values.loss = outcome.loss;
    values.lr = rate;
    values.grad_norm = outcome.gradient_norm;
    values.tokens = outcome.targets;
    if (settings_.compute == core::Dtype::kFloat16) values.loss_scale = scale;
    values.is_skipped = !outcome.is_applied();
    values.finished = telemetry::Clock::now();
    tell(metrics_->step(values, peaks_));
  }
  pace_.note_step(seconds_since(begun));
  const bool last = step_ == end_;
  std::optional<double> metric;
  if (validates_after(step_)) metric = validate();
  const bool is_best = settings_.keep_best && metric && (!best_loss_ || *metric < *best_loss_);
  if (metric && (!best_loss_ || *metric < *best_loss_)) best_loss_ = metric;
  const bool due = settings_.checkpoint_every > 0 && step_ % settings_.checkpoint_every == 0;
  if (last || due || is_best) save(metric);
  profile_->trace.end_step();
}

/// Whether the training has gone back, so that the step did not happen.
bool Training::handle_not_finite(const StepOutcome& outcome) {
  const std::string where = "step " + std::to_string(step_ + 1) + ": " + outcome.not_finite + " is not finite";
  const bool overflow = settings_.compute == core::Dtype::kFloat16 && std::isfinite(outcome.loss);
  if (overflow) {
    const double scale = trainer_->loss_scale().scale();
    if (!trainer_->loss_scale().overflow()) {
      throw core::Error(where + " at the least loss scale, " + number(scale) +
                        ", so that scaling cannot help: the gradients themselves are too large for fp16 or not "
                        "numbers; lower the learning rate, clip, or compute in bf16");
    }
    context_.log(where + " at loss scale " + number(scale) + ": the step is left out, the scale goes to " +
                 number(trainer_->loss_scale().scale()));
    return false;
  }
  switch (settings_.on_nan) {
    case OnNan::kSkip:
      context_.log(where + ": the step is left out");
      return false;
    case OnNan::kRollback:
      roll_back(where);
      return true;
    case OnNan::kStop:
      break;
  }
  throw core::Error(where + "; lower the learning rate or clip gradients, or have such steps left out (on_nan: skip)");
}

void Training::roll_back(const std::string& where) {
  if (++rollbacks_ > kMostRollbacks) {
    throw core::Error(where + ", after " + std::to_string(kMostRollbacks) + " returns to " + origin_ +
                      "; leaving out data does not help: lower the learning rate or clip gradients");
  }
  const std::uint64_t after = next_sequence_ + static_cast<std::uint64_t>(settings_.global);
  context_.operation("go back to the last checkpoint");
  saver_->wait();
  std::vector<fs::path> attempts{context_.attempt_dir()};
  attempts.insert(attempts.end(), context_.earlier_attempts().begin(), context_.earlier_attempts().end());
  const std::optional<checkpoint::Checkpoint> newest = checkpoint::load_newest(
      comm_, attempts, [this](const checkpoint::Checkpoint& found) { load_state(found); },
      [this](std::string_view what) { context_.log(what); });
  if (newest) {
    trainer_->restored();
    origin_ = newest->folder().string();
  } else {
    begin_from_recipe();
  }
  context_.log(where + ": back to step " + std::to_string(step_) + ", and on with the data after that batch");
  if (is_first_rank()) tell(metrics_->roll_back(step_, tokens_));
  seek(after);
}

bool Training::validates_after(std::int64_t step) const {
  return step == end_ || (settings_.validate_every > 0 && step % settings_.validate_every == 0);
}

std::optional<double> Training::validate() {
  const data::BatchSource* const source = dataset_->validation();
  if (source == nullptr) return std::nullopt;
  auto count = static_cast<std::int64_t>(source->sequences());
  if (settings_.validation_sequences > 0) count = std::min(count, settings_.validation_sequences);
  if (count == 0) return std::nullopt;
  const telemetry::Clock::time_point begun = telemetry::Clock::now();
  const double loss = trainer_->evaluate(*source, count);
  pace_.note_validation(seconds_since(begun));
  validation_loss_ = loss;
  if (is_first_rank()) tell(metrics_->validation(step_, loss));
  return loss;
}

void Training::save(std::optional<double> metric) {
  if (saved_step_ == step_) return;
  context_.operation("save the state after step " + std::to_string(step_));
  const telemetry::Scope scope(*profile_, telemetry::Phase::kCheckpoint, "checkpoint");
  const std::vector<checkpoint::Piece> pieces = trainer_->pieces();
  const bool last = step_ == end_;
  try {
    const checkpoint::SaveCost cost = saver_->save(step_, pieces, metadata(), metric);
    if (cost.streamed) {
      context_.log("no room for a snapshot of " + std::to_string(cost.bytes) +
                   " bytes in resources.host_memory: training waited for the checkpoint");
    }
    saved_step_ = step_;
    rollbacks_ = 0;
  } catch (const checkpoint::SaveFailure& failure) {
    if (last) throw;
    context_.log(std::string("no checkpoint after step ") + std::to_string(step_) + ": " + failure.what());
  }
}

void Training::exchange_peaks() {
  peaks_.raise_to(telemetry::MemoryPeaks::of(ledger_));
  for (const std::string& theirs : comm_.all_gather(peaks_.to_text())) {
    peaks_.raise_to(telemetry::MemoryPeaks::from_text(theirs));
  }
}

void Training::tell_end() {
  exchange_peaks();
  std::vector<telemetry::PhaseTotals> phases;
  for (const std::string& theirs : comm_.all_gather(profile_->phases.totals().to_text())) {
    phases.push_back(telemetry::PhaseTotals::from_text(theirs));
  }
  profile_->trace.close();
  comm_.barrier();
  if (!is_first_rank()) return;
  if (!settings_.traced_steps.empty()) telemetry::merge_traces(context_.attempt_dir(), comm_.size());
  std::optional<telemetry::Expectation> expectation;
  if (step_ == steps_ && settings_.expected_validation_loss > 0 && validation_loss_) {
    expectation = {"validation loss", *validation_loss_, settings_.expected_validation_loss};
  }
  tell(metrics_->end(phases, peaks_, expectation));
}

void Training::finish(stages::Outputs& outputs) {
  context_.operation("finish the checkpoint");
  save(std::nullopt);
  saver_->wait();
  tell_end();
  if (!is_first_rank()) return;
  context_.operation("publish the checkpoint");
  std::vector<fs::path> attempts{context_.attempt_dir()};
  attempts.insert(attempts.end(), context_.earlier_attempts().begin(), context_.earlier_attempts().end());
  std::optional<checkpoint::Checkpoint> last, best;
  for (const checkpoint::Candidate& candidate : checkpoint::find_checkpoints(attempts)) {
    try {
      checkpoint::Checkpoint found(candidate.folder);
      if (!last && found.step() == step_) last.emplace(checkpoint::Checkpoint(candidate.folder));
      const bool better = found.metric() && (!best || *found.metric() < *best->metric());
      if (settings_.keep_best && better) best = std::move(found);
    } catch (const core::Error& error) {
      context_.log("a checkpoint is passed over: " + std::string(error.what()));
    }
  }
  if (!last) throw core::Error("the checkpoint after the last step is missing in " + context_.attempt_dir().string());
  const auto publish = [&](const std::string& name, const checkpoint::Checkpoint& from) {
    const fs::path folder = fs::path("artifacts") / name;
    for (const checkpoint::LinkedFile& file : checkpoint::link_checkpoint(from, context_.attempt_dir() / folder)) {
      outputs[name].files.push_back({(folder / file.name).string(), file.bytes, file.sha256});
    }
  };
  publish("checkpoint", *last);
  publish("best", best ? *best : *last);
}

}  // namespace braise::train
