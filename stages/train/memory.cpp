// SPDX-License-Identifier: Apache-2.0
#include "stages/train/memory.h"

#include <algorithm>
#include <cstddef>
#include <deque>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>
#include <vector>

#include "kernels/comm/workspace.h"
#include "stages/api/input_path.h"
#include "stages/shared/model/memory.h"
#include "stages/shared/model/model_at.h"
#include "stages/shared/model/part.h"
#include "stages/shared/model/units.h"
#include "stages/train/limits.h"
#include "stages/train/parameter_rules.h"
#include "stages/train/shards.h"

namespace braise::train {
namespace {

using core::Category;
using core::Dtype;
using core::Space;

// Of the tokenizer `bytes` with its end of document. What a corpus that is still to be made will have is not known.
constexpr std::int64_t kUsualVocabulary = 257;

std::int64_t bytes_of(Dtype dtype) {
  return core::bits(dtype) / 8;
}

/// Goes through a step as a rank does, and notes what is held meanwhile.
class Rehearsal {
 public:
  Rehearsal(const model::Config& config, const Settings& settings, const Lanes& lanes, const model::Part& part,
            int stages_left, int rank, int ranks)
      : settings_(settings),
        lanes_(lanes),
        config_(config),
        part_(part),
        specs_(model::part_specs(config, part)),
        stages_left_(stages_left),
        input_bytes_((settings.micro * settings.sequence + part.tensor_width - 1) / part.tensor_width * config.hidden *
                     bytes_of(settings.compute)),
        units_(model::make_units(config, part_, specs_)),
        owners_(units_, specs_, settings.zero == 0 ? 1 : ranks),
        rank_(settings.zero == 0 ? 0 : rank),
        ranks_(ranks),
        gathers_(settings.zero == 3),
        apart_(settings.zero >= 2 || settings.reduction == Reduction::kMicro),
        users_(units_.all.size()),
        gathered_(units_.all.size()),
        sums_(units_.all.size()),
        results_(units_.all.size()) {
    for (std::int64_t width = 1; width < lanes.lanes_per_rank; width *= 2) waiting_.emplace_back(units_.all.size());
  }

  RankMemory memory() {
    const int copies = model::shares_of(config_, part_).kv_copies;
    for (const int ranks : {ranks_, part_.tensor_width, copies}) {
      if (ranks > 1) hold(Space::kDevice, Category::kCommunication, comm::workspace_bytes(ranks));
    }
    hold_values();
    hold_state();
    hold_inputs();
    if (results_on_disk()) most_.disk += own_elements(false) * bytes_of(result_dtype());
    for (std::int64_t pass = 0; pass < lanes_.lanes_per_rank * lanes_.micro_batches; ++pass) {
      const bool by_lane = settings_.reduction == Reduction::kStep;
      lane_ = by_lane ? pass / lanes_.micro_batches : pass % lanes_.lanes_per_rank;
      micro_batch_ = by_lane ? pass % lanes_.micro_batches : pass / lanes_.lanes_per_rank;
      go_through();
    }
    while (!on_the_way_.empty()) wait_for_first();
    finish_gradients();
    go_through_windows();
    if (owners_.ranks() > 1 && !gathers_) {
      for (int unit = 0; unit < units_.size(); ++unit) {
        if (units_.at(unit).values) most_.sent_per_step += sent_to_all(unit) * bytes_of(settings_.compute);
      }
    }
    return most_;
  }

 private:
  struct Held {
    Space space = Space::kDevice;
    Category category = Category::kGradients;
    std::int64_t bytes = 0;
  };

  void hold(Space space, Category category, std::int64_t bytes) {
    std::int64_t& now = now_.at(space, category);
    now += bytes;
    most_.at(space, category) = std::max(most_.at(space, category), now);
  }
  void give_up(Held& held) {
    now_.at(held.space, held.category) -= held.bytes;
    held = {};
  }
  Held take(Space space, Category category, std::int64_t bytes) {
    hold(space, category, bytes);
    return {space, category, bytes};
  }
  static Space space_of(Home home) { return home == Home::kHost ? Space::kHost : Space::kDevice; }
  std::int64_t own(int unit) const { return owners_.range(unit, rank_).size(); }
  std::int64_t sent_to_all(int unit) const { return (ranks_ - 1) * own(unit); }

