// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/model/decoder.h"

#include <algorithm>

#include "kernels/core/add.h"
#include "kernels/core/copy.h"
#include "kernels/core/error.h"
#include "kernels/core/soft_cap.h"
#include "kernels/embedding/embedding.h"
#include "stages/shared/model/decoder_state.h"

namespace braise::model {
namespace {

using core::Accumulate;
using core::ConstTensorView;
using core::Dtype;
using core::Shape;
using core::Tensor;
using core::TensorView;

}  // namespace

void Decoder::State::check(const Batch& batch, bool targets) const {
  constexpr const char* kName = "a batch";
  core::require(batch.ids && batch.ids.rank() == 2, kName, "ids must be [B, T]");
  const Shape& shape = batch.ids.shape();
  const auto check_one = [&](const char* name, const ConstTensorView& tensor) {
    core::require_tensor(kName, name, tensor, Dtype::kInt32, shape);
    core::require(tensor.contiguous(), kName, "a tensor of it is not contiguous");
  };
  check_one("ids", batch.ids);
  if (targets) check_one("targets", batch.targets);
  if (batch.positions) check_one("positions", batch.positions);
  if (batch.document_starts) check_one("document_starts", batch.document_starts);
  if (shape[1] > config.positions && !config.rope) {
    throw core::Error("a batch: sequences of " + std::to_string(shape[1]) + " tokens, but the model has " +
                      std::to_string(config.positions) + " positions");
  }
}

void Decoder::State::need_rope(const Batch& batch) {
  if (!config.rope) return;
  std::int64_t most = batch.ids.extent(1);
  if (batch.positions) {
    most = 0;
    const std::int32_t* const values = batch.positions.data<std::int32_t>();
    for (std::int64_t i = 0; i < batch.positions.elements(); ++i) most = std::max<std::int64_t>(most, values[i] + 1);
  }
  need_rope(most);
}

void Decoder::State::need_rope(std::int64_t most) {
  // Only the table of a dynamic scaling depends on its length, beyond the positions of its first training.
  const auto* const dynamic = std::get_if<attention::DynamicNtkScaling>(&config.rope->scaling);
  const auto own = [&](std::int64_t length) { return dynamic != nullptr && length > dynamic->original_positions; };
  if (own(most) || own(rope_positions) ? most == rope_positions : most <= rope_positions) return;
  rope = attention::make_rope_table(stream, *config.rope, most);
  if (config.local_rope) local_rope = attention::make_rope_table(stream, *config.local_rope, most);
  rope_positions = most;
}

ConstTensorView Decoder::State::position_ids(const Batch& batch, Tensor& own) const {
  if (batch.positions) return batch.positions;
  own = activation(batch.ids.shape(), Dtype::kInt32, "embedding");
  std::int32_t* const values = own.view.data<std::int32_t>();
  const std::int64_t length = batch.ids.extent(1);
  for (std::int64_t i = 0; i < batch.ids.elements(); ++i) values[i] = static_cast<std::int32_t>(i % length);
  return own.view;
}

Tensor Decoder::State::embed(const Batch& batch) const {
  const auto scale = static_cast<float>(config.embedding_scale);
  Tensor own;
  Tensor x = activation(stream_shape(batch), "embedding");
  need_values(units.tokens, {});
  if (positions) need_values(units.positions, {});
  ConstTensorView places, table;
  // Of the ranks that share the table one adds the positions.
  if (positions && (axis == nullptr || axis->rank() == 0)) {
    places = position_ids(batch, own);
    table = positions.value.view;
  }
  if (axis == nullptr) {
    embedding::embedding_forward(stream, x.view, batch.ids, tokens.value.view, places, table, scale);
  } else {
    Tensor terms =
        activation(Shape{batch.ids.extent(0), batch.ids.extent(1), config.hidden}, Dtype::kFloat32, "embedding terms");
    embedding::embedding_forward(stream, terms.view, batch.ids, tokens.value.view, places, table, scale, vocabulary());
    core::copy(stream, x.view, axis->scatter_sum(std::move(terms), "embedding").wait().view);
  }
  if (positions) values_used(units.positions);
  values_used(units.tokens);
  if (drops(batch, config.embedding_dropout)) {
    drop(x.view, x.view, batch, config.embedding_dropout, 0, Site::kEmbedding, Accumulate::kOverwrite);
  }
  return x;
}

void Decoder::State::embed_backward(Tensor dx, const Batch& batch) const {
  if (drops(batch, config.embedding_dropout)) {
    drop(dx.view, dx.view, batch, config.embedding_dropout, 0, Site::kEmbedding, Accumulate::kOverwrite);
  }
  TensorAxis::Gathered all = gather(dx.view, batch, "embedding gradient");
  need_gradients(units.tokens);
  if (positions) need_gradients(units.positions);
  Tensor own;
  ConstTensorView places;
  if (positions) places = position_ids(batch, own);
  embedding::embedding_backward(stream, tokens.gradient.view, positions.gradient.view, all.wait(), batch.ids, places,
                                static_cast<float>(config.embedding_scale), vocabulary());
  if (positions) gradients_added(units.positions);
  gradients_added(units.tokens);
}

/// What follows the blocks; a tied head is the embedding.
void Decoder::State::need_end(const Packs& packs) const {
  if (config.tied) need_values(units.tokens, packs);
  need_values(units.end, packs);
}

void Decoder::State::end_used() const {
  values_used(units.end);
  if (config.tied) values_used(units.tokens);
}

void Decoder::State::cap(const TensorView& logits) const {
  if (config.logit_cap > 0) core::soft_cap(stream, logits, static_cast<float>(config.logit_cap));
}

loss::CrossEntropy Decoder::State::capped(loss::CrossEntropy loss) const {
  loss.logit_cap = static_cast<float>(config.logit_cap);
  return loss;
}

Tensor Decoder::State::run_blocks(const Batch& batch, Tensor input, Pass::Kept* kept) {
  need_rope(batch);
  if (kept != nullptr) {
    kept->saved.resize(blocks.size());
    kept->inputs.assign(blocks.size(), -1);
  }
  const Packs packs{.forward = true, .backward = false};
  Tensor x = embeds() ? embed(batch) : std::move(input);
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const std::size_t layer = static_cast<std::size_t>(part.blocks.begin) + i;
    Saved s;
    s.input = std::move(x);
    need_values(unit_of(layer), packs);
    x = forward_block(s, batch, layer);
    values_used(unit_of(layer));
    if (kept == nullptr) continue;
    if (recomputed(layer) && settings.activations != nullptr) {
      kept->inputs[i] = settings.activations->keep(std::move(s.input));
      continue;
    }
    if (recomputed(layer)) {
      kept->saved[i].input = std::move(s.input);
      continue;
    }
    if (settings.checkpointing.kind == Checkpointing::Kind::kAttention) {
      s.attended = {};
      s.log_sums = {};
    }
    kept->saved[i] = std::move(s);
  }
  return x;
}

