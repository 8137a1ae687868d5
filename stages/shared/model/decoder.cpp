// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/model/decoder.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "kernels/activation/activation.h"
#include "kernels/activation/dropout.h"
#include "kernels/activation/gated.h"
#include "kernels/attention/attention.h"
#include "kernels/attention/rope.h"
#include "kernels/core/add.h"
#include "kernels/core/column_sums.h"
#include "kernels/core/copy.h"
#include "kernels/core/error.h"
#include "kernels/core/random_fill.h"
#include "kernels/embedding/embedding.h"
#include "kernels/linear/matmul.h"
#include "kernels/norm/layer_norm.h"
#include "kernels/norm/rms_norm.h"

namespace braise::model {
namespace {

using core::Accumulate;
using core::Category;
using core::ConstTensorView;
using core::Dtype;
using core::RandomStream;
using core::Shape;
using core::Tensor;
using core::TensorView;
using linear::Epilogue;

/// Where dropout happens, within a layer (or, with layer 0's first, before all).
enum class Site : std::uint64_t { kAttention, kAfterAttention, kAfterFeedForward, kEmbedding };

/// A parameter, or several that are used as one.
struct Value {
  Tensor value;
  Tensor gradient;
  explicit operator bool() const { return static_cast<bool>(value.view); }
};

/// A weight of a product y = x w, K x N, and its bias.
struct Linear {
  Value weight;
  Value bias;
  bool outputs_first = false;  ///< stored N x K
  linear::PackedMatrix forward;
  linear::PackedMatrix backward;  ///< transposed: dx = dy w'

  ConstTensorView matrix() const { return outputs_first ? weight.value.view.transposed(0, 1) : weight.value.view; }
};

struct NormParameters {
  Value weight;
  Value bias;
};

/// What the statistics of a norm's rows are.
struct Statistics {
  Tensor mean;
  Tensor inverse_std;
};

struct Block {
  NormParameters norm1;
  Linear qkv;
  Value q_norm;
  Value k_norm;
  Linear o;
  NormParameters norm2;
  Linear up;
  Linear down;
};

/// What a block's forward pass keeps.
struct Saved {
  Tensor input;
  Statistics statistics1;
  Tensor normed1;
  Tensor qkv;  ///< q and k rotated, but with qk_norm as they come from the projection
  Tensor qk;   ///< with qk_norm: normed and rotated
  Statistics q_statistics;
  Statistics k_statistics;
  Tensor attended;
  Tensor log_sums;
  Tensor added1;  ///< with norm_after: what attention adds, before its norm
  Tensor middle;  ///< the residual stream after attention
  Statistics statistics2;
  Tensor normed2;
  Tensor up;  ///< before the activation; of gated models: gate, then up
  Tensor activated;
  Tensor added2;  ///< with norm_after: what the feed-forward part adds, before its norm

  /// What the products of the two parts read.
  const Tensor& read1() const { return normed1.view ? normed1 : input; }
  const Tensor& read2() const { return normed2.view ? normed2 : middle; }
};

}  // namespace

struct Decoder::State {
  State(core::Stream& s, const Config& c, const DecoderSettings& options) : stream(s), config(c), settings(options) {}

  core::Stream& stream;
  const Config config;
  const DecoderSettings settings;
  std::vector<Parameter> parameters;
  std::vector<TensorView> accumulators;

  Value tokens;
  Value positions;
  std::vector<Block> blocks;
  NormParameters final_norm;
  Value head;                 ///< of models that are not tied
  Tensor tied_head_gradient;  ///< of those that are
  linear::PackedMatrix packed_head;
  attention::RopeTable rope;
  std::int64_t rope_positions = 0;

  // The cached sequences that a pass extends, if it does.
  KvCache* cache = nullptr;
  std::span<const Extension> extensions;

  // What the forward pass keeps.
  std::vector<Saved> saved;
  Tensor last;
  Statistics final_statistics;
  Tensor final_normed;
  Tensor loss_log_sums;

  std::int64_t q_size() const { return config.heads * config.head_size; }
  std::int64_t kv_size() const { return config.kv_heads * config.head_size; }
  const Value& head_value() const { return config.tied ? tokens : head; }
  TensorView head_gradient() const { return config.tied ? tied_head_gradient.view : head.gradient.view; }