  void hold_values() {
    if (settings_.offload.parameters == Home::kNvme) {
      most_.disk += own_elements(true) * bytes_of(settings_.compute);
      return;
    }
    for (int unit = 0; unit < units_.size(); ++unit) {
      if (!units_.at(unit).values) continue;
      hold(gathers_ ? space_of(settings_.offload.parameters) : Space::kDevice, Category::kParameters,
           (gathers_ ? own(unit) : units_.at(unit).elements) * bytes_of(settings_.compute));
    }
  }

  /// Master weights and the optimizer's arrays.
  void hold_state() {
    std::vector<std::string> unused;
    const std::vector<model::ParameterSpec> specs = model::parameter_specs(config_);
    const std::vector<ParameterRule> rules = parameter_rules(specs, settings_.optimizer, settings_.freeze, unused);
    std::int64_t elements = 0;
    for (const Segment& segment : owners_.segments(rank_)) {
      const auto spec = std::ranges::find(specs, specs_[segment.parameter].spec.name, &model::ParameterSpec::name);
      if (!rules[static_cast<std::size_t>(spec - specs.begin())].frozen) elements += segment.elements();
    }
    const auto array = [&](Home home, Category category) {
      if (home != Home::kNvme) return hold(space_of(home), category, 4 * elements);
      most_.disk += 4 * elements;
      hold(Space::kDevice, category, chunk_memory_bytes(elements, 4));
    };
    if (settings_.compute != Dtype::kFloat32) array(settings_.offload.master, Category::kMaster);
    for (int i = 0; i < settings_.optimizer.state_tensors(); ++i) {
      array(settings_.offload.optimizer, Category::kOptimizer);
    }
  }

  /// Of all units, in their regions of a file.
  std::int64_t own_elements(bool values) const {
    std::int64_t elements = 0;
    for (int unit = 0; unit < units_.size(); ++unit) {
      if (units_.at(unit).values || !values) elements += own(unit);
    }
    return elements;
  }

  /// The inputs of blocks that are computed again.
  void hold_inputs() {
    const Home home = settings_.offload.activations;
    if (home == Home::kDevice) return;
    const std::int64_t bytes = kept_inputs(settings_.checkpointing(), part_.blocks, stages_left_,
                                           lanes_.lanes_per_rank * lanes_.micro_batches) *
                               input_bytes_;
    if (home == Home::kHost) hold(Space::kHost, Category::kActivations, bytes);
    if (home == Home::kNvme) most_.disk += bytes;
  }

  /// Units next to each other, as the optimizer's step has them in memory where they lie on a disk.
  void go_through_windows() {
    const auto pass = [&](Category category, std::int64_t size, std::size_t at_once) {
      std::deque<Held> window;
      for (int unit = 0; unit < units_.size(); ++unit) {
        const bool none = own(unit) == 0 || (category == Category::kParameters && !units_.at(unit).values);
        if (none) continue;
        if (window.size() == at_once) {
          give_up(window.front());
          window.pop_front();
        }
        window.push_back(take(Space::kDevice, category, own(unit) * size));
      }
      for (Held& held : window) give_up(held);
    };
    if (settings_.offload.gradients == Home::kNvme) {
      give_up(written_);
      pass(Category::kGradients, bytes_of(result_dtype()), 2);
    }
    if (settings_.offload.parameters == Home::kNvme) pass(Category::kParameters, bytes_of(settings_.compute), 3);
  }

