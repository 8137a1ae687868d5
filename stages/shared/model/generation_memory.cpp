// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/model/generation_memory.h"

#include <algorithm>
#include <utility>

#include "kernels/core/shape.h"
#include "stages/shared/model/product_memory.h"

namespace braise::model {

std::int64_t kv_cache_bytes(const Config& config, core::Dtype dtype, std::int64_t sequences, std::int64_t positions) {
  return 2 * core::Shape{config.layers, sequences, config.kv_heads, positions, config.head_size}.elements() *
         (core::bits(dtype) / 8);
}

GenerationMemory generation_memory(const Config& config, core::Dtype compute, const GenerationShape& shape) {
  const std::int64_t size = core::bits(compute) / 8;
  const std::int64_t c = config.hidden;
  const std::int64_t d = config.head_size;
  const std::int64_t q = config.heads * d;
  const std::int64_t qkv = q + 2 * config.kv_heads * d;
  const std::int64_t f = config.intermediate;
  const std::int64_t up = (config.gated ? 2 : 1) * f;

  GenerationMemory memory;
  const Products products(compute, shape.tier);
  std::int64_t packed = products.packed_bytes(c, config.vocabulary);
  for (const auto& [depth, columns] : {std::pair{c, qkv}, {q, c}, {c, config.gated ? gated_columns(up) : up}, {f, c}}) {
    packed += config.layers * products.packed_bytes(depth, columns);
  }
  memory.parameters = size * config.parameter_count();
  memory.kv = kv_cache_bytes(config, compute, shape.sequences, shape.positions);

  // All of one block: see decoder_block.cpp. Then the last rows of each sequence.
  const std::int64_t statistics = config.norm == Norm::kLayer ? 2 : 1;
  const std::int64_t norms = (config.norm_before ? 2 : 0) + (config.norm_after ? 2 : 0);
  std::int64_t computed = (3 + norms) * c + qkv + q + up + f;
  std::int64_t floats = norms * statistics;
  if (config.qk_norm) {
    computed += q + config.kv_heads * d;
    floats += config.qk_norm_whole ? 2 : config.heads + config.kv_heads;
  }
  memory.activations =
      shape.pass_tokens * (computed * size + floats * kFloatBytes) + shape.sequences * config.vocabulary * kFloatBytes;

  // Attention packs the keys and values of one sequence, and each thread has a tile of queries.
  const std::int64_t attention =
      attention_bytes(products, 1, config.kv_heads, shape.positions, d, false, shape.threads);
  // A product's tiles of each thread, or what sampling ranks.
  const std::int64_t product = shape.threads * products.tile_bytes(std::max({c, q, f}));
  constexpr std::int64_t kRankedBytes = 12;
  const std::int64_t sampling = shape.threads * config.vocabulary * kRankedBytes;
  memory.workspace = packed + std::max({attention, product, sampling});
  if (config.rope) memory.workspace += shape.positions * config.rope->rotary * kFloatBytes;
  if (config.local_rope) memory.workspace += shape.positions * config.local_rope->rotary * kFloatBytes;
  return memory;
}

}  // namespace braise::model