  void make_parameters();
  Value& value_of(const ParameterSpec& spec);
  void make_packs(Linear& linear, std::int64_t depth, std::int64_t columns, const std::string& owner);

  Tensor activation(const Shape& shape, Dtype dtype, const std::string& owner) const {
    return stream.arena().tensor(dtype, shape, Category::kActivations, owner);
  }
  Tensor activation(const Shape& shape, const std::string& owner) const {
    return activation(shape, settings.compute, owner);
  }

  void check(const Batch& batch, bool targets) const;
  void need_rope(const Batch& batch);
  void need_rope(std::int64_t most);
  attention::RopePositions rope_positions_of(const Batch& batch) const { return {batch.positions, 0}; }

  RandomStream random(const Batch& batch, std::int64_t sequence, std::size_t layer, Site site) const {
    return RandomStream(batch.dropout->seed, core::Purpose::kDropout, batch.dropout->step,
                        batch.dropout->first_sample + static_cast<std::uint64_t>(sequence),
                        4 * static_cast<std::uint64_t>(layer) + static_cast<std::uint64_t>(site));
  }
  /// to (=|+=) dropout(from), [B, T, C], each sequence from a stream of its own.
  void drop(const TensorView& to, const ConstTensorView& from, const Batch& batch, double rate, std::size_t layer,
            Site site, Accumulate accumulate) const {
    for (std::int64_t b = 0; b < from.extent(0); ++b) {
      activation::dropout(stream, to.select(0, b), from.select(0, b), rate, random(batch, b, layer, site), 0,
                          accumulate);
    }
  }
  bool drops(const Batch& batch, double rate) const { return batch.dropout && rate > 0; }

  /// The batch's positions, or 0, 1, 2 ... in memory of `own`.
  ConstTensorView position_ids(const Batch& batch, Tensor& own) const;
  Tensor embed(const Batch& batch);
  void norm(const TensorView& y, Statistics& statistics, const ConstTensorView& x, const NormParameters& with,
            const std::string& owner) const;
  void norm_backward(const TensorView& dx, const ConstTensorView& dy, const ConstTensorView& x,
                     const Statistics& statistics, const NormParameters& with, Accumulate accumulate) const;
  void multiply(const TensorView& y, const ConstTensorView& x, const Linear& linear,
                const ConstTensorView& residual = {}) const;
  void multiply_backward(const TensorView& dx, const ConstTensorView& dy, const ConstTensorView& x,
                         const Linear& linear) const;
  /// y = input + x w + b, with dropout of what is added.
  void add_product(const TensorView& y, const ConstTensorView& input, const ConstTensorView& x, const Linear& linear,
                   const Batch& batch, std::size_t layer, Site site) const;

  /// The same with norm_after: y = input + norm(x w + b).
  void add_normed_product(const TensorView& y, const ConstTensorView& input, const ConstTensorView& x,
                          const Linear& linear, const NormParameters& with, Tensor& added, Statistics& statistics,
                          const std::string& owner) const;

  struct Heads {
    TensorView q;
    TensorView k;
    TensorView v;
  };
  TensorView as_heads(const TensorView& rows, std::int64_t heads) const {
    return rows.reshaped(Shape{rows.extent(0), rows.extent(1), heads, config.head_size});
  }
  Heads heads(const Saved& s) const;
  /// What the norms of q and k take as rows: heads, or all heads of a token.
  TensorView norm_rows(const TensorView& heads) const;
  attention::Mask mask(const Batch& batch) const;
  std::vector<RandomStream> attention_streams(const Batch& batch, std::size_t layer) const;
  void attend(Saved& s, const Batch& batch, std::size_t layer, const std::string& owner) const;