  // As Values does.
  void begin_pass() {
    order_ = {units_.tokens};
    if (units_.positions >= 0) order_.push_back(units_.positions);
    for (int unit = units_.first_block; unit < units_.end; ++unit) order_.push_back(unit);
    if (units_.tied_head >= 0) order_.push_back(units_.tokens);
    order_.push_back(units_.end);
    for (int unit = units_.end - 1; unit >= units_.first_block; --unit) order_.push_back(unit);
    next_ = 0;
  }
  /// Takes a unit's memory, and reads what the rank has of it.
  void read(int unit) {
    Held& gathered = gathered_[static_cast<std::size_t>(unit)];
    if (gathered.bytes > 0) return;
    const bool in_place = owners_.ranks() == 1 && settings_.offload.parameters == Home::kDevice;
    if (in_place) return;
    const std::int64_t spare = from_disk() ? gathered_spare_elements(settings_.compute) : 0;
    gathered = take(Space::kDevice, Category::kCommunication,
                    (units_.at(unit).elements + spare) * bytes_of(settings_.compute));
    if (ranks_ > 1) most_.sent_per_step += sent_to_all(unit) * bytes_of(settings_.compute);
  }
  bool from_disk() const { return settings_.offload.parameters == Home::kNvme; }
  void need_values(int unit) {
    if (!gathers_) return;
    read(unit);
    if (++next_ < order_.size()) read(order_[next_]);
    ++users_[static_cast<std::size_t>(unit)];
    if (from_disk() && ranks_ > 1 && next_ + 1 < order_.size()) read(order_[next_ + 1]);
  }
  void values_used(int unit) {
    if (gathers_ && --users_[static_cast<std::size_t>(unit)] == 0) give_up(gathered_[static_cast<std::size_t>(unit)]);
  }

  // As Gradients does.
  Held& sum(int unit) { return sums_[static_cast<std::size_t>(unit)]; }
  bool is_lane_end() const {
    return settings_.reduction == Reduction::kMicro || micro_batch_ == lanes_.micro_batches - 1;
  }
  bool is_last_lane() const { return lane_ == lanes_.lanes_per_rank - 1; }
  bool is_first_sum() const { return settings_.reduction == Reduction::kStep || micro_batch_ == 0; }
  Dtype result_dtype() const { return settings_.reduction == Reduction::kStep ? settings_.gradients : Dtype::kFloat32; }
  Held& result(int unit) { return results_[static_cast<std::size_t>(unit)]; }
  bool results_on_disk() const { return settings_.offload.gradients == Home::kNvme; }
  void take_result(int unit) {
    result(unit) =
        take(space_of(settings_.offload.gradients), Category::kGradients, own(unit) * bytes_of(result_dtype()));
  }
  void write_result(int unit) {
    give_up(written_);
    written_ = std::exchange(result(unit), {});
    unit_written_ = unit;
  }
  bool rounds() const { return settings_.gradients != Dtype::kFloat32; }

  void need_gradients(int unit) {
    while (std::ranges::find(on_the_way_, unit) != on_the_way_.end()) wait_for_first();
    need_sum(unit);
    if (results_on_disk() && is_lane_end() && is_last_lane() && !is_first_sum()) read_result(unit);
  }
  void read_result(int unit) {
    if (unit == unit_written_) give_up(written_);
    take_result(unit);
  }
  void need_sum(int unit) {
    if (sum(unit).bytes > 0) return;
    const bool passes = is_lane_end() && (rounds() || (apart_ && is_last_lane()));
    sum(unit) =
        take(Space::kDevice, passes ? Category::kCommunication : Category::kGradients, 4 * units_.at(unit).elements);
  }
  void gradients_added(int unit) {
    if (!is_lane_end()) return;
    if (rounds()) {
      const Held rounded =
          take(Space::kDevice, apart_ && is_last_lane() ? Category::kCommunication : Category::kGradients,
               bytes_of(settings_.gradients) * units_.at(unit).elements);
      give_up(sum(unit));
      sum(unit) = rounded;
    }
    std::size_t level = 0;
    for (; (lane_ >> level) % 2 == 1; ++level) give_up(waiting_[level][static_cast<std::size_t>(unit)]);
    if (!is_last_lane()) {
      waiting_[level][static_cast<std::size_t>(unit)] = sum(unit);
      sum(unit) = {};
      return;
    }
    exchange(unit);
  }
  void exchange(int unit) {
    if (apart_ && is_first_sum()) take_result(unit);
    if (ranks_ == 1) return arrived(unit);
    const std::int64_t size = bytes_of(settings_.gradients);
    const std::int64_t elements = units_.at(unit).elements;
    most_.sent_per_step +=
        settings_.zero == 0 ? 2 * (ranks_ - 1) * elements * size / ranks_ : (elements - own(unit)) * size;
    on_the_way_.push_back(unit);
    while (on_the_way_.size() > kUnitsOnTheWay) wait_for_first();
  }
  void wait_for_first() {
    const int unit = on_the_way_.front();
    on_the_way_.pop_front();
    arrived(unit);
  }
  void arrived(int unit) {
    if (apart_) give_up(sum(unit));
    if (results_on_disk()) write_result(unit);
  }
  void finish_gradients() {
    const bool has_other_end = config_.tied && embeds() != has_head();
    if (units_.tied_head < 0 && !has_other_end) return;
    if (results_on_disk()) {
      read_result(units_.tokens);
      if (units_.tied_head >= 0) read_result(units_.tied_head);
    }
    if (has_other_end) {
      const Dtype dtype = apart_ ? result_dtype() : settings_.gradients;
      Held theirs = take(Space::kDevice, Category::kCommunication, own(units_.tokens) * bytes_of(dtype));
      give_up(theirs);
    }
    if (!results_on_disk()) return;
    write_result(units_.tokens);
    if (units_.tied_head >= 0) give_up(result(units_.tied_head));
  }
  bool embeds() const { return part_.blocks.begin == 0; }
  bool has_head() const { return part_.blocks.end == config_.layers; }