void Decoder::State::fetch_input(const Pass::Kept& kept, std::size_t end) const {
  while (end-- > 0) {
    if (kept.inputs[end] >= 0) return settings.activations->fetch(kept.inputs[end]);
  }
}

Decoder::Decoder(core::Stream& stream, const Config& config, const DecoderSettings& settings)
    : state_(std::make_unique<State>(stream, config, settings, whole_of(config))) {
  state_->make();
}

Decoder::Decoder(core::Stream& stream, const Config& config, const DecoderSettings& settings, const Part& part,
                 comm::Communicator& tensor)
    : state_(std::make_unique<State>(stream, config, settings, part)) {
  core::require(part.tensor_width == tensor.size() && part.tensor == tensor.rank(), "a decoder",
                "must be the part of its place among the ranks that share it");
  core::require(part.blocks.begin >= 0 && part.blocks.size() > 0 && part.blocks.end <= config.layers, "a decoder",
                "must have blocks of the model");
  const std::vector<SplitProblem> problems = split_problems(config, part.tensor_width, 1);
  if (!problems.empty()) {
    throw core::Error("a decoder: " + problems.front().axis + " " + problems.front().problem + "; " +
                      problems.front().remedy);
  }
  if (part.tensor_width > 1) {
    state_->axis = std::make_unique<TensorAxis>(tensor, stream, state_->shares.kv_copies);
  }
  state_->make();
}

void Decoder::State::make() {
  core::require(core::is_float(settings.compute), "a decoder", "must compute in fp32, bf16 or fp16");
  core::require(settings.checkpointing.every >= 1, "a decoder", "must checkpoint every block, or every second, ...");
  make_parameters();
}

Decoder::~Decoder() = default;