  Tensor forward_block(Saved& s, const Batch& batch, std::size_t layer) const;
  Tensor backward_block(Saved& s, Tensor dy, const Batch& batch, std::size_t layer) const;
  void compute_losses(const TensorView& losses, const Batch& batch, const loss::CrossEntropy& loss, bool keep);
  /// The residual stream at the end; with `keep`, what a backward pass needs stays.
  Tensor run_blocks(const Batch& batch, bool keep);
  bool recomputed(std::size_t layer) const {
    return settings.checkpointing.kind == Checkpointing::Kind::kEveryBlock &&
           static_cast<std::int64_t>(layer) % settings.checkpointing.every == 0;
  }
};

Value& Decoder::State::value_of(const ParameterSpec& spec) {
  if (spec.layer < 0) {
    switch (spec.role) {
      case Role::kTokens:
        return tokens;
      case Role::kPositions:
        return positions;
      case Role::kFinalWeight:
        return final_norm.weight;
      case Role::kFinalBias:
        return final_norm.bias;
      default:
        return head;
    }
  }
  Block& block = blocks[static_cast<std::size_t>(spec.layer)];
  switch (spec.role) {
    case Role::kNorm1Weight:
      return block.norm1.weight;
    case Role::kNorm1Bias:
      return block.norm1.bias;
    case Role::kQkvWeight:
      return block.qkv.weight;
    case Role::kQkvBias:
      return block.qkv.bias;
    case Role::kQNorm:
      return block.q_norm;
    case Role::kKNorm:
      return block.k_norm;
    case Role::kOWeight:
      return block.o.weight;
    case Role::kOBias:
      return block.o.bias;
    case Role::kNorm2Weight:
      return block.norm2.weight;
    case Role::kNorm2Bias:
      return block.norm2.bias;
    case Role::kUpWeight:
      return block.up.weight;
    case Role::kUpBias:
      return block.up.bias;
    case Role::kDownWeight:
      return block.down.weight;
    default:
      return block.down.bias;
  }
}

void Decoder::State::make_parameters() {
  blocks.resize(static_cast<std::size_t>(config.layers));
  const std::vector<ParameterSpec> specs = parameter_specs(config);
  // How large each tensor is that holds several parameters: rows of them follow each other.
  std::map<Value*, Shape> shapes;
  for (const ParameterSpec& spec : specs) {
    Shape& shape = shapes[&value_of(spec)];
    if (spec.offset == 0) {
      shape = spec.shape;
    } else {
      shape = spec.shape.rank() == 1 ? Shape{shape[0] + spec.shape[0]} : Shape{shape[0] + spec.shape[0], shape[1]};
    }
  }
  for (const ParameterSpec& spec : specs) {
    Value& value = value_of(spec);
    if (spec.offset == 0) {
      const Shape& shape = shapes.at(&value);
      value.value = stream.arena().tensor(settings.compute, shape, Category::kParameters, spec.name);
      if (settings.gradients)
        value.gradient = stream.arena().tensor(Dtype::kFloat32, shape, Category::kGradients, spec.name);
    }
    const auto part = [&](const TensorView& whole) {
      const TensorView flat = whole.reshaped(Shape{whole.elements()});
      return flat.slice(0, spec.offset, spec.offset + spec.shape.elements()).reshaped(spec.shape);
    };
    Parameter parameter{spec, part(value.value.view), {}};
    if (settings.gradients) parameter.gradient = part(value.gradient.view);
    parameters.push_back(parameter);
  }
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    Block& block = blocks[i];
    const std::string owner = "layer " + std::to_string(i);
    make_packs(block.qkv, config.hidden, q_size() + 2 * kv_size(), owner + " qkv");
    make_packs(block.o, q_size(), config.hidden, owner + " o");
    make_packs(block.up, config.hidden, (config.gated ? 2 : 1) * config.intermediate, owner + " up");
    make_packs(block.down, config.intermediate, config.hidden, owner + " down");
  }
  packed_head = linear::PackedMatrix(stream.arena(), settings.compute, config.hidden, config.vocabulary,
                                     Category::kParameters, "head");
  if (config.tied && settings.gradients) {
    tied_head_gradient = stream.arena().tensor(Dtype::kFloat32, Shape{config.vocabulary, config.hidden},
                                               Category::kGradients, "tied head");
  }
  if (!settings.gradients) return;
  for (const Parameter& parameter : parameters) accumulators.push_back(parameter.gradient);
  if (config.tied) accumulators.push_back(tied_head_gradient.view);
}

