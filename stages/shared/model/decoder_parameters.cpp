// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <initializer_list>
#include <map>
#include <set>

#include "kernels/core/add.h"
#include "kernels/core/copy.h"
#include "kernels/core/error.h"
#include "kernels/core/random_fill.h"
#include "stages/shared/model/decoder_state.h"

namespace braise::model {
namespace {

using core::Category;
using core::ConstTensorView;
using core::Dtype;
using core::RandomStream;
using core::Shape;
using core::Tensor;
using core::TensorView;

std::array<Linear*, 4> linears(Block& block) {
  return {&block.qkv, &block.o, &block.up, &block.down};
}

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
  Block& block = blocks[static_cast<std::size_t>(spec.layer - part.blocks.begin)];
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
    case Role::kAfter1Weight:
      return block.after1.weight;
    case Role::kAfter1Bias:
      return block.after1.bias;
    case Role::kAfter2Weight:
      return block.after2.weight;
    case Role::kAfter2Bias:
      return block.after2.bias;
    default:
      return block.down.bias;
  }
}

void Decoder::State::make_parameters() {
  blocks.resize(static_cast<std::size_t>(part.blocks.size()));
  for (Block& block : blocks) {
    for (Linear* const linear : linears(block)) linear->outputs_first = config.family != Family::kGpt2;
  }
  const std::vector<PartSpec> specs = part_specs(config, part);
  for (const PartSpec& one : specs) {
    value_of(one.spec).is_there = true;
    parameters.push_back({one.spec, one.cut, {}, {}});
  }
  units = make_units(config, part, specs);
  accumulators.resize(units.all.size());
  if (settings.keeper != nullptr) return;
  const auto hold = [&](int unit, Dtype dtype, Category category) {
    return stream.arena().tensor(dtype, Shape{units.at(unit).elements}, category, units.at(unit).name);
  };
  for (int unit = 0; unit < units.size(); ++unit) {
    if (units.at(unit).values) {
      held_values.push_back(hold(unit, settings.compute, Category::kParameters));
      place(unit, held_values.back().view, false);
    }
    if (settings.gradients) {
      held_gradients.push_back(hold(unit, Dtype::kFloat32, Category::kGradients));
      place(unit, held_gradients.back().view, true);
    }
  }
}

void Decoder::State::place(int unit, const TensorView& memory, bool gradient) {
  const Unit& placed = units.at(unit);
  if (memory) {
    core::require_tensor("place", placed.name.c_str(), memory, gradient ? Dtype::kFloat32 : settings.compute,
                         Shape{placed.elements});
    core::require(memory.contiguous(), "place", "the memory of a unit is not contiguous");
  }
  if (gradient) accumulators[static_cast<std::size_t>(unit)] = memory;
  const auto part_at = [&](std::int64_t begin, const Shape& shape) {
    return memory ? memory.slice(0, begin, begin + shape.elements()).reshaped(shape) : TensorView();
  };
  std::map<const Value*, std::int64_t> rows;  // of parameters that are used as one, which follow each other
  for (const Unit::Place& place : placed.places) {
    const Parameter& its = parameters[place.parameter];
    rows[&value_at(unit, its.spec)] += its.cut.shape()[0];
  }
  for (const Unit::Place& place : placed.places) {
    Parameter& parameter = parameters[place.parameter];
    const Shape shape = parameter.cut.shape();
    if (placed.values) (gradient ? parameter.gradient : parameter.value) = part_at(place.offset, shape);
    Value& value = value_at(unit, parameter.spec);
    const auto first = rows.find(&value);
    if (first == rows.end()) continue;
    (gradient ? value.gradient : value.value).view =
        part_at(place.offset, shape.rank() == 1 ? Shape{first->second} : Shape{first->second, shape[1]});
    rows.erase(first);
  }
}

Decoder::State::Shared Decoder::State::shared_of(int unit) {
  Shared found;
  const auto add = [](std::vector<Value*>& to, std::initializer_list<Value*> values) {
    for (Value* const value : values) {
      if (*value) to.push_back(value);
    }
  };
  if (unit == units.end) add(found.by_all, {&final_norm.weight, &final_norm.bias});
  if (unit < units.first_block || unit >= units.end) return found;
  Block& block = blocks[static_cast<std::size_t>(unit - units.first_block)];
  for (NormParameters* const norm : {&block.norm1, &block.norm2, &block.after1, &block.after2}) {
    add(found.by_all, {&norm->weight, &norm->bias});
  }
  add(found.by_all, {&block.q_norm, &block.k_norm, &block.o.bias, &block.down.bias});
  if (shares.kv_copies > 1) add(found.by_copies, {&block.qkv.weight, &block.qkv.bias});
  return found;
}

