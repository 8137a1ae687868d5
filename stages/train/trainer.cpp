// SPDX-License-Identifier: Apache-2.0
#include "stages/train/trainer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <utility>

#include "kernels/core/copy.h"
#include "kernels/core/error.h"
#include "kernels/core/reduce.h"
#include "kernels/optimizer/grad_norm.h"
#include "stages/train/limits.h"

namespace braise::train {
namespace {

using core::Category;
using core::ConstTensorView;
using core::Dtype;
using core::Shape;
using core::TensorView;
using telemetry::Phase;
using telemetry::Scope;

/// The rules of a part's parameters.
std::vector<ParameterRule> rules_of(const model::Config& config, const Settings& settings,
                                    const model::Decoder& decoder) {
  std::vector<std::string> unused;
  const std::vector<model::ParameterSpec> specs = model::parameter_specs(config);
  const std::vector<ParameterRule> all = parameter_rules(specs, settings.optimizer, settings.freeze, unused);
  if (!unused.empty()) throw core::Error("the pattern \"" + unused.front() + "\" fits no parameter of the model");
  std::vector<ParameterRule> rules;
  for (const model::Parameter& parameter : decoder.parameters()) {
    const auto found = std::ranges::find(specs, parameter.spec.name, &model::ParameterSpec::name);
    rules.push_back(all[static_cast<std::size_t>(found - specs.begin())]);
  }
  return rules;
}

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

/// Every rank's values, in the order of the ranks; all give equally many.
template <class T>
std::vector<T> gather(comm::Communicator& comm, const std::vector<T>& mine) {
  std::vector<T> all(mine.size() * static_cast<std::size_t>(comm.size()));
  comm.all_gather(bytes_of(mine), std::as_writable_bytes(std::span(all)));
  return all;
}

/// The same where some give more.
template <class T>
std::vector<T> gather_unequal(comm::Communicator& comm, const std::vector<T>& mine) {
  std::vector<T> all;
  const std::span<const std::byte> bytes = bytes_of(mine);
  for (const std::string& theirs :
       comm.all_gather(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()))) {
    const auto* const values = reinterpret_cast<const T*>(theirs.data());
    all.insert(all.end(), values, values + theirs.size() / sizeof(T));
  }
  return all;
}

std::int64_t sum(const std::vector<std::int64_t>& values) {
  std::int64_t total = 0;
  for (const std::int64_t value : values) total += value;
  return total;
}

std::unique_ptr<comm::Collectives> make_axis(comm::Communicator& comm, core::Arena& arena) {
  return comm.size() == 1 ? nullptr : std::make_unique<comm::Collectives>(comm, arena, "data");
}

model::Part part_here(const model::Config& config, const Settings& settings, const Grid& grid) {
  return model::part_of(config, grid.place().tensor, settings.tensor, grid.place().pipeline, settings.pipeline);
}

/// Where blocks' inputs are kept until they are computed again, unless that is the device.
std::unique_ptr<ActivationStore> make_activations(const Trainer::Around& around, const Disk& disk,
                                                  const model::Config& config, const Settings& settings,
                                                  const Lanes& lanes) {
  if (settings.offload.activations == Home::kDevice) return nullptr;
  const comm::Groups::Place& place = around.grid.place();
  Shape shape{settings.micro, settings.sequence, config.hidden};
  if (settings.tensor > 1) {
    const auto rows = comm::even_ranges(settings.micro * settings.sequence, settings.tensor, 1);
    shape = Shape{1, rows[static_cast<std::size_t>(place.tensor)].size(), config.hidden};
  }
  const std::int64_t places =
      kept_inputs(settings.checkpointing(), part_here(config, settings, around.grid).blocks,
                  settings.pipeline - place.pipeline, lanes.lanes_per_rank * lanes.micro_batches);
  return std::make_unique<ActivationStore>(around.stream, around.host, settings.offload.activations, disk,
                                           static_cast<int>(places), settings.compute, shape);
}

std::vector<model::PartSpec> specs_of(const model::Decoder& decoder) {
  return model::part_specs(decoder.config(), decoder.part());
}

}  // namespace

