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

Tensor Decoder::State::embed(const Batch& batch) {
  const Shape shape{batch.ids.extent(0), batch.ids.extent(1), config.hidden};
  Tensor x = activation(shape, "embedding");
  const auto scale = static_cast<float>(config.embedding_scale);
  need_values(units.tokens, {});
  if (positions) need_values(units.positions, {});
  if (positions) {
    Tensor own;
    const ConstTensorView ids = position_ids(batch, own);
    embedding::embedding_forward(stream, x.view, batch.ids, tokens.value.view, ids, positions.value.view, scale);
  } else {
    embedding::embedding_forward(stream, x.view, batch.ids, tokens.value.view, {}, {}, scale);
  }
  if (positions) values_used(units.positions);
  values_used(units.tokens);
  if (drops(batch, config.embedding_dropout)) {
    drop(x.view, x.view, batch, config.embedding_dropout, 0, Site::kEmbedding, Accumulate::kOverwrite);
  }
  return x;
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

Tensor Decoder::State::run_blocks(const Batch& batch, bool keep) {
  need_rope(batch);
  saved.clear();
  saved.resize(blocks.size());
  Tensor x = embed(batch);
  const Packs packs{.forward = true, .backward = false};
  for (std::size_t layer = 0; layer < blocks.size(); ++layer) {
    Saved& s = saved[layer];
    s.input = std::move(x);
    need_values(unit_of(layer), packs);
    x = forward_block(s, batch, layer);
    values_used(unit_of(layer));
    if (!keep) {
      s = {};
    } else if (recomputed(layer)) {
      Tensor input = std::move(s.input);
      s = {};
      s.input = std::move(input);
    } else if (settings.checkpointing.kind == Checkpointing::Kind::kAttention) {
      s.attended = {};
      s.log_sums = {};
    }
  }
  return x;
}

Decoder::Decoder(core::Stream& stream, const Config& config, const DecoderSettings& settings)
    : state_(std::make_unique<State>(stream, config, settings)) {
  core::require(core::is_float(settings.compute), "a decoder", "must compute in fp32, bf16 or fp16");
  core::require(settings.checkpointing.every >= 1, "a decoder", "must checkpoint every block, or every second, ...");
  state_->make_parameters();
}

Decoder::~Decoder() = default;

const Config& Decoder::config() const {
  return state_->config;
}

core::Dtype Decoder::compute() const {
  return state_->settings.compute;
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

void Decoder::logits(const TensorView& logits, const Batch& batch) {
  State& s = *state_;
  s.check(batch, false);
  core::require_tensor("logits", "logits", logits, Dtype::kFloat32,
                       Shape{batch.ids.extent(0), batch.ids.extent(1), s.config.vocabulary});
  const Tensor x = s.run_blocks(batch, false);
  const Tensor normed = s.activation(x.view.shape(), "final norm");
  Statistics statistics;
  s.need_end({.forward = true, .backward = false});
  s.norm(normed.view, statistics, x.view, s.final_norm, "final norm");
  linear::matmul(s.stream, logits, normed.view, s.packed_head);
  s.cap(logits);
  s.end_used();
}

void Decoder::extend(const TensorView& logits, const ConstTensorView& ids, KvCache& cache,
                     std::span<const Extension> extensions) {
  constexpr const char* kName = "extend";
  State& s = *state_;
  std::vector<std::int32_t> positions = cache.positions_of(extensions);
  const auto rows = std::ssize(positions);
  const auto ends = std::ssize(extensions);
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
  const Tensor x = s.run_blocks(batch, false);
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

void Decoder::State::compute_losses(const TensorView& losses, const Batch& batch, const loss::CrossEntropy& loss,
                                    bool keep) {
  check(batch, true);
  core::require_tensor("forward", "losses", losses, Dtype::kFloat32, batch.ids.shape());
  core::require(losses.contiguous(), "forward", "losses is not contiguous");
  const std::int64_t rows = batch.ids.elements();
  last = run_blocks(batch, keep);
  final_normed = activation(last.view.shape(), "final norm");
  need_end({.forward = true, .backward = keep});
  norm(final_normed.view, final_statistics, last.view, final_norm, "final norm");
  loss_log_sums = activation(Shape{rows}, Dtype::kFloat32, "loss");
  loss::linear_cross_entropy_forward(stream, losses.reshaped(Shape{rows}), loss_log_sums.view,
                                     final_normed.view.as_rows(), packed_head, batch.targets.reshaped(Shape{rows}),
                                     capped(loss));
  if (keep) return;  // the backward pass begins with the end
  end_used();
  last = {};
  final_statistics = {};
  final_normed = {};
  loss_log_sums = {};
}

void Decoder::forward(const TensorView& losses, const Batch& batch, const loss::CrossEntropy& settings) {
  state_->compute_losses(losses, batch, settings, state_->settings.gradients);
}

void Decoder::evaluate(const TensorView& losses, const Batch& batch, const loss::CrossEntropy& settings) {
  state_->compute_losses(losses, batch, settings, false);
}

void Decoder::backward(const ConstTensorView& weights, const Batch& batch, const loss::CrossEntropy& settings) {
  State& s = *state_;
  core::require(s.settings.gradients, "backward", "the decoder has no gradients");
  core::require(static_cast<bool>(s.last.view), "backward", "there was no forward pass before");
  s.check(batch, true);
  core::require_tensor("backward", "weights", weights, Dtype::kFloat32, batch.ids.shape());
  core::require(weights.contiguous(), "backward", "weights is not contiguous");
  const std::int64_t rows = batch.ids.elements();
  Tensor dx = s.activation(s.last.view.shape(), "gradient");
  {
    const Tensor d_normed = s.activation(s.last.view.shape(), "final norm gradient");
    if (s.config.tied) s.need_gradients(s.units.tied_head);
    s.need_gradients(s.units.end);
    loss::linear_cross_entropy_backward(s.stream, d_normed.view.as_rows(), s.head_gradient(),
                                        weights.reshaped(Shape{rows}), s.loss_log_sums.view,
                                        s.final_normed.view.as_rows(), s.packed_head, s.head_value().value.view,
                                        batch.targets.reshaped(Shape{rows}), s.capped(settings));
    s.final_normed = {};
    s.loss_log_sums = {};
    s.norm_backward(dx.view, d_normed.view, s.last.view, s.final_statistics, s.final_norm, Accumulate::kOverwrite);
    s.last = {};
    s.final_statistics = {};
    s.gradients_added(s.units.end);
    if (s.config.tied) s.gradients_added(s.units.tied_head);
    s.end_used();
  }
  for (std::size_t layer = s.blocks.size(); layer-- > 0;) {
    Saved& saved = s.saved[layer];
    const int unit = s.unit_of(layer);
    s.need_values(unit, {.forward = s.recomputed(layer), .backward = true});
    if (s.recomputed(layer)) s.forward_block(saved, batch, layer);
    s.need_gradients(unit);
    dx = s.backward_block(saved, std::move(dx), batch, layer);
    s.gradients_added(unit);
    s.values_used(unit);
  }
  if (s.drops(batch, s.config.embedding_dropout)) {
    s.drop(dx.view, dx.view, batch, s.config.embedding_dropout, 0, Site::kEmbedding, Accumulate::kOverwrite);
  }
  const auto scale = static_cast<float>(s.config.embedding_scale);
  s.need_gradients(s.units.tokens);
  if (s.positions) {
    s.need_gradients(s.units.positions);
    Tensor own;
    const ConstTensorView ids = s.position_ids(batch, own);
    embedding::embedding_backward(s.stream, s.tokens.gradient.view, s.positions.gradient.view, dx.view, batch.ids, ids,
                                  scale);
  } else {
    embedding::embedding_backward(s.stream, s.tokens.gradient.view, {}, dx.view, batch.ids, {}, scale);
  }
  if (s.positions) s.gradients_added(s.units.positions);
  s.gradients_added(s.units.tokens);
}

void Decoder::finish_gradients() {
  State& s = *state_;
  if (!s.config.tied) return;
  core::add(s.stream, s.tokens.gradient.view, s.tied_head.gradient.view);
}

}  // namespace braise::model
