// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <map>
#include <set>

#include "kernels/core/copy.h"
#include "kernels/core/error.h"
#include "kernels/core/random_fill.h"
#include "stages/shared/model/decoder_state.h"

namespace braise::model {
namespace {

using core::Category;
using core::Dtype;
using core::RandomStream;
using core::Shape;
using core::Tensor;
using core::TensorView;

}  // namespace

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

}  // namespace braise::model