Trainer::Trainer(const Around& around, const model::Config& config, const Settings& settings, const Lanes& lanes,
                 std::uint64_t seed)
    : stream_(around.stream),
      host_(around.host),
      grid_(around.grid),
      comm_(grid_.data()),
      settings_(settings),
      lanes_(lanes),
      seed_(seed),
      profile_(around.profile),
      operation_(around.operation),
      axis_(make_axis(comm_, stream_.arena())),
      disk_{settings.offload.path.empty() ? around.scratch : std::filesystem::path(settings.offload.path), around.log},
      activations_(make_activations(around, disk_, config, settings, lanes)),
      decoder_(stream_, config,
               {.compute = settings.compute,
                .gradients = true,
                .checkpointing = settings.checkpointing(),
                .keeper = this,
                .activations = activations_.get()},
               part_here(config, settings, grid_), grid_.tensor()),
      pipeline_(stream_, decoder_, grid_.stages()),
      shares_(decoder_.units(), specs_of(decoder_), comm_.size()),
      whole_(decoder_.units(), specs_of(decoder_), 1),
      owners_(settings.zero == 0 ? whole_ : shares_),
      owner_(settings.zero == 0 ? 0 : comm_.rank()),
      values_(
          stream_, axis_.get(), decoder_, settings.compute, owners_, owner_,
          {.gathers = settings.zero == 3, .home = settings.offload.parameters, .host = &around.host, .disk = disk_}),
      optimizer_(stream_, decoder_, values_, owners_, owner_, settings.optimizer, rules_of(config, settings, decoder_),
                 {.host = &around.host,
                  .master = settings.offload.master,
                  .optimizer = settings.offload.optimizer,
                  .disk = disk_}),
      gradients_(stream_, axis_.get(), decoder_, owners_, owner_,
                 {.zero = settings.zero,
                  .reduction = settings.reduction,
                  .dtype = settings.gradients,
                  .lanes = lanes,
                  .home = settings.offload.gradients,
                  .host = &around.host,
                  .disk = disk_,
                  .pipeline = &pipeline_}),
      loss_scale_(settings.loss_scale) {
  const Shape shape{settings.micro, settings.sequence};
  losses_ = stream_.arena().tensor(Dtype::kFloat32, shape, Category::kActivations, "loss");
  token_weights_ = stream_.arena().tensor(Dtype::kFloat32, shape, Category::kActivations, "loss");
}

void Trainer::initialise() {
  optimizer_.initialise(seed_);
  values_.changed();
}

void Trainer::load(const weights::Weights& weights) {
  optimizer_.load(weights);
  values_.changed();
}

void Trainer::load(const checkpoint::Checkpoint& checkpoint) {
  optimizer_.load(checkpoint);
  values_.changed();
}

model::Batch Trainer::micro_batch(const data::HostBatch& batch, std::int64_t begin, std::int64_t end) const {
  const auto rows = [&](const ConstTensorView& tensor) {
    return tensor ? tensor.slice(0, begin, end) : ConstTensorView();
  };
  model::Batch micro;
  micro.ids = rows(batch.ids);
  micro.targets = rows(batch.targets);
  micro.positions = rows(batch.positions);
  micro.document_starts = rows(batch.document_starts);
  return micro;
}

/// Of sequences that are the `first` and the following of those that sums are of.
void Trainer::add_losses(Sums& sums, std::int64_t first, const ConstTensorView& losses,
                         const ConstTensorView& targets) const {
  stream_.synchronize();
  const float* const values = losses.data<float>();
  const std::int32_t* const wanted = targets.data<std::int32_t>();
  const std::int64_t length = losses.extent(1);
  for (std::int64_t b = 0; b < losses.extent(0); ++b) {
    double total = 0;
    std::int64_t count = 0;
    for (std::int64_t t = b * length; t < (b + 1) * length; ++t) {
      if (wanted[t] == data::kIgnored) continue;
      total += static_cast<double>(values[t]);
      ++count;
    }
    sums.losses[static_cast<std::size_t>(first + b)] = total;
    sums.targets[static_cast<std::size_t>(first + b)] = count;
  }
}