Decoder::Pass::Pass() = default;
Decoder::Pass::~Pass() = default;
Decoder::Pass::Pass(Pass&&) noexcept = default;
Decoder::Pass& Decoder::Pass::operator=(Pass&&) noexcept = default;

const Config& Decoder::config() const {
  return state_->config;
}

core::Dtype Decoder::compute() const {
  return state_->settings.compute;
}

const Part& Decoder::part() const {
  return state_->part;
}

std::span<const Parameter> Decoder::parameters() const {
  return state_->parameters;
}

const Units& Decoder::units() const {
  return state_->units;
}

std::span<const TensorView> Decoder::accumulators() const {
  return state_->accumulators;
}

Shape Decoder::stream_shape(const Batch& batch) const {
  return state_->stream_shape(batch);
}

void Decoder::logits(const TensorView& logits, const Batch& batch) {
  State& s = *state_;
  s.check(batch, false);
  core::require(s.is_whole(), "logits", "the decoder has not all blocks");
  const Shape shape{batch.ids.extent(0), batch.ids.extent(1), s.config.vocabulary};
  core::require_tensor("logits", "logits", logits, Dtype::kFloat32, shape);
  const Tensor x = s.run_blocks(batch, {}, nullptr);
  const Tensor normed = s.activation(x.view.shape(), "final norm");
  Statistics statistics;
  s.need_end({.forward = true, .backward = false});
  s.norm(normed.view, statistics, x.view, s.final_norm, "final norm");
  if (s.axis == nullptr) {
    linear::matmul(s.stream, logits, normed.view, s.packed_head);
  } else {
    s.share_logits(logits, normed.view, batch);
  }
  s.cap(logits);
  s.end_used();
}

void Decoder::State::share_logits(const TensorView& logits, const ConstTensorView& normed, const Batch& batch) const {
  // Ranks have columns, of widths that may differ by one: the widest goes around.
  const std::int64_t rows = batch.ids.elements();
  const std::int64_t width = axis->width();
  const std::int64_t widest = (config.vocabulary + width - 1) / width;
  const Tensor all = activation(Shape{width, rows, widest}, Dtype::kFloat32, "logits");
  const TensorView mine = all.view.select(0, axis->rank());
  core::fill(stream, mine, 0);
  linear::matmul(stream, mine.slice(1, 0, shares.vocabulary.size()), gather(normed, batch, "logits").wait().as_rows(),
                 packed_head);
  axis->exchange(mine, all.view);
  for (int rank = 0; rank < width; ++rank) {
    const Extent columns = shares_of(config, {rank, part.tensor_width, part.blocks}).vocabulary;
    core::copy(stream, logits.as_rows().slice(1, columns.begin, columns.end),
               all.view.select(0, rank).slice(1, 0, columns.size()));
  }
}

void Decoder::extend(const TensorView& logits, const ConstTensorView& ids, KvCache& cache,
                     std::span<const Extension> extensions) {
  constexpr const char* kName = "extend";
  State& s = *state_;
  std::vector<std::int32_t> positions = cache.positions_of(extensions);
  const auto rows = std::ssize(positions);
  const auto ends = std::ssize(extensions);
  core::require(s.is_whole() && s.axis == nullptr, kName, "the decoder has not all of the model");
  core::require(cache.fits(s.config, s.settings.compute), kName, "the cache is not of this model and dtype");
  core::require_tensor(kName, "ids", ids, Dtype::kInt32, Shape{rows});
  core::require(ids.contiguous(), kName, "ids is not contiguous");
  core::require_tensor(kName, "logits", logits, Dtype::kFloat32, Shape{ends, s.config.vocabulary});
  core::require(logits.contiguous(), kName, "logits is not contiguous");
  if (ends == 0) return;
  if (s.config.rope) {
    const auto* const dynamic = std::get_if<attention::DynamicNtkScaling>(&s.config.rope->scaling);
    if (dynamic != nullptr && cache.positions() > dynamic->original_positions) {
      throw core::Error("dynamic rotary scaling turns all keys anew as a sequence grows beyond " +
                        std::to_string(dynamic->original_positions) +
                        " positions, which a cache cannot; it has room for " + std::to_string(cache.positions()));
    }
    s.need_rope(cache.positions());  // once, not as the sequences grow
  }

  Batch batch;
  batch.ids = ids.reshaped(Shape{1, rows});
  batch.positions = ConstTensorView(positions.data(), Dtype::kInt32, Shape{1, rows});
  struct Extending {
    State& state;
    ~Extending() {
      state.cache = nullptr;
      state.extensions = {};
    }
  };
  s.cache = &cache;
  s.extensions = extensions;
  const Extending until_the_end{s};
  const Tensor x = s.run_blocks(batch, {}, nullptr);
  const Tensor last = s.activation(Shape{1, ends, s.config.hidden}, "final norm");
  std::int64_t row = 0;
  for (std::int64_t i = 0; i < ends; ++i) {
    row += extensions[static_cast<std::size_t>(i)].tokens;
    core::copy(s.stream, last.view.slice(1, i, i + 1), x.view.slice(1, row - 1, row));
  }
  const Tensor normed = s.activation(last.view.shape(), "final norm");
  Statistics statistics;
  s.need_end({.forward = true, .backward = false});
  s.norm(normed.view, statistics, last.view, s.final_norm, "final norm");
  linear::matmul(s.stream, logits.reshaped(Shape{1, ends, s.config.vocabulary}), normed.view, s.packed_head);
  s.cap(logits);
  s.end_used();
  cache.advance(extensions);
}

