// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/model/memory.h"

#include <algorithm>

#include "stages/shared/model/parameters.h"

namespace braise::model {
namespace {

constexpr std::int64_t kFloatBytes = 4;

// Of a packed matrix: see kernels/linear/tile_product.h.
constexpr std::int64_t kColumnBlock = 64;
constexpr std::int64_t kDepthBlock = 32;

// Columns of logits that the loss holds at a time: see kernels/loss/cross_entropy.h.
constexpr std::int64_t kLossColumns = 8192;

std::int64_t rounded_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

std::int64_t packed_elements(std::int64_t depth, std::int64_t columns) {
  return rounded_up(depth, kDepthBlock) * rounded_up(columns, kColumnBlock);
}

/// Elements of activations of the compute dtype, and of fp32, for each token.
struct PerToken {
  std::int64_t computed = 0;
  std::int64_t floats = 0;
  std::int64_t bytes(std::int64_t size) const { return computed * size + floats * kFloatBytes; }
};

}  // namespace

DecoderMemory training_memory(const Config& config, core::Dtype compute, const Checkpointing& checkpointing,
                              std::int64_t sequences, std::int64_t length, int threads) {
  const std::int64_t size = core::bits(compute) / 8;
  const std::int64_t tokens = sequences * length;
  const std::int64_t c = config.hidden;
  const std::int64_t q = config.heads * config.head_size;
  const std::int64_t qkv = q + 2 * config.kv_heads * config.head_size;
  const std::int64_t f = config.intermediate;
  const std::int64_t up = (config.gated ? 2 : 1) * f;
  const std::int64_t statistics = config.norm == Norm::kLayer ? 2 : 1;

  DecoderMemory memory;
  const std::int64_t parameters = config.parameter_count();
  std::int64_t packed = 0;
  for (const auto& [depth, columns] : {std::pair{c, qkv}, {q, c}, {c, up}, {f, c}}) {
    packed += packed_elements(depth, columns) + packed_elements(columns, depth);
  }
  packed = config.layers * packed + packed_elements(c, config.vocabulary);
  memory.parameters = size * parameters;
  memory.gradients = kFloatBytes * (parameters + (config.tied ? config.vocabulary * c : 0));

  // What a block keeps: see decoder_block.cpp.
  const PerToken input{c, 0};
  PerToken attention{q, config.heads};
  PerToken kept{c + qkv + c + c + up + f, 2 * statistics};
  if (config.qk_norm) kept.computed += q + config.kv_heads * config.head_size;
  if (config.qk_norm) kept.floats += config.heads + config.kv_heads;
  const std::int64_t whole = input.bytes(size) + attention.bytes(size) + kept.bytes(size);
  std::int64_t per_token = config.layers * whole;
  if (checkpointing.kind == Checkpointing::Kind::kAttention) {
    per_token -= (config.layers - 1) * attention.bytes(size);
  } else if (checkpointing.kind == Checkpointing::Kind::kEveryBlock) {
    const std::int64_t thrown = (config.layers + checkpointing.every - 1) / checkpointing.every;
    per_token -= (thrown - 1) * (whole - input.bytes(size));
  }
  // Beside what is kept, the gradients of the widest part of one block.
  const std::int64_t widest = std::max(up + std::max(f, c), qkv + std::max(q, c));
  per_token += (c + widest) * size;
  memory.activations = tokens * per_token;

  const std::int64_t loss = tokens * (kLossColumns * size + c * kFloatBytes + c * size);
  const std::int64_t tile = threads * (std::int64_t{128} * 256 * kFloatBytes + 128 * std::max({c, q, up, f}) * size);
  memory.workspace = size * packed + loss + tile;
  return memory;
}

}  // namespace braise::model