StepOutcome Trainer::step(const data::HostBatch& mine, std::int64_t first, std::int64_t step, double learning_rate) {
  const loss::CrossEntropy loss{data::kIgnored, settings_.label_smoothing, settings_.z_loss};
  const bool scaled = settings_.compute == Dtype::kFloat16;
  const double scale = scaled ? loss_scale_.scale() : 1;

  StepOutcome outcome;
  {
    const Scope scope(profile_, Phase::kCommunication, "count targets");
    outcome.targets = sum(gather(comm_, std::vector<std::int64_t>{mine.target_count}));
  }
  // The gradient of the mean over the targets of the whole batch, however it is cut.
  const double weight = outcome.targets == 0 ? 0 : scale / static_cast<double>(outcome.targets);
  core::fill(stream_, token_weights_.view, static_cast<float>(weight));

  shown_.clear();
  Sums sums(mine.ids.extent(0));
  add_gradients(sums, mine, first, step, loss);
  std::vector<double> losses;
  BlockSums blocks;
  {
    report("wait for the other ranks' gradients");
    const Scope scope(profile_, Phase::kCommunication, "exchange of gradients");
    gradients_.finish();
    losses = from_last_stage(gather(comm_, sums.losses));
    blocks = block_sums();
  }
  report("optimizer step");
  const Scope scope(profile_, Phase::kOptimizer, "optimizer");
  outcome.loss = outcome.targets == 0 ? 0 : core::tree_sum(losses) / static_cast<double>(outcome.targets);
  outcome.gradient_norm = optimizer::norm_of_blocks(blocks.sums) / scale;
  outcome.not_finite = what_is_not_finite(outcome.loss, losses, blocks);
  if (outcome.is_applied()) {
    double factor = 1 / scale;
    if (settings_.optimizer.clip > 0) {
      factor *= static_cast<double>(optimizer::clip_factor(outcome.gradient_norm, settings_.optimizer.clip));
    }
    optimizer_.apply(++updates_, learning_rate, static_cast<float>(factor), gradients_);
    gradients_.end_step();
    values_.changed();
  } else {
    gradients_.end_step();
  }
  return outcome;
}

/// The forward and backward passes of a step.
void Trainer::add_gradients(Sums& sums, const data::HostBatch& mine, std::int64_t first, std::int64_t step,
                            const loss::CrossEntropy& loss) {
  const std::int64_t lanes = lanes_.lanes_per_rank, micro_batches = lanes_.micro_batches;
  gradients_.begin_step();
  struct Micro {
    std::int64_t lane, index, begin;
  };
  const auto micro = [&](std::int64_t pass) {
    const bool by_lane = settings_.reduction == Reduction::kStep;
    const std::int64_t lane = by_lane ? pass / micro_batches : pass % lanes;
    const std::int64_t index = by_lane ? pass % micro_batches : pass / lanes;
    return Micro{lane, index, (lane * micro_batches + index) * settings_.micro};
  };
  std::optional<Scope> scope;
  model::Pipeline::Work work;
  work.micro_batches = lanes * micro_batches;
  work.losses = losses_.view;
  work.weights = token_weights_.view;
  work.loss = loss;
  work.batch = [&](std::int64_t pass) {
    const std::int64_t begin = micro(pass).begin;
    model::Batch batch = micro_batch(mine, begin, begin + settings_.micro);
    batch.dropout = {seed_, static_cast<std::uint64_t>(step), static_cast<std::uint64_t>(first + begin)};
    return batch;
  };
  work.begin_forward = [&](std::int64_t pass) {
    report("forward pass");
    scope.emplace(profile_, Phase::kForward, "forward",
                  std::initializer_list<telemetry::SpanArgument>{{"sequence", first + micro(pass).begin}});
    values_.begin_pass(true);
  };
  work.forward_done = [&](std::int64_t pass) {
    const std::int64_t begin = micro(pass).begin;
    if (pipeline_.is_last()) {
      add_losses(sums, begin, losses_.view, micro_batch(mine, begin, begin + settings_.micro).targets);
    }
    scope.reset();
  };
  work.begin_backward = [&](std::int64_t pass) {
    if (pass == lanes * micro_batches - 1) optimizer_.prefetch();
    report("backward pass");
    scope.emplace(profile_, Phase::kBackward, "backward",
                  std::initializer_list<telemetry::SpanArgument>{{"sequence", first + micro(pass).begin}});
    gradients_.begin_micro_batch(micro(pass).lane, micro(pass).index);
  };
  work.backward_done = [&](std::int64_t) { scope.reset(); };
  pipeline_.run(work);
}