void Decoder::State::make_packs(Linear& linear, std::int64_t depth, std::int64_t columns, const std::string& owner) {
  linear.outputs_first = config.family == Family::kLlama;
  linear.forward = linear::PackedMatrix(stream.arena(), settings.compute, depth, columns, Category::kParameters, owner);
  if (settings.gradients) {
    linear.backward =
        linear::PackedMatrix(stream.arena(), settings.compute, columns, depth, Category::kParameters, owner);
  }
}

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
  if (positions) {
    Tensor own;
    const ConstTensorView ids = position_ids(batch, own);
    embedding::embedding_forward(stream, x.view, batch.ids, tokens.value.view, ids, positions.value.view, scale);
  } else {
    embedding::embedding_forward(stream, x.view, batch.ids, tokens.value.view, {}, {}, scale);
  }
  if (drops(batch, config.embedding_dropout)) {
    drop(x.view, x.view, batch, config.embedding_dropout, 0, Site::kEmbedding, Accumulate::kOverwrite);
  }
  return x;
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

attention::Mask Decoder::State::mask(const Batch& batch) const {
  attention::Mask mask;
  if (config.window) mask.window = *config.window;
  mask.document_starts = batch.document_starts;
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
                         h.q, h.k, h.v, static_cast<float>(config.attention_scale), mask(batch));
  }
  s.log_sums = activation(Shape{sequences, config.heads, length}, Dtype::kFloat32, owner);
  const Heads h = heads(s);
  const std::vector<RandomStream> streams = attention_streams(batch, layer);
  const attention::Dropout dropout{streams.empty() ? 0 : config.attention_dropout, streams};
  attention::attention_forward(stream, as_heads(s.attended.view, config.heads), s.log_sums.view, h.q, h.k, h.v,
                               static_cast<float>(config.attention_scale), mask(batch), dropout);
}

Tensor Decoder::State::forward_block(Saved& s, const Batch& batch, std::size_t layer) const {
  const Block& block = blocks[layer];
  const std::string owner = "layer " + std::to_string(layer);
  const std::int64_t sequences = batch.ids.extent(0);
  const std::int64_t length = batch.ids.extent(1);
  const auto rows = [&](std::int64_t width) { return Shape{sequences, length, width}; };

  if (!config.norm_after) {
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
                             epsilon);
    };
    norm_heads(normed.q, s.q_statistics, raw.q, block.q_norm);
    norm_heads(normed.k, s.k_statistics, raw.k, block.k_norm);
  }
  if (config.rope) {
    const Heads h = heads(s);
    for (const TensorView& x : {h.q, h.k}) {
      attention::rope_forward(stream, x, x, rope, rope_positions_of(batch), attention::RopePairing::kHalves);
    }
  }
  attend(s, batch, layer, owner + " attention");
  s.middle = activation(rows(config.hidden), owner + " residual");
  if (config.norm_after) {
    add_normed_product(s.middle.view, s.input.view, s.attended.view, block.o, block.norm1, s.added1, s.statistics1,
                       owner);
  } else {
    add_product(s.middle.view, s.input.view, s.attended.view, block.o, batch, layer, Site::kAfterAttention);
    s.normed2 = activation(rows(config.hidden), owner + " norm");
    norm(s.normed2.view, s.statistics2, s.middle.view, block.norm2, owner + " norm");
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
    add_normed_product(output.view, s.middle.view, s.activated.view, block.down, block.norm2, s.added2, s.statistics2,
                       owner);
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

  // What a branch read was the stream itself, or a norm of it.
  const auto add_to_stream = [&](const Tensor& d_read, const Tensor& x, const Statistics& statistics,
                                 const NormParameters& with) {
    if (config.norm_after) return core::add(stream, dy.view, d_read.view);
    norm_backward(dy.view, d_read.view, x.view, statistics, with, Accumulate::kAdd);
  };

  {
    const Tensor branch = of_branch(Site::kAfterFeedForward, s.added2, s.statistics2, block.norm2);
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
    add_to_stream(d_read, s.middle, s.statistics2, block.norm2);
    s.normed2 = {};
    s.middle = {};
  }
  {
    const Tensor branch = of_branch(Site::kAfterAttention, s.added1, s.statistics1, block.norm1);
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
                                    static_cast<float>(config.attention_scale), mask(batch), dropout);
      if (config.rope) {
        for (const TensorView& dx : {dh.q, dh.k}) {
          attention::rope_backward(stream, dx, dx, rope, rope_positions_of(batch), attention::RopePairing::kHalves);
        }
      }
      if (config.qk_norm) {
        s.qk = {};  // the heads of s are now those before the norm
        const Heads raw = heads(s);
        const auto of_heads = [&](const TensorView& dx, const TensorView& x, const Statistics& statistics,
                                  const Value& weight) {
          norm::rms_norm_backward(stream, norm_rows(dx), weight.gradient.view, norm_rows(dx), norm_rows(x),
                                  statistics.inverse_std.view, weight.value.view, Accumulate::kOverwrite);
        };
        of_heads(dh.q, raw.q, s.q_statistics, block.q_norm);
        of_heads(dh.k, raw.k, s.k_statistics, block.k_norm);
      }
    }
    const Tensor d_read = activation(s.input.view.shape(), owner + " norm gradient");
    multiply_backward(d_read.view, d_qkv.view, s.read1().view, block.qkv);
    add_to_stream(d_read, s.input, s.statistics1, block.norm1);
  }
  s = {};
  return dy;
}