  /// A forward and a backward pass, as Decoder tells of them.
  void go_through() {
    begin_pass();
    if (embeds()) {
      need_values(units_.tokens);
      if (units_.positions >= 0) need_values(units_.positions);
      if (units_.positions >= 0) values_used(units_.positions);
      values_used(units_.tokens);
    }
    for (int unit = units_.first_block; unit < units_.end; ++unit) {
      need_values(unit);
      values_used(unit);
    }
    if (has_head()) go_through_head();
    for (int unit = units_.end - 1; unit >= units_.first_block; --unit) {
      need_values(unit);
      need_gradients(unit);
      gradients_added(unit);
      values_used(unit);
    }
    if (!embeds()) return;
    need_gradients(units_.tokens);
    if (units_.positions >= 0) need_gradients(units_.positions);
    if (units_.positions >= 0) gradients_added(units_.positions);
    gradients_added(units_.tokens);
  }
  void go_through_head() {
    const int head = !config_.tied ? units_.end : embeds() ? units_.tied_head : units_.tokens;
    if (config_.tied) need_values(units_.tokens);
    need_values(units_.end);
    if (head != units_.end) need_gradients(head);
    need_gradients(units_.end);
    gradients_added(units_.end);
    if (head != units_.end) gradients_added(head);
    values_used(units_.end);
    if (config_.tied) values_used(units_.tokens);
  }