/// What the last stage has, in all of them.
template <class T>
std::vector<T> Trainer::from_last_stage(std::vector<T> values) {
  const int stages = grid_.groups().pipeline;
  if (stages == 1) return values;
  const std::span<const std::byte> bytes = bytes_of(values);
  const std::string all =
      grid_.stages().broadcast(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()), stages - 1);
  const auto* const begin = reinterpret_cast<const T*>(all.data());
  return std::vector<T>(begin, begin + all.size() / sizeof(T));
}

/// Of this rank's part: of all gradients that are not frozen, in the order of the parameters.
std::vector<double> Trainer::part_block_sums() {
  const std::span<const model::Parameter> parameters = decoder_.parameters();
  std::vector<std::int64_t> first;  // of a parameter's blocks
  std::int64_t blocks = 0;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    first.push_back(blocks);
    if (!optimizer_.rules()[i].frozen) blocks += core::reduction_blocks(parameters[i].cut.shape().elements());
  }
  std::vector<double> mine;
  for (const Segment& segment : optimizer_.segments()) {
    const auto own = static_cast<std::size_t>(core::reduction_blocks(segment.elements()));
    mine.resize(mine.size() + own);
    core::block_sums_of_squares(stream_, std::span(mine).last(own), gradients_.part(segment));
  }
  stream_.synchronize();
  const std::vector<double> gathered = owners_.ranks() == 1 ? mine : gather_unequal(comm_, mine);
  std::vector<double> all(static_cast<std::size_t>(blocks));
  auto next = gathered.begin();
  for (int rank = 0; rank < owners_.ranks(); ++rank) {
    for (const Segment& segment : owners_.segments(rank)) {
      if (optimizer_.rules()[segment.parameter].frozen) continue;
      const std::int64_t own = core::reduction_blocks(segment.elements());
      std::copy_n(next, own, all.begin() + first[segment.parameter] + segment.begin / core::kReductionBlock);
      next += own;
    }
  }
  return all;
}

Trainer::BlockSums Trainer::block_sums() {
  const model::Config& config = decoder_.config();
  const comm::Groups& groups = grid_.groups();
  const std::vector<double> of_parts = gather_unequal(grid_.model(), part_block_sums());
  std::vector<std::string> frozen;
  std::vector<std::string> unused;
  const std::vector<model::ParameterSpec> specs = model::parameter_specs(config);
  const std::vector<ParameterRule> rules = parameter_rules(specs, settings_.optimizer, settings_.freeze, unused);
  for (std::size_t i = 0; i < specs.size(); ++i) {
    if (rules[i].frozen) frozen.push_back(specs[i].name);
  }
  std::vector<BlockSums> of_shares(static_cast<std::size_t>(groups.tensor));
  auto next = of_parts.begin();
  for (int stage = 0; stage < groups.pipeline; ++stage) {
    for (int tensor = 0; tensor < groups.tensor; ++tensor) {
      const model::Part part = model::part_of(config, tensor, groups.tensor, stage, groups.pipeline);
      BlockSums& share = of_shares[static_cast<std::size_t>(tensor)];
      for (const model::PartSpec& one : model::part_specs(config, part)) {
        if (std::ranges::find(frozen, one.spec.name) != frozen.end()) continue;
        const std::int64_t count = core::reduction_blocks(one.cut.shape().elements());
        if (model::is_first_with(config, part, one)) {
          share.sums.insert(share.sums.end(), next, next + count);
          share.parameters.emplace_back(one.spec.name, static_cast<std::size_t>(count));
        }
        next += count;
      }
    }
  }
  BlockSums all;
  for (const BlockSums& share : of_shares) {
    all.sums.insert(all.sums.end(), share.sums.begin(), share.sums.end());
    all.parameters.insert(all.parameters.end(), share.parameters.begin(), share.parameters.end());
  }
  return all;
}