Tensor Decoder::State::run_blocks(const Batch& batch, bool keep) {
  need_rope(batch);
  saved.clear();
  saved.resize(blocks.size());
  Tensor x = embed(batch);
  for (std::size_t layer = 0; layer < blocks.size(); ++layer) {
    Saved& s = saved[layer];
    s.input = std::move(x);
    x = forward_block(s, batch, layer);
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

std::span<const Parameter> Decoder::parameters() const {
  return state_->parameters;
}

std::span<const TensorView> Decoder::accumulators() const {
  return state_->accumulators;
}

void initialise(core::Stream& stream, const TensorView& value, const ParameterSpec& spec, const Config& config,
                std::uint64_t seed) {
  if (spec.initial == Initial::kNormal) {
    const RandomStream random(seed, core::Purpose::kInitialisation, core::name_hash(spec.name));
    core::fill_normal(stream, value, random, 0, 0.0f, static_cast<float>(spec.std));
  } else {
    const double one = 1 - config.norm_offset;
    core::fill(stream, value, spec.initial == Initial::kOnes ? static_cast<float>(one) : 0.0f);
  }
}

void Decoder::initialise(std::uint64_t seed) {
  for (const Parameter& parameter : state_->parameters) {
    model::initialise(state_->stream, parameter.value, parameter.spec, state_->config, seed);
  }
  values_changed();
}

const weights::TensorInfo* find_parameter(const weights::Weights& weights, const ParameterSpec& spec) {
  if (const weights::TensorInfo* const found = weights.find(spec.name)) return found;
  for (const std::string& prefix : {std::string("transformer."), std::string("model.")}) {
    if (!spec.name.starts_with(prefix)) continue;
    if (const weights::TensorInfo* const found = weights.find(spec.name.substr(prefix.size()))) return found;
  }
  return nullptr;
}

void Decoder::load(const weights::Weights& weights) {
  std::string problems;
  std::set<std::string> used;
  for (const Parameter& parameter : state_->parameters) {
    const weights::TensorInfo* const found = find_parameter(weights, parameter.spec);
    if (found == nullptr) {
      problems += "\n  " + parameter.spec.name + " is missing";
    } else if (found->shape != parameter.spec.shape) {
      problems += "\n  " + found->name + " is " + found->shape.text() + ", not " + parameter.spec.shape.text();
    } else {
      used.insert(found->name);
    }
  }
  for (const weights::TensorInfo& tensor : weights.tensors()) {
    // Old GPT-2 files hold the causal mask, and Llama files the frequencies, as if they were weights.
    const bool constant = tensor.name.ends_with(".attn.bias") || tensor.name.ends_with(".attn.masked_bias") ||
                          tensor.name.ends_with("rotary_emb.inv_freq");
    const bool tied_head = tensor.name == "lm_head.weight" && state_->config.tied;
    if (!used.contains(tensor.name) && !constant && !tied_head)
      problems += "\n  " + tensor.name + " is not the model's";
  }
  if (!problems.empty()) throw core::Error("weights that do not fit the model:" + problems);
  for (const Parameter& parameter : state_->parameters) {
    weights.read(state_->stream, find_parameter(weights, parameter.spec)->name, parameter.value);
  }
  if (state_->config.tied && weights.find("lm_head.weight") != nullptr) {
    const TensorView& value = state_->tokens.value.view;
    const Tensor head = state_->stream.arena().tensor(value.dtype(), value.shape(), Category::kWorkspace, "load");
    weights.read(state_->stream, "lm_head.weight", head.view);
    const auto* const bytes = static_cast<const std::byte*>(head.view.raw());
    if (!std::equal(bytes, bytes + head.view.bytes(), static_cast<const std::byte*>(value.raw()))) {
      throw core::Error("weights that do not fit the model: lm_head.weight differs from the embedding it is tied to");
    }
  }
  values_changed();
}

void Decoder::values_changed() {
  State& s = *state_;
  for (Block& block : s.blocks) {
    for (Linear* const linear : {&block.qkv, &block.o, &block.up, &block.down}) {
      linear->forward.pack(s.stream, linear->matrix());
      if (s.settings.gradients) linear->backward.pack(s.stream, linear->matrix().transposed(0, 1));
    }
  }
  s.packed_head.pack(s.stream, s.head_value().value.view.transposed(0, 1));
}

void Decoder::zero_gradients() {
  core::require(state_->settings.gradients, "zero_gradients", "the decoder has none");
  for (const TensorView& accumulator : state_->accumulators) core::fill(state_->stream, accumulator, 0.0f);
}

void Decoder::logits(const TensorView& logits, const Batch& batch) {
  State& s = *state_;
  s.check(batch, false);
  core::require_tensor("logits", "logits", logits, Dtype::kFloat32,
                       Shape{batch.ids.extent(0), batch.ids.extent(1), s.config.vocabulary});
  const Tensor x = s.run_blocks(batch, false);
  const Tensor normed = s.activation(x.view.shape(), "final norm");
  Statistics statistics;
  s.norm(normed.view, statistics, x.view, s.final_norm, "final norm");
  linear::matmul(s.stream, logits, normed.view, s.packed_head);
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
  s.norm(normed.view, statistics, last.view, s.final_norm, "final norm");
  linear::matmul(s.stream, logits.reshaped(Shape{1, ends, s.config.vocabulary}), normed.view, s.packed_head);
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
  norm(final_normed.view, final_statistics, last.view, final_norm, "final norm");
  loss_log_sums = activation(Shape{rows}, Dtype::kFloat32, "loss");
  loss::linear_cross_entropy_forward(stream, losses.reshaped(Shape{rows}), loss_log_sums.view,
                                     final_normed.view.as_rows(), packed_head, batch.targets.reshaped(Shape{rows}),
                                     loss);
  if (keep) return;
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
    loss::linear_cross_entropy_backward(s.stream, d_normed.view.as_rows(), s.head_gradient(),
                                        weights.reshaped(Shape{rows}), s.loss_log_sums.view,
                                        s.final_normed.view.as_rows(), s.packed_head, s.head_value().value.view,
                                        batch.targets.reshaped(Shape{rows}), settings);
    s.final_normed = {};
    s.loss_log_sums = {};
    s.norm_backward(dx.view, d_normed.view, s.last.view, s.final_statistics, s.final_norm, Accumulate::kOverwrite);
    s.last = {};
    s.final_statistics = {};
  }
  for (std::size_t layer = s.blocks.size(); layer-- > 0;) {
    Saved& saved = s.saved[layer];
    if (s.recomputed(layer)) s.forward_block(saved, batch, layer);
    dx = s.backward_block(saved, std::move(dx), batch, layer);
  }
  if (s.drops(batch, s.config.embedding_dropout)) {
    s.drop(dx.view, dx.view, batch, s.config.embedding_dropout, 0, Site::kEmbedding, Accumulate::kOverwrite);
  }
  const auto scale = static_cast<float>(s.config.embedding_scale);
  if (s.positions) {
    Tensor own;
    const ConstTensorView ids = s.position_ids(batch, own);
    embedding::embedding_backward(s.stream, s.tokens.gradient.view, s.positions.gradient.view, dx.view, batch.ids, ids,
                                  scale);
  } else {
    embedding::embedding_backward(s.stream, s.tokens.gradient.view, {}, dx.view, batch.ids, {}, scale);
  }
}

void Decoder::finish_gradients() {
  State& s = *state_;
  if (!s.config.tied) return;
  core::add(s.stream, s.tokens.gradient.view, s.tied_head_gradient.view);
}

}  // namespace braise::model