void Decoder::State::begin_shares(int unit) {
  if (axis == nullptr) return;
  const Shared values = shared_of(unit);
  std::int64_t elements = 0;
  for (const std::vector<Value*>* const some : {&values.by_all, &values.by_copies}) {
    for (const Value* const value : *some) elements += value->gradient.view.elements();
  }
  share_memory = stream.arena().tensor(Dtype::kFloat32, Shape{elements}, Category::kWorkspace, "tensor axis");
  core::fill(stream, share_memory.view, 0);
  std::int64_t begin = 0;
  for (const std::vector<Value*>* const some : {&values.by_all, &values.by_copies}) {
    for (Value* const value : *some) {
      const Shape& shape = value->gradient.view.shape();
      value->share = share_memory.view.slice(0, begin, begin + shape.elements()).reshaped(shape);
      begin += shape.elements();
    }
  }
}

void Decoder::State::add_shares(int unit) {
  if (axis == nullptr) return;
  const Shared values = shared_of(unit);
  std::vector<TensorView> by_all, by_copies;
  for (const Value* const value : values.by_all) by_all.push_back(value->share);
  // The rows of keys and values; those of queries are this rank's alone.
  for (const Value* const value : values.by_copies) {
    by_copies.push_back(value->share.slice(0, q_size(), q_size() + 2 * kv_size()));
  }
  axis->sum(by_all);
  axis->sum_copies(by_copies);
  for (const std::vector<Value*>* const some : {&values.by_all, &values.by_copies}) {
    for (Value* const value : *some) {
      core::add(stream, value->gradient.view, value->share);
      value->share = {};
    }
  }
  share_memory = {};
}

void Decoder::State::pack(linear::PackedMatrix& packed, const ConstTensorView& matrix, const std::string& owner,
                          linear::Columns columns) const {
  if (packed.data() == nullptr) {
    packed = linear::PackedMatrix(stream.arena(), settings.compute, matrix.extent(0), matrix.extent(1),
                                  Category::kWorkspace, owner + " packed", columns);
  }
  packed.pack(stream, matrix);
}

void Decoder::place_values(int unit, const TensorView& memory) {
  state_->place(unit, memory, false);
}

void Decoder::place_gradients(int unit, const TensorView& memory) {
  state_->place(unit, memory, true);
}

void Decoder::pack(int unit, const Packs& packs) {
  State& s = *state_;
  const std::string& owner = s.units.at(unit).name;
  if (unit == s.units.end && packs.forward) s.pack(s.packed_head, s.head_value().value.view.transposed(0, 1), owner);
  if (unit < s.units.first_block || unit >= s.units.end) return;
  Block& block = s.blocks[static_cast<std::size_t>(unit - s.units.first_block)];
  for (Linear* const linear : linears(block)) {
    const bool gated = s.config.gated && linear == &block.up;
    if (packs.forward) {
      s.pack(linear->forward, linear->matrix(), owner, gated ? linear::Columns::kGated : linear::Columns::kPlain);
    }
    if (packs.backward) s.pack(linear->backward, linear->matrix().transposed(0, 1), owner);
  }
}

void Decoder::drop_packs(int unit) {
  State& s = *state_;
  if (unit == s.units.end) s.packed_head = {};
  if (unit < s.units.first_block || unit >= s.units.end) return;
  for (Linear* const linear : linears(s.blocks[static_cast<std::size_t>(unit - s.units.first_block)])) {
    linear->forward = {};
    linear->backward = {};
  }
}

void take_cut(core::Stream& stream, const TensorView& destination, const ConstTensorView& logical, const Cut& cut) {
  std::int64_t row = 0;
  for (const Extent& rows : cut.rows) {
    const TensorView to = destination.slice(0, row, row + rows.size());
    const ConstTensorView from = logical.slice(0, rows.begin, rows.end);
    row += rows.size();
    if (cut.columns.empty()) core::copy(stream, to, from);
    std::int64_t column = 0;
    for (const Extent& columns : cut.columns) {
      core::copy(stream, to.slice(1, column, column + columns.size()), from.slice(1, columns.begin, columns.end));
      column += columns.size();
    }
  }
}

void read_cut(core::Stream& stream, const weights::Weights& weights, const std::string& name, const Cut& cut,
              const TensorView& destination) {
  if (cut.whole()) return weights.read(stream, name, destination);
  const Tensor all = stream.arena().tensor(destination.dtype(), cut.logical, Category::kWorkspace, "load");
  weights.read(stream, name, all.view);
  take_cut(stream, destination, all.view, cut);
}