void Decoder::State::compute_losses(Pass::Kept& kept, const TensorView& losses, const Batch& batch,
                                    const loss::CrossEntropy& loss, bool keep) const {
  const std::int64_t rows = batch.ids.elements();
  const ConstTensorView targets = batch.targets.reshaped(Shape{rows});
  kept.final_normed = activation(kept.last.view.shape(), "final norm");
  need_end({.forward = true, .backward = keep});
  norm(kept.final_normed.view, kept.final_statistics, kept.last.view, final_norm, "final norm");
  kept.loss_log_sums = activation(Shape{rows}, Dtype::kFloat32, "loss");
  if (axis == nullptr) {
    return loss::linear_cross_entropy_forward(stream, losses.reshaped(Shape{rows}), kept.loss_log_sums.view,
                                              kept.final_normed.view.as_rows(), packed_head, targets, capped(loss));
  }
  const Tensor partials = activation(Shape{axis->width(), rows, loss::kPartials}, Dtype::kFloat32, "loss");
  const TensorView mine = partials.view.select(0, axis->rank());
  loss::partial_cross_entropy(stream, mine, gather(kept.final_normed.view, batch, "loss").wait().as_rows(), packed_head,
                              targets, capped(loss), vocabulary());
  axis->exchange(mine, partials.view);
  loss::combine_cross_entropy(stream, losses.reshaped(Shape{rows}), kept.loss_log_sums.view, partials.view, targets,
                              capped(loss), config.vocabulary);
}

Tensor Decoder::State::losses_backward(Pass::Kept& kept, const ConstTensorView& weights, const Batch& batch,
                                       const loss::CrossEntropy& loss) {
  const std::int64_t rows = batch.ids.elements();
  Tensor dx = activation(kept.last.view.shape(), "gradient");
  const auto go_back = [&](const TensorView& d_normed, const ConstTensorView& normed) {
    loss::linear_cross_entropy_backward(stream, d_normed.as_rows(), head_gradient(), weights.reshaped(Shape{rows}),
                                        kept.loss_log_sums.view, normed.as_rows(), packed_head, head_value().value.view,
                                        batch.targets.reshaped(Shape{rows}), capped(loss), vocabulary());
  };
  const int head_unit = !config.tied ? units.end : embeds() ? units.tied_head : units.tokens;
  if (head_unit != units.end) need_gradients(head_unit);
  need_gradients(units.end);
  begin_shares(units.end);
  Tensor d_normed;
  if (axis == nullptr) {
    d_normed = activation(kept.last.view.shape(), "final norm gradient");
    go_back(d_normed.view, kept.final_normed.view);
  } else {
    Tensor terms = activation(Shape{batch.ids.extent(0), batch.ids.extent(1), config.hidden}, Dtype::kFloat32,
                              "final norm gradient");
    go_back(terms.view, gather(kept.final_normed.view, batch, "loss").wait());
    d_normed = axis->scatter_sum(std::move(terms), "final norm gradient").wait();
  }
  kept.final_normed = {};
  kept.loss_log_sums = {};
  norm_backward(dx.view, d_normed.view, kept.last.view, kept.final_statistics, final_norm, Accumulate::kOverwrite);
  kept.last = {};
  kept.final_statistics = {};
  add_shares(units.end);
  gradients_added(units.end);
  if (head_unit != units.end) gradients_added(head_unit);
  end_used();
  return dx;
}

