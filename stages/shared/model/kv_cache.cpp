// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/model/kv_cache.h"

#include <string>

#include "kernels/core/copy.h"
#include "kernels/core/error.h"

namespace braise::model {
namespace {

core::Shape shape_of(const Config& config, std::int64_t sequences, std::int64_t positions) {
  return core::Shape{config.layers, sequences, config.kv_heads, positions, config.head_size};
}

}  // namespace

KvCache::KvCache(core::Arena& arena, const Config& config, core::Dtype dtype, std::int64_t sequences,
                 std::int64_t positions)
    : positions_(positions) {
  core::require(core::is_float(dtype), "a KV cache", "must be of fp32, bf16 or fp16");
  core::require(sequences > 0 && positions > 0, "a KV cache", "must hold at least one sequence of one token");
  lengths_.resize(static_cast<std::size_t>(sequences));
  const core::Shape shape = shape_of(config, sequences, positions);
  keys_ = arena.tensor(dtype, shape, core::Category::kKv, "keys");
  values_ = arena.tensor(dtype, shape, core::Category::kKv, "values");
}

bool KvCache::fits(const Config& config, core::Dtype dtype) const {
  return keys_.view.dtype() == dtype && keys_.view.shape() == shape_of(config, sequences(), positions_);
}

std::int64_t KvCache::length(std::int64_t sequence) const {
  if (sequence < 0 || sequence >= sequences()) {
    throw core::Error("a KV cache of " + std::to_string(sequences()) + " sequences has no sequence " +
                      std::to_string(sequence));
  }
  return lengths_[static_cast<std::size_t>(sequence)];
}

void KvCache::clear(std::int64_t sequence) {
  length(sequence);  // checks that there is one
  lengths_[static_cast<std::size_t>(sequence)] = 0;
}

std::vector<std::int32_t> KvCache::positions_of(std::span<const Extension> extensions) const {
  std::vector<std::int32_t> positions;
  std::vector<bool> seen(lengths_.size());
  for (const Extension& extension : extensions) {
    const std::int64_t begin = length(extension.sequence);
    const auto sequence = static_cast<std::size_t>(extension.sequence);
    const std::string which = "sequence " + std::to_string(extension.sequence) + " of a KV cache";
    if (seen[sequence]) throw core::Error(which + " is extended twice in one pass");
    seen[sequence] = true;
    if (extension.tokens < 1) throw core::Error(which + " is extended by no token");
    if (extension.tokens > positions_ - begin) {
      throw core::Error(which + " has " + std::to_string(begin) + " tokens and room for " +
                        std::to_string(positions_ - begin) + " more, not for " + std::to_string(extension.tokens));
    }
    for (std::int64_t i = 0; i < extension.tokens; ++i) positions.push_back(static_cast<std::int32_t>(begin + i));
  }
  return positions;
}

core::TensorView KvCache::view(const core::Tensor& of, std::int64_t layer, std::int64_t sequence,
                               std::int64_t length) const {
  const core::TensorView all = of.view.select(0, layer).slice(0, sequence, sequence + 1);  // [1, G, positions, D]
  return all.slice(2, 0, length).transposed(1, 2);
}

void KvCache::attend(core::Stream& stream, std::int64_t layer, std::span<const Extension> extensions,
                     const core::TensorView& o, const core::ConstTensorView& q, const core::ConstTensorView& k,
                     const core::ConstTensorView& v, float scale, const attention::Mask& mask) {
  std::int64_t row = 0;
  for (const Extension& extension : extensions) {
    const std::int64_t before = length(extension.sequence);
    const std::int64_t after = before + extension.tokens;
    const std::int64_t end = row + extension.tokens;
    const core::TensorView keys = view(keys_, layer, extension.sequence, after);
    const core::TensorView values = view(values_, layer, extension.sequence, after);
    core::copy(stream, keys.slice(1, before, after), k.slice(1, row, end));
    core::copy(stream, values.slice(1, before, after), v.slice(1, row, end));
    attention::attention_forward(stream, o.slice(1, row, end), {}, q.slice(1, row, end), keys, values, scale, mask);
    row = end;
  }
}

void KvCache::advance(std::span<const Extension> extensions) {
  for (const Extension& extension : extensions) {
    lengths_[static_cast<std::size_t>(extension.sequence)] += extension.tokens;
  }
}

}  // namespace braise::model