std::string Trainer::what_is_not_finite(double loss, const std::vector<double>& losses, const BlockSums& blocks) {
  if (!std::isfinite(loss)) {
    const auto first = std::find_if(losses.begin(), losses.end(), [](double one) { return !std::isfinite(one); });
    return "the loss of sequence " + std::to_string(first - losses.begin()) + " of the step";
  }
  if (std::isfinite(optimizer::norm_of_blocks(blocks.sums))) return "";
  // Backward passes go through the parameters from the last to the first.
  std::span<const double> left = blocks.sums;
  for (std::size_t i = blocks.parameters.size(); i-- > 0;) {
    const auto& [name, count] = blocks.parameters[i];
    if (!std::isfinite(optimizer::norm_of_blocks(left.last(count)))) return "the gradient of " + name;
    left = left.first(left.size() - count);
  }
  return "the norm of all gradients";
}

double Trainer::evaluate(const data::BatchSource& validation, std::int64_t count) {
  const Scope scope(profile_, Phase::kValidation, "validation");
  const std::int64_t share = (count + comm_.size() - 1) / comm_.size();
  const std::int64_t end = std::min(count, share * (comm_.rank() + 1));
  const std::int64_t start = std::min(count, share * comm_.rank());
  Sums sums(end - start);
  // Passes are as many on every rank: units may have to be gathered from all.
  for (std::int64_t done = 0; done < share; done += settings_.micro) {
    report("validation");
    const std::int64_t begin = start + done;
    const std::int64_t rows = std::min(settings_.micro, end - begin);
    if (rows <= 0) {
      values_.accompany_pass();
      continue;
    }
    const data::HostBatch batch = validation.fetch(static_cast<std::uint64_t>(begin), rows);
    const core::TensorView losses = losses_.view.slice(0, 0, rows);
    values_.begin_pass(false);
    pipeline_.evaluate(losses, micro_batch(batch, 0, rows), {data::kIgnored});
    if (pipeline_.is_last()) add_losses(sums, done, losses, batch.targets);
  }
  report("wait for the other ranks' validation");
  const std::int64_t targets = sum(from_last_stage(gather_unequal(comm_, sums.targets)));
  const std::vector<double> all = from_last_stage(gather_unequal(comm_, sums.losses));
  return targets == 0 ? 0 : core::tree_sum(all) / static_cast<double>(targets);
}

std::vector<checkpoint::Piece> Trainer::pieces() {
  shown_.clear();
  std::vector<checkpoint::Piece> mine = optimizer_.pieces(shares_, comm_.rank());
  if (grid_.groups().tensor > 1) return logical_pieces(mine);
  if (pipeline_.has_other_end() && !pipeline_.is_first()) {
    // The first stage has the embedding too.
    const auto tokens = std::ranges::find(decoder_.parameters(), model::Role::kTokens,
                                          [](const model::Parameter& parameter) { return parameter.spec.role; });
    std::erase_if(mine, [&](const checkpoint::Piece& piece) { return piece.path.ends_with("/" + tokens->spec.name); });
  }
  return mine;
}

