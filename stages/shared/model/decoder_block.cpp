// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <utility>

#include "kernels/activation/activation.h"
#include "kernels/activation/dropout.h"
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

void Decoder::State::drop(const TensorView& to, const ConstTensorView& from, const Batch& batch, double rate,
                          std::size_t layer, Site site, Accumulate accumulate) const {
  const comm::Range mine = rows(batch);
  const std::int64_t length = batch.ids.extent(1);
  const TensorView y = to.as_rows();
  const ConstTensorView x = from.as_rows();
  for (std::int64_t begin = mine.begin; begin < mine.end;) {
    const std::int64_t sequence = begin / length;
    const std::int64_t end = std::min(mine.end, (sequence + 1) * length);
    const auto first = static_cast<std::uint64_t>((begin - sequence * length) * config.hidden);
    activation::dropout(stream, y.slice(0, begin - mine.begin, end - mine.begin),
                        x.slice(0, begin - mine.begin, end - mine.begin), rate, random(batch, sequence, layer, site),
                        first, accumulate);
    begin = end;
  }
}

comm::Range Decoder::State::rows(const Batch& batch) const {
  const std::int64_t all = batch.ids.elements();
  return axis == nullptr ? comm::Range{0, all} : axis->rows(all);
}

Shape Decoder::State::stream_shape(const Batch& batch) const {
  if (axis == nullptr) return Shape{batch.ids.extent(0), batch.ids.extent(1), config.hidden};
  return Shape{1, rows(batch).size(), config.hidden};
}

TensorAxis::Gathered Decoder::State::gather(const ConstTensorView& local, const Batch& batch,
                                            const std::string& owner) const {
  if (axis == nullptr) return TensorAxis::alone(local);
  return axis->gather(local, Shape{batch.ids.extent(0), batch.ids.extent(1), config.hidden}, owner);
}

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
    norm::layer_norm_backward(stream, dx, with.weight.sink(), with.bias.sink(), dy, x, statistics.mean.view,
                              statistics.inverse_std.view, with.weight.value.view, accumulate);
  } else {
    norm::rms_norm_backward(stream, dx, with.weight.sink(), dy, x, statistics.inverse_std.view, with.weight.value.view,
                            accumulate, static_cast<float>(config.norm_offset));
  }
}

void Decoder::State::multiply(const TensorView& y, const ConstTensorView& x, const Linear& linear,
                              Epilogue epilogue) const {
  if (linear.bias) epilogue.bias = linear.bias.value.view;
  linear::matmul(stream, y, x, linear.forward, epilogue);
}

void Decoder::State::project(const TensorView& y, const ConstTensorView& input, const ConstTensorView& x,
                             const Linear& linear, const std::string& owner) const {
  Epilogue epilogue;
  if (linear.bias) epilogue.bias = linear.bias.value.view;
  if (axis == nullptr) {
    epilogue.residual = input;
    return linear::matmul(stream, y, x, linear.forward, epilogue);
  }
  if (axis->rank() != 0) epilogue.bias = {};  // it is added once
  Tensor terms = activation(Shape{x.extent(0), x.extent(1), config.hidden}, Dtype::kFloat32, owner + " terms");
  linear::matmul(stream, terms.view, x, linear.forward, epilogue);
  const Tensor sum = axis->scatter_sum(std::move(terms), owner).wait();
  if (input) core::add(stream, sum.view, input);
  core::copy(stream, y, sum.view);
}

void Decoder::State::add_weight_gradient(const ConstTensorView& dy, const ConstTensorView& x,
                                         const Linear& linear) const {
  Epilogue add;
  add.accumulate = Accumulate::kAdd;
  const ConstTensorView rows = x.as_rows();
  const ConstTensorView d_rows = dy.as_rows();
  if (linear.outputs_first) {
    linear::matmul(stream, linear.weight.sink(), d_rows.transposed(0, 1), rows, add);
  } else {
    linear::matmul(stream, linear.weight.sink(), rows.transposed(0, 1), d_rows, add);
  }
}

void Decoder::State::project_backward(const TensorView& dx, const ConstTensorView& dy, const ConstTensorView& x,
                                      const Linear& linear, const Batch& batch, const std::string& owner) const {
  TensorAxis::Gathered all = gather(dy, batch, owner);
  if (linear.bias) core::add_column_sums(stream, linear.bias.sink(), dy.as_rows());
  linear::matmul(stream, dx, all.wait(), linear.backward);
  add_weight_gradient(all.wait(), x, linear);
}