void initialise(core::Stream& stream, const TensorView& value, const ParameterSpec& spec, const Cut& cut,
                const Config& config, std::uint64_t seed, std::int64_t first) {
  if (spec.initial != Initial::kNormal) {
    const double one = 1 - config.norm_offset;
    return core::fill(stream, value, spec.initial == Initial::kOnes ? static_cast<float>(one) : 0.0f);
  }
  const RandomStream random(seed, core::Purpose::kInitialisation, core::name_hash(spec.name));
  const TensorView flat = value.reshaped(Shape{value.elements()});
  const std::int64_t last = first + value.elements();
  cut.for_each_run([&](std::int64_t mine, std::int64_t element, std::int64_t count) {
    const std::int64_t begin = std::max(mine, first);
    const std::int64_t end = std::min(mine + count, last);
    if (begin >= end) return;
    core::fill_normal(stream, flat.slice(0, begin - first, end - first), random,
                      static_cast<std::uint64_t>(element + begin - mine), 0.0f, static_cast<float>(spec.std));
  });
}

void Decoder::initialise(std::uint64_t seed) {
  for (const Parameter& parameter : state_->parameters) {
    model::initialise(state_->stream, parameter.value, parameter.spec, parameter.cut, state_->config, seed);
  }
  values_changed();
}

const weights::TensorInfo* find_parameter(const weights::Weights& weights, const ParameterSpec& spec) {
  if (const weights::TensorInfo* const found = weights.find(spec.name)) return found;
  for (const std::string& prefix : {std::string("transformer."), std::string("model."), std::string("gpt_neox.")}) {
    if (!spec.name.starts_with(prefix)) continue;
    if (const weights::TensorInfo* const found = weights.find(spec.name.substr(prefix.size()))) return found;
  }
  return nullptr;
}

void check_weights(core::Stream& stream, core::Arena& workspace, const weights::Weights& weights,
                   const Config& config) {
  std::string problems;
  std::set<std::string> used;
  for (const ParameterSpec& spec : parameter_specs(config)) {
    const weights::TensorInfo* const found = find_parameter(weights, spec);
    if (found == nullptr) {
      problems += "\n  " + spec.name + " is missing";
    } else if (found->shape != spec.shape) {
      problems += "\n  " + found->name + " is " + found->shape.text() + ", not " + spec.shape.text();
    } else {
      used.insert(found->name);
    }
  }
  for (const weights::TensorInfo& tensor : weights.tensors()) {
    // Old files of GPT-2 and GPT-NeoX hold the causal mask, and of Llama the frequencies, as if they were weights.
    static const std::set<std::string> kConstants{".attn.bias", ".attn.masked_bias", ".attention.bias",
                                                  ".attention.masked_bias", "rotary_emb.inv_freq"};
    const bool constant = std::any_of(kConstants.begin(), kConstants.end(),
                                      [&](const std::string& end) { return tensor.name.ends_with(end); });
    const bool tied_head = tensor.name == head_name(config) && config.tied;
    if (!used.contains(tensor.name) && !constant && !tied_head)
      problems += "\n  " + tensor.name + " is not the model's";
  }
  if (!problems.empty()) throw core::Error("weights that do not fit the model:" + problems);
  const std::string head_weight = head_name(config);
  if (!config.tied || weights.find(head_weight) == nullptr) return;
  const ParameterSpec tokens = parameter_specs(config).front();
  const auto read = [&](const std::string& name) {
    Tensor tensor = workspace.tensor(Dtype::kFloat32, tokens.shape, Category::kWorkspace, "load");
    weights.read(stream, name, tensor.view);
    return tensor;
  };
  const Tensor head = read(head_weight);
  const Tensor embedding = read(find_parameter(weights, tokens)->name);
  const auto* const bytes = static_cast<const std::byte*>(head.view.raw());
  if (!std::equal(bytes, bytes + head.view.bytes(), static_cast<const std::byte*>(embedding.view.raw()))) {
    throw core::Error("weights that do not fit the model: " + head_weight +
                      " differs from the embedding it is tied to");
  }
}

void Decoder::load(const weights::Weights& weights) {
  State& s = *state_;
  check_weights(s.stream, s.stream.arena(), weights, s.config);
  for (const Parameter& parameter : s.parameters) {
    read_cut(s.stream, weights, find_parameter(weights, parameter.spec)->name, parameter.cut, parameter.value);
  }
  values_changed();
}

void Decoder::values_changed() {
  State& s = *state_;
  for (int unit = 0; unit < s.units.size(); ++unit) {
    const Unit& changed = s.units.at(unit);
    if (!changed.values || !s.parameters[changed.places.front().parameter].value) continue;
    pack(unit, {.forward = true, .backward = s.settings.gradients});
  }
}

void Decoder::zero_gradients() {
  core::require(state_->settings.gradients, "zero_gradients", "the decoder has none");
  for (const TensorView& accumulator : state_->accumulators) {
    if (accumulator) core::fill(state_->stream, accumulator, 0.0f);
  }
}

}  // namespace braise::model