  const Settings& settings_;
  const Lanes& lanes_;
  const model::Config& config_;
  const model::Part part_;
  const std::vector<model::PartSpec> specs_;
  const int stages_left_;           // from this one on
  const std::int64_t input_bytes_;  // of one input of a block
  const model::Units units_;
  const Shards owners_;
  const int rank_;
  const int ranks_;
  const bool gathers_;
  const bool apart_;
  RankMemory now_, most_;
  std::vector<int> order_;
  std::size_t next_ = 0;
  std::vector<int> users_;
  std::vector<Held> gathered_, sums_, results_;
  std::vector<std::vector<Held>> waiting_;
  std::deque<int> on_the_way_;
  Held written_;  // a result on its way to the disk
  int unit_written_ = -1;
  std::int64_t lane_ = 0;
  std::int64_t micro_batch_ = 0;
};

/// A model that the recipe does not describe. Dropout is how it is trained: the recipe's.
template <class Read>
std::optional<model::Config> given_model(const nlohmann::json& described, std::vector<model::RecipeProblem>& problems,
                                         const Read& read) {
  std::vector<std::string> unreadable;
  std::optional<model::Config> model = read(unreadable);
  for (const std::string& problem : unreadable) problems.push_back({"from", problem, ""});
  if (!model) return std::nullopt;
  model->embedding_dropout = described.at("dropout").at("embedding");
  model->attention_dropout = described.at("dropout").at("attention");
  model->residual_dropout = described.at("dropout").at("residual");
  return model;
}

}  // namespace

std::optional<model::Config> described_model(const nlohmann::json& config, std::int64_t vocabulary,
                                             std::vector<model::RecipeProblem>& problems) {
  const nlohmann::json& described = config.at("model");
  const std::string from = described.at("from");
  if (from.empty()) return model::from_recipe(described, vocabulary, config.at("data").at("sequence"), problems);
  return given_model(described, problems, [&](std::vector<std::string>& unreadable) {
    return model::config_at(stages::input_path(from), unreadable);
  });
}

std::optional<model::Config> known_model(const nlohmann::json& config, const stages::KnownModels& models,
                                         std::vector<model::RecipeProblem>& problems) {
  const nlohmann::json& described = config.at("model");
  const std::string from = described.at("from");
  if (stages::is_of_this_run(from)) {
    const auto found = models.find(from);
    if (found == models.end()) return std::nullopt;
    return given_model(described, problems, [&](std::vector<std::string>& unreadable) {
      return model::read_hugging_face(found->second, unreadable);
    });
  }
  const bool is_there = from.empty() || std::filesystem::exists(stages::input_path(from));
  return is_there ? described_model(config, kUsualVocabulary, problems) : std::nullopt;
}

RankMemory rank_memory(const model::Config& config, const Settings& settings, const Lanes& lanes,
                       const comm::Groups::Place& place, int data_ranks, int threads) {
  model::PassPlace passes;
  passes.part = model::part_of(config, place.tensor, settings.tensor, place.pipeline, settings.pipeline);
  passes.stage = place.pipeline;
  passes.stages = settings.pipeline;
  passes.micro_batches = lanes.lanes_per_rank * lanes.micro_batches;
  RankMemory memory =
      Rehearsal(config, settings, lanes, passes.part, settings.pipeline - place.pipeline, place.data, data_ranks)
          .memory();
  const model::DecoderMemory decoder =
      model::training_memory(config, settings.compute, settings.checkpointing(), settings.micro, settings.sequence,
                             threads, settings.tier, passes);
  const std::int64_t losses = 2 * settings.micro * settings.sequence * 4;
  memory.at(Space::kDevice, Category::kActivations) = decoder.activations + losses;
  memory.at(Space::kDevice, Category::kWorkspace) = settings.zero == 3 ? decoder.gathered_workspace : decoder.workspace;
  memory.sent_to_tensor = decoder.sent_to_tensor;
  memory.sent_to_stages = decoder.sent_to_stages;
  return memory;
}

RankMemory most_memory(const model::Config& config, const Settings& settings, const Lanes& lanes, int data_ranks,
                       int threads) {
  RankMemory most;
  const auto raise = [&](const comm::Groups::Place& place) {
    const RankMemory one = rank_memory(config, settings, lanes, place, data_ranks, threads);
    for (std::size_t i = 0; i < most.device.size(); ++i) {
      most.device[i] = std::max(most.device[i], one.device[i]);
      most.host[i] = std::max(most.host[i], one.host[i]);
    }
    most.disk = std::max(most.disk, one.disk);
    most.sent_per_step = std::max(most.sent_per_step, one.sent_per_step);
    most.sent_to_tensor = std::max(most.sent_to_tensor, one.sent_to_tensor);
    most.sent_to_stages = std::max(most.sent_to_stages, one.sent_to_stages);
  };
  // Shares differ by blocks, and not with the rank in any other way: the first and last ranks and one between stand for
  // all where there are many; the first of those that share a block has the most of it. Stages between the first and
  // the last have fewer micro-batches begun the later they are.
  for (const int data : std::set<int>{0, data_ranks / 2, data_ranks - 1}) {
    for (const int stage : std::set<int>{0, std::min(1, settings.pipeline - 1), settings.pipeline - 1}) {
      raise({.tensor = 0, .data = data, .pipeline = stage});
    }
  }
  return most;
}

}  // namespace braise::train