Tensor Decoder::State::read_backward(const ConstTensorView& dy, const Tensor& x, const Linear& linear,
                                     const Batch& batch, const std::string& owner) const {
  if (linear.bias) core::add_column_sums(stream, linear.bias.sink(), dy.as_rows());
  if (axis == nullptr) {
    Tensor dx = activation(x.view.shape(), owner);
    linear::matmul(stream, dx.view, dy, linear.backward);
    add_weight_gradient(dy, x.view, linear);
    return dx;
  }
  TensorAxis::Gathered all = gather(x.view, batch, owner);
  Tensor terms = activation(Shape{dy.extent(0), dy.extent(1), config.hidden}, Dtype::kFloat32, owner + " terms");
  linear::matmul(stream, terms.view, dy, linear.backward);
  TensorAxis::Scattered sum = axis->scatter_sum(std::move(terms), owner);
  add_weight_gradient(dy, all.wait(), linear);
  return sum.wait();
}

void Decoder::State::add_product(const TensorView& y, const ConstTensorView& input, const ConstTensorView& x,
                                 const Linear& linear, const Batch& batch, std::size_t layer, Site site,
                                 const std::string& owner) const {
  if (!drops(batch, config.residual_dropout)) return project(y, input, x, linear, owner);
  const Tensor product = activation(y.shape(), "dropout");
  project(product.view, {}, x, linear, owner);
  core::copy(stream, y, input);
  drop(y, product.view, batch, config.residual_dropout, layer, site, Accumulate::kAdd);
}

void Decoder::State::add_normed_product(const TensorView& y, const ConstTensorView& input, const ConstTensorView& x,
                                        const Linear& linear, const NormParameters& with, Tensor& added,
                                        Statistics& statistics, const std::string& owner) const {
  added = activation(y.shape(), owner + " norm");
  project(added.view, {}, x, linear, owner);
  norm(y, statistics, added.view, with, owner + " norm");
  core::add(stream, y, input);
}

Decoder::State::Heads Decoder::State::heads(const Saved& s) const {
  if (config.qkv_by_head) {
    const TensorView& rows = s.qkv.view;
    const auto every_third = [&](std::int64_t first) {
      const TensorView from = rows.slice(2, first * config.head_size, rows.extent(2));
      const Shape shape{rows.extent(0), rows.extent(1), heads_here(), config.head_size};
      const std::array<std::int64_t, 4> strides{rows.stride(0), rows.stride(1), 3 * config.head_size, 1};
      return TensorView(from.raw(), rows.dtype(), shape, strides, rows.device());
    };
    return {every_third(0), every_third(1), every_third(2)};
  }
  const std::int64_t h = heads_here();
  const std::int64_t g = kv_heads_here();
  const TensorView all = as_heads(s.qkv.view, h + 2 * g);
  const TensorView v = all.slice(2, h + g, h + 2 * g);
  const TensorView qk = s.qk.view ? as_heads(s.qk.view, h + g) : all;
  return {qk.slice(2, 0, h), qk.slice(2, h, h + g), v};
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
    return cache->attend(stream, static_cast<std::int64_t>(layer), extensions, as_heads(s.attended.view, heads_here()),
                         h.q, h.k, h.v, static_cast<float>(config.attention_scale), mask(batch, layer));
  }
  s.log_sums = activation(Shape{sequences, heads_here(), length}, Dtype::kFloat32, owner);
  const Heads h = heads(s);
  const std::vector<RandomStream> streams = attention_streams(batch, layer);
  attention::attention_forward(stream, as_heads(s.attended.view, heads_here()), s.log_sums.view, h.q, h.k, h.v,
                               static_cast<float>(config.attention_scale), mask(batch, layer),
                               attention_dropout(streams));
}