Tensor Decoder::forward_part(Pass* pass, Tensor input, const TensorView& losses, const Batch& batch,
                             const loss::CrossEntropy& settings) {
  constexpr const char* kName = "forward";
  State& s = *state_;
  s.check(batch, s.has_head());
  core::require(pass == nullptr || s.settings.gradients, kName, "the decoder has no gradients");
  core::require(static_cast<bool>(input.view) != s.embeds(), kName, "the stream comes from the part before, if any");
  if (input.view) core::require_tensor(kName, "input", input.view, s.settings.compute, s.stream_shape(batch));
  core::require(static_cast<bool>(losses) == s.has_head(), kName, "losses are of the part with the head");
  if (losses) {
    core::require_tensor(kName, "losses", losses, Dtype::kFloat32, batch.ids.shape());
    core::require(losses.contiguous(), kName, "losses is not contiguous");
  }
  auto kept = std::make_unique<Pass::Kept>();
  Tensor x = s.run_blocks(batch, std::move(input), pass != nullptr ? kept.get() : nullptr);
  if (s.has_head()) {
    kept->last = std::move(x);
    x = {};
    s.compute_losses(*kept, losses, batch, settings, pass != nullptr);
    if (pass == nullptr) s.end_used();  // a backward pass begins with the end
  }
  if (pass != nullptr) pass->kept_ = std::move(kept);
  return x;
}

Tensor Decoder::backward_part(Pass& pass, Tensor d_output, const ConstTensorView& weights, const Batch& batch,
                              const loss::CrossEntropy& settings) {
  constexpr const char* kName = "backward";
  State& s = *state_;
  core::require(s.settings.gradients, kName, "the decoder has no gradients");
  core::require(pass.kept_ != nullptr, kName, "there was no forward pass before");
  s.check(batch, s.has_head());
  core::require(static_cast<bool>(weights) == s.has_head(), kName, "weights of losses are of the part with the head");
  core::require(static_cast<bool>(d_output.view) != s.has_head(), kName,
                "the stream's gradient comes from the part after, if any");
  if (d_output.view) core::require_tensor(kName, "d_output", d_output.view, s.settings.compute, s.stream_shape(batch));
  if (weights) {
    core::require_tensor(kName, "weights", weights, Dtype::kFloat32, batch.ids.shape());
    core::require(weights.contiguous(), kName, "weights is not contiguous");
  }
  const std::unique_ptr<Pass::Kept> kept = std::move(pass.kept_);
  s.fetch_input(*kept, s.blocks.size());
  Tensor dx = s.has_head() ? s.losses_backward(*kept, weights, batch, settings) : std::move(d_output);
  for (std::size_t i = s.blocks.size(); i-- > 0;) {
    const std::size_t layer = static_cast<std::size_t>(s.part.blocks.begin) + i;
    Saved& saved = kept->saved[i];
    const int unit = s.unit_of(layer);
    s.need_values(unit, {.forward = s.recomputed(layer), .backward = true});
    if (kept->inputs[i] >= 0) {
      saved.input = s.settings.activations->take(kept->inputs[i]);
      s.fetch_input(*kept, i);
    }
    if (s.recomputed(layer)) s.forward_block(saved, batch, layer);
    s.need_gradients(unit);
    s.begin_shares(unit);
    dx = s.backward_block(saved, std::move(dx), batch, layer);
    s.add_shares(unit);
    s.gradients_added(unit);
    s.values_used(unit);
  }
  if (s.embeds()) {
    s.embed_backward(std::move(dx), batch);
    dx = {};
  }
  return dx;
}

void Decoder::forward(const TensorView& losses, const Batch& batch, const loss::CrossEntropy& settings) {
  state_->pass = {};
  forward_part(state_->settings.gradients ? &state_->pass : nullptr, {}, losses, batch, settings);
}

void Decoder::evaluate(const TensorView& losses, const Batch& batch, const loss::CrossEntropy& settings) {
  forward_part(nullptr, {}, losses, batch, settings);
}

void Decoder::backward(const ConstTensorView& weights, const Batch& batch, const loss::CrossEntropy& settings) {
  backward_part(state_->pass, {}, weights, batch, settings);
}

void Decoder::finish_gradients() {
  State& s = *state_;
  if (s.config.tied && s.is_whole()) core::add(s.stream, s.tokens.gradient.view, s.tied_head.gradient.view);
}

}  // namespace braise::model