/// Of tensors whose parts the ranks of this stage have, `mine` being this rank's: the ranges of them that this rank
/// writes, in the host's memory, or where that has no room on the disk. One tensor is whole at a time.
std::vector<checkpoint::Piece> Trainer::logical_pieces(std::span<const checkpoint::Piece> mine) {
  struct Header {
    std::int64_t begin, end;
  };
  struct Logical {
    std::size_t parameter;
    std::string path;
    Dtype dtype;
    checkpoint::Range range;  // that this rank writes
    std::int64_t bytes() const { return range.elements() * core::bits(dtype) / 8; }
  };
  comm::Communicator& stage = grid_.stage();
  const model::Config& config = decoder_.config();
  std::vector<std::vector<model::PartSpec>> specs;  // by place on the tensor axis
  for (int tensor = 0; tensor < grid_.groups().tensor; ++tensor) {
    model::Part part = decoder_.part();
    part.tensor = tensor;
    specs.push_back(model::part_specs(config, part));
  }
  std::vector<Logical> all;
  std::vector<std::int64_t> sizes;
  for (std::size_t i = 0; i < decoder_.parameters().size(); ++i) {
    const model::ParameterSpec& spec = decoder_.parameters()[i].spec;
    if (spec.role == model::Role::kTokens && decoder_.part().blocks.begin > 0) continue;  // the first stage's
    for (const std::string& path : optimizer_.paths(i)) {
      const Dtype dtype = path.starts_with("parameters/") ? settings_.compute : Dtype::kFloat32;
      all.push_back({i, path, dtype, checkpoint::share_of(spec.shape.elements(), stage.rank(), stage.size())});
      sizes.push_back(all.back().bytes());
    }
  }
  shown_.make(host_, disk_, sizes);
  std::vector<checkpoint::Piece> pieces;
  for (std::size_t number = 0; number < all.size(); ++number) {
    const Logical& one = all[number];
    const core::Shape& shape = decoder_.parameters()[one.parameter].spec.shape;
    const std::int64_t size = core::bits(one.dtype) / 8;
    const auto found = std::ranges::find(mine, one.path, &checkpoint::Piece::path);
    Header header{0, 0};
    if (found != mine.end()) header = {found->begin, found->begin + found->data.elements()};
    std::string message(reinterpret_cast<const char*>(&header), sizeof header);
    if (found != mine.end()) {
      message.resize(sizeof header + static_cast<std::size_t>(found->data.bytes()));
      found->data.read(0, std::as_writable_bytes(std::span(message)).subspan(sizeof header));
    }
    const core::Tensor whole = host_.tensor(one.dtype, shape, Category::kCheckpoint, "checkpoint");
    auto* const to = static_cast<std::byte*>(whole.view.raw());
    const std::vector<std::string> messages = stage.all_gather(message);
    for (std::size_t rank = 0; rank < messages.size(); ++rank) {
      Header theirs{};
      std::memcpy(&theirs, messages[rank].data(), sizeof theirs);
      const char* const from = messages[rank].data() + sizeof theirs;
      specs[rank % specs.size()][one.parameter].cut.for_each_run(
          [&](std::int64_t local, std::int64_t logical, std::int64_t count) {
            const std::int64_t begin = std::max(local, theirs.begin), end = std::min(local + count, theirs.end);
            if (begin >= end) return;
            std::memcpy(to + (logical + begin - local) * size, from + (begin - theirs.begin) * size,
                        static_cast<std::size_t>((end - begin) * size));
          });
    }
    if (one.range.elements() == 0) continue;
    const TensorView share = whole.view.reshaped(Shape{shape.elements()}).slice(0, one.range.begin, one.range.end);
    pieces.push_back({one.path, shape, one.range.begin, shown_.put(stream_, static_cast<int>(number), share)});
  }
  return pieces;
}

void Trainer::restore(const checkpoint::Checkpoint& checkpoint) {
  optimizer_.restore(checkpoint);
}

void Trainer::restored() {
  values_.changed();
}

}  // namespace braise::train