Tensor Decoder::State::forward_block(Saved& s, const Batch& batch, std::size_t layer) const {
  const Block& block = block_of(layer);
  const std::string owner = "layer " + std::to_string(layer);
  const std::int64_t sequences = batch.ids.extent(0);
  const std::int64_t length = batch.ids.extent(1);
  const auto rows = [&](std::int64_t width) { return Shape{sequences, length, width}; };

  const Shape& stream_rows = s.input.view.shape();
  if (config.norm_before) {
    s.normed1 = activation(stream_rows, owner + " norm");
    norm(s.normed1.view, s.statistics1, s.input.view, block.norm1, owner + " norm");
  }
  s.qkv = activation(rows(q_size() + 2 * kv_size()), owner + " qkv");
  multiply(s.qkv.view, gather(s.read1().view, batch, owner + " qkv").wait(), block.qkv);
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
  s.middle = activation(stream_rows, owner + " residual");
  if (config.norm_after) {
    add_normed_product(s.middle.view, s.input.view, s.attended.view, block.o, block.after1, s.added1,
                       s.added1_statistics, owner);
  } else {
    add_product(s.middle.view, s.input.view, s.attended.view, block.o, batch, layer, Site::kAfterAttention, owner);
  }
  if (config.norm_before) {
    s.normed2 = activation(stream_rows, owner + " norm");
    norm(s.normed2.view, s.statistics2, config.parallel ? s.input.view : s.middle.view, block.norm2, owner + " norm");
  }
  const std::int64_t f = intermediate();
  s.up = activation(rows((config.gated ? 2 : 1) * f), owner + " mlp");
  s.activated = activation(rows(f), owner + " mlp");
  Epilogue activated;
  activated.activation = config.activation;
  activated.activation_input = s.up.view;
  multiply(s.activated.view, gather(s.read2().view, batch, owner + " mlp").wait(), block.up, activated);
  Tensor output = activation(stream_rows, owner + " residual");
  if (config.norm_after) {
    add_normed_product(output.view, s.middle.view, s.activated.view, block.down, block.after2, s.added2,
                       s.added2_statistics, owner);
  } else {
    add_product(output.view, s.middle.view, s.activated.view, block.down, batch, layer, Site::kAfterFeedForward, owner);
  }
  return output;
}

Tensor Decoder::State::backward_block(Saved& s, Tensor dy, const Batch& batch, std::size_t layer) const {
  const Block& block = block_of(layer);
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
      project_backward(d_activated.view, branch.view ? branch.view : dy.view, s.activated.view, block.down, batch,
                       owner + " mlp gradient");
      s.activated = {};
      if (config.gated) {
        const std::int64_t f = intermediate();
        activation::gated_backward(stream, d_up.view.slice(2, 0, f), d_up.view.slice(2, f, 2 * f), d_activated.view,
                                   s.up.view.slice(2, 0, f), s.up.view.slice(2, f, 2 * f), config.activation,
                                   Accumulate::kOverwrite);
      } else {
        activation::activation_backward(stream, d_up.view, d_activated.view, s.up.view, config.activation,
                                        Accumulate::kOverwrite);
      }
    }
    s.up = {};
    const Tensor d_read = read_backward(d_up.view, s.read2(), block.up, batch, owner + " norm gradient");
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
      project_backward(d_attended.view, branch.view ? branch.view : dy.view, s.attended.view, block.o, batch,
                       owner + " attention gradient");
      const Heads h = heads(s);
      Saved d;  // seen as what is saved, for its heads
      d.qkv.view = d_qkv.view;
      const Heads dh = heads(d);
      const std::vector<RandomStream> streams = attention_streams(batch, layer);
      attention::attention_backward(stream, dh.q, dh.k, dh.v, as_heads(d_attended.view, heads_here()),
                                    as_heads(s.attended.view, heads_here()), s.log_sums.view, h.q, h.k, h.v,
                                    static_cast<float>(config.attention_scale), mask(batch, layer),
                                    attention_dropout(streams));
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
          norm::rms_norm_backward(stream, norm_rows(dx), weight.sink(), norm_rows(dx), norm_rows(x),
                                  statistics.inverse_std.view, weight.value.view, Accumulate::kOverwrite,
                                  static_cast<float>(config.norm_offset));
        };
        of_heads(dh.q, raw.q, s.q_statistics, block.q_norm);
        of_heads(dh.k, raw.k, s.k_statistics, block.k_norm);
      }
    }
    const Tensor d_read = read_backward(d_qkv.view, s.read1(), block.qkv, batch, owner + " norm gradient");
    add_to_stream(d_read, s.input, s.statistics1, block.norm1);
  }
  if (d_input.view) core::add(stream, dy.view, d_input.view);
  s = {};
  return dy;
}

}  // namespace braise::model
