// SPDX-License-Identifier: Apache-2.0
#include <array>

#include "kernels/activation/activation.h"
#include "kernels/activation/gated.h"
#include "kernels/core/add.h"
#include "kernels/core/column_sums.h"
#include "kernels/core/copy.h"
#include "kernels/norm/layer_norm.h"
#include "kernels/norm/rms_norm.h"
#include "stages/shared/model/decoder_state.h"

namespace braise::model {
namespace {

using core::Accumulate;
using core::ConstTensorView;
using core::Dtype;
using core::RandomStream;
using core::Shape;
using core::Tensor;
using core::TensorView;
using linear::Epilogue;

}  // namespace

void Decoder::State::norm(const TensorView& y, Statistics& statistics, const ConstTensorView& x,
                          const NormParameters& with, const std::string& owner) const {
  const Shape rows{x.extent(0), x.extent(1)};
  const auto epsilon = static_cast<float>(config.norm_epsilon);
  statistics.inverse_std = activation(rows, Dtype::kFloat32, owner);
  if (config.norm == Norm::kLayer) {
    statistics.mean = activation(rows, Dtype::kFloat32, owner);
    norm::layer_norm_forward(stream, y, statistics.mean.view, statistics.inverse_std.view, x, with.weight.value.view,
                             with.bias.value.view, epsilon);
  } else {
    norm::rms_norm_forward(stream, y, statistics.inverse_std.view, x, with.weight.value.view, epsilon,
                           static_cast<float>(config.norm_offset));
  }
}

void Decoder::State::norm_backward(const TensorView& dx, const ConstTensorView& dy, const ConstTensorView& x,
                                   const Statistics& statistics, const NormParameters& with,
                                   Accumulate accumulate) const {
  if (config.norm == Norm::kLayer) {
    norm::layer_norm_backward(stream, dx, with.weight.gradient.view, with.bias.gradient.view, dy, x,
                              statistics.mean.view, statistics.inverse_std.view, with.weight.value.view, accumulate);
  } else {
    norm::rms_norm_backward(stream, dx, with.weight.gradient.view, dy, x, statistics.inverse_std.view,
                            with.weight.value.view, accumulate, static_cast<float>(config.norm_offset));
  }
}

void Decoder::State::multiply(const TensorView& y, const ConstTensorView& x, const Linear& linear,
                              const ConstTensorView& residual) const {
  Epilogue epilogue;
  if (linear.bias) epilogue.bias = linear.bias.value.view;
  epilogue.residual = residual;
  linear::matmul(stream, y, x, linear.forward, epilogue);
}

void Decoder::State::multiply_backward(const TensorView& dx, const ConstTensorView& dy, const ConstTensorView& x,
                                       const Linear& linear) const {
  linear::matmul(stream, dx, dy, linear.backward);
  Epilogue add;
  add.accumulate = Accumulate::kAdd;
  const ConstTensorView rows = x.as_rows();
  const ConstTensorView d_rows = dy.as_rows();
  const TensorView& gradient = linear.weight.gradient.view;
  if (linear.outputs_first) {
    linear::matmul(stream, gradient, d_rows.transposed(0, 1), rows, add);
  } else {
    linear::matmul(stream, gradient, rows.transposed(0, 1), d_rows, add);
  }
  if (linear.bias) core::add_column_sums(stream, linear.bias.gradient.view, d_rows);
}

void Decoder::State::add_product(const TensorView& y, const ConstTensorView& input, const ConstTensorView& x,
                                 const Linear& linear, const Batch& batch, std::size_t layer, Site site) const {
  if (!drops(batch, config.residual_dropout)) return multiply(y, x, linear, input);
  const Tensor product = activation(y.shape(), "dropout");
  multiply(product.view, x, linear);
  core::copy(stream, y, input);
  drop(y, product.view, batch, config.residual_dropout, layer, site, Accumulate::kAdd);
}

void Decoder::State::add_normed_product(const TensorView& y, const ConstTensorView& input, const ConstTensorView& x,
                                        const Linear& linear, const NormParameters& with, Tensor& added,
                                        Statistics& statistics, const std::string& owner) const {
  added = activation(y.shape(), owner + " norm");
  multiply(added.view, x, linear);
  norm(y, statistics, added.view, with, owner + " norm");
  core::add(stream, y, input);
}

Decoder::State::Heads Decoder::State::heads(const Saved& s) const {
  if (config.qkv_by_head) {
    const TensorView& rows = s.qkv.view;
    const auto every_third = [&](std::int64_t first) {
      const TensorView from = rows.slice(2, first * config.head_size, rows.extent(2));
      const Shape shape{rows.extent(0), rows.extent(1), config.heads, config.head_size};
      const std::array<std::int64_t, 4> strides{rows.stride(0), rows.stride(1), 3 * config.head_size, 1};
      return TensorView(from.raw(), rows.dtype(), shape, strides, rows.device());
    };
    return {every_third(0), every_third(1), every_third(2)};
  }
  const TensorView all = as_heads(s.qkv.view, config.heads + 2 * config.kv_heads);
  const TensorView v = all.slice(2, config.heads + config.kv_heads, config.heads + 2 * config.kv_heads);
  const TensorView qk = s.qk.view ? as_heads(s.qk.view, config.heads + config.kv_heads) : all;
  return {qk.slice(2, 0, config.heads), qk.slice(2, config.heads, config.heads + config.kv_heads), v};
}

TensorView Decoder::State::norm_rows(const TensorView& heads) const {
  if (!config.qk_norm_whole) return heads;
  const std::array<std::int64_t, 3> strides{heads.stride(0), heads.stride(1), 1};
  const Shape shape{heads.extent(0), heads.extent(1), heads.extent(2) * heads.extent(3)};
  return TensorView(heads.raw(), heads.dtype(), shape, strides, heads.device());
}

attention::Mask Decoder::State::mask(const Batch& batch, std::size_t layer) const {
  attention::Mask mask;
  if (config.has_window(static_cast<std::int64_t>(layer))) mask.window = *config.window;
  mask.document_starts = batch.document_starts;
  mask.score_cap = static_cast<float>(config.score_cap);
  return mask;
}

std::vector<RandomStream> Decoder::State::attention_streams(const Batch& batch, std::size_t layer) const {
  std::vector<RandomStream> streams;
  if (!drops(batch, config.attention_dropout)) return streams;
  for (std::int64_t b = 0; b < batch.ids.extent(0); ++b) streams.push_back(random(batch, b, layer, Site::kAttention));
  return streams;
}

void Decoder::State::attend(Saved& s, const Batch& batch, std::size_t layer, const std::string& owner) const {
  const std::int64_t sequences = batch.ids.extent(0);
  const std::int64_t length = batch.ids.extent(1);
  s.attended = activation(Shape{sequences, length, q_size()}, owner);
  if (cache != nullptr) {
    const Heads h = heads(s);
    return cache->attend(stream, static_cast<std::int64_t>(layer), extensions, as_heads(s.attended.view, config.heads),
                         h.q, h.k, h.v, static_cast<float>(config.attention_scale), mask(batch, layer));
  }
  s.log_sums = activation(Shape{sequences, config.heads, length}, Dtype::kFloat32, owner);
  const Heads h = heads(s);
  const std::vector<RandomStream> streams = attention_streams(batch, layer);
  const attention::Dropout dropout{streams.empty() ? 0 : config.attention_dropout, streams};
  attention::attention_forward(stream, as_heads(s.attended.view, config.heads), s.log_sums.view, h.q, h.k, h.v,
                               static_cast<float>(config.attention_scale), mask(batch, layer), dropout);
}

Tensor Decoder::State::forward_block(Saved& s, const Batch& batch, std::size_t layer) const {
  const Block& block = blocks[layer];
  const std::string owner = "layer " + std::to_string(layer);
  const std::int64_t sequences = batch.ids.extent(0);
  const std::int64_t length = batch.ids.extent(1);
  const auto rows = [&](std::int64_t width) { return Shape{sequences, length, width}; };

  if (config.norm_before) {
    s.normed1 = activation(rows(config.hidden), owner + " norm");
    norm(s.normed1.view, s.statistics1, s.input.view, block.norm1, owner + " norm");
  }
  s.qkv = activation(rows(q_size() + 2 * kv_size()), owner + " qkv");
  multiply(s.qkv.view, s.read1().view, block.qkv);
  if (config.qk_norm) {
    const Heads raw = heads(s);
    s.qk = activation(rows(q_size() + kv_size()), owner + " qkv");
    const Heads normed = heads(s);
    const auto epsilon = static_cast<float>(config.norm_epsilon);
    const auto norm_heads = [&](const TensorView& y, Statistics& statistics, const TensorView& x, const Value& weight) {
      statistics.inverse_std =
          activation(config.qk_norm_whole ? Shape{sequences, length} : Shape{sequences, length, x.extent(2)},
                     Dtype::kFloat32, owner + " qkv");
      norm::rms_norm_forward(stream, norm_rows(y), statistics.inverse_std.view, norm_rows(x), weight.value.view,
                             epsilon, static_cast<float>(config.norm_offset));
    };
    norm_heads(normed.q, s.q_statistics, raw.q, block.q_norm);
    norm_heads(normed.k, s.k_statistics, raw.k, block.k_norm);
  }
  if (config.rope) {
    const Heads h = heads(s);
    for (const TensorView& x : {h.q, h.k}) {
      attention::rope_forward(stream, x, x, rope_of(layer), rope_positions_of(batch), attention::RopePairing::kHalves);
    }
  }
  attend(s, batch, layer, owner + " attention");
  s.middle = activation(rows(config.hidden), owner + " residual");
  if (config.norm_after) {
    add_normed_product(s.middle.view, s.input.view, s.attended.view, block.o, block.after1, s.added1,
                       s.added1_statistics, owner);
  } else {
    add_product(s.middle.view, s.input.view, s.attended.view, block.o, batch, layer, Site::kAfterAttention);
  }
  if (config.norm_before) {
    s.normed2 = activation(rows(config.hidden), owner + " norm");
    norm(s.normed2.view, s.statistics2, config.parallel ? s.input.view : s.middle.view, block.norm2, owner + " norm");
  }
  s.up = activation(rows((config.gated ? 2 : 1) * config.intermediate), owner + " mlp");
  multiply(s.up.view, s.read2().view, block.up);
  s.activated = activation(rows(config.intermediate), owner + " mlp");
  if (config.gated) {
    activation::gated_forward(stream, s.activated.view, s.up.view.slice(2, 0, config.intermediate),
                              s.up.view.slice(2, config.intermediate, 2 * config.intermediate), config.activation);
  } else {
    activation::activation_forward(stream, s.activated.view, s.up.view, config.activation);
  }
  Tensor output = activation(rows(config.hidden), owner + " residual");
  if (config.norm_after) {
    add_normed_product(output.view, s.middle.view, s.activated.view, block.down, block.after2, s.added2,
                       s.added2_statistics, owner);
  } else {
    add_product(output.view, s.middle.view, s.activated.view, block.down, batch, layer, Site::kAfterFeedForward);
  }
  return output;
}

Tensor Decoder::State::backward_block(Saved& s, Tensor dy, const Batch& batch, std::size_t layer) const {
  const Block& block = blocks[layer];
  const std::string owner = "layer " + std::to_string(layer);
  const bool dropped = drops(batch, config.residual_dropout);
  // The gradient of what a branch's last product gave: dy itself, but for a norm after it and for dropout.
  const auto of_branch = [&](Site site, const Tensor& added, const Statistics& statistics, const NormParameters& with) {
    Tensor branch;
    if (config.norm_after) {
      branch = activation(dy.view.shape(), owner + " norm gradient");
      norm_backward(branch.view, dy.view, added.view, statistics, with, Accumulate::kOverwrite);
      return branch;
    }
    if (!dropped) return branch;
    branch = activation(dy.view.shape(), owner + " dropout");
    drop(branch.view, dy.view, batch, config.residual_dropout, layer, site, Accumulate::kOverwrite);
    return branch;
  };

  // Of parallel parts: what the feed-forward part gives the block's input, which attention's shall not see.
  Tensor d_input;

  // What a branch read was the stream itself, or a norm of it.
  const auto add_to_stream = [&](const Tensor& d_read, const Tensor& x, const Statistics& statistics,
                                 const NormParameters& with) {
    if (!config.norm_before) return core::add(stream, dy.view, d_read.view);
    norm_backward(dy.view, d_read.view, x.view, statistics, with, Accumulate::kAdd);
  };

  {
    const Tensor branch = of_branch(Site::kAfterFeedForward, s.added2, s.added2_statistics, block.after2);
    s.added2 = {};
    const Tensor d_up = activation(s.up.view.shape(), owner + " mlp gradient");
    {
      const Tensor d_activated = activation(s.activated.view.shape(), owner + " mlp gradient");
      multiply_backward(d_activated.view, branch.view ? branch.view : dy.view, s.activated.view, block.down);
      s.activated = {};
      if (config.gated) {
        const std::int64_t f = config.intermediate;
        activation::gated_backward(stream, d_up.view.slice(2, 0, f), d_up.view.slice(2, f, 2 * f), d_activated.view,
                                   s.up.view.slice(2, 0, f), s.up.view.slice(2, f, 2 * f), config.activation,
                                   Accumulate::kOverwrite);
      } else {
        activation::activation_backward(stream, d_up.view, d_activated.view, s.up.view, config.activation,
                                        Accumulate::kOverwrite);
      }
    }
    s.up = {};
    const Tensor d_read = activation(s.middle.view.shape(), owner + " norm gradient");
    multiply_backward(d_read.view, d_up.view, s.read2().view, block.up);
    if (config.parallel) {
      d_input = activation(s.input.view.shape(), owner + " norm gradient");
      norm_backward(d_input.view, d_read.view, s.input.view, s.statistics2, block.norm2, Accumulate::kOverwrite);
    } else {
      add_to_stream(d_read, s.middle, s.statistics2, block.norm2);
    }
    s.normed2 = {};
    s.middle = {};
  }
  {
    const Tensor branch = of_branch(Site::kAfterAttention, s.added1, s.added1_statistics, block.after1);
    s.added1 = {};
    const Tensor d_qkv = activation(s.qkv.view.shape(), owner + " qkv gradient");
    {
      if (!s.attended.view) attend(s, batch, layer, owner + " attention");
      const Tensor d_attended = activation(s.attended.view.shape(), owner + " attention gradient");
      multiply_backward(d_attended.view, branch.view ? branch.view : dy.view, s.attended.view, block.o);
      const Heads h = heads(s);
      Saved d;  // seen as what is saved, for its heads
      d.qkv.view = d_qkv.view;
      const Heads dh = heads(d);
      const std::vector<RandomStream> streams = attention_streams(batch, layer);
      const attention::Dropout dropout{streams.empty() ? 0 : config.attention_dropout, streams};
      attention::attention_backward(stream, dh.q, dh.k, dh.v, as_heads(d_attended.view, config.heads),
                                    as_heads(s.attended.view, config.heads), s.log_sums.view, h.q, h.k, h.v,
                                    static_cast<float>(config.attention_scale), mask(batch, layer), dropout);
      if (config.rope) {
        for (const TensorView& dx : {dh.q, dh.k}) {
          attention::rope_backward(stream, dx, dx, rope_of(layer), rope_positions_of(batch),
                                   attention::RopePairing::kHalves);
        }
      }
      if (config.qk_norm) {
        s.qk = {};  // the heads of s are now those before the norm
        const Heads raw = heads(s);
        const auto of_heads = [&](const TensorView& dx, const TensorView& x, const Statistics& statistics,
                                  const Value& weight) {
          norm::rms_norm_backward(stream, norm_rows(dx), weight.gradient.view, norm_rows(dx), norm_rows(x),
                                  statistics.inverse_std.view, weight.value.view, Accumulate::kOverwrite,
                                  static_cast<float>(config.norm_offset));
        };
        of_heads(dh.q, raw.q, s.q_statistics, block.q_norm);
        of_heads(dh.k, raw.k, s.k_statistics, block.k_norm);
      }
    }
    const Tensor d_read = activation(s.input.view.shape(), owner + " norm gradient");
    multiply_backward(d_read.view, d_qkv.view, s.read1().view, block.qkv);
    add_to_stream(d_read, s.input, s.statistics1, block.norm1);
  }
  if (d_input.view) core::add(stream, dy.view, d_input.view);
  s = {};
  return dy;
}

}  // namespace braise::model
