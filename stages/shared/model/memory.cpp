// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/model/memory.h"

#include <algorithm>

#include "stages/shared/model/product_memory.h"

namespace braise::model {
namespace {

// Of products, besides: see kernels/linear/product_tiles.cpp and product_in_place.cpp.
constexpr std::int64_t kPartDepth = 4096;
constexpr std::int64_t kGroupTiles = 4;
constexpr std::int64_t kBlockBytes = (512 + kTileColumns) * 1024 * 2;

// Tokens of the vocabulary whose gradients the loss holds at a time: see kernels/loss/cross_entropy.cpp.
constexpr std::int64_t kLossTokens = 8192;

/// Bytes for each token of what a pass through the blocks holds; see decoder_block.cpp, whose order this follows.
class Activations {
 public:
  Activations(const Config& config, std::int64_t size, const Checkpointing& checkpointing)
      : layers_(config.layers),
        checkpointing_(checkpointing),
        stream_(config.hidden * size),
        statistics_((config.norm == Norm::kLayer ? 2 : 1) * kFloatBytes),
        q_(config.heads * config.head_size * size),
        qkv_(q_ + 2 * config.kv_heads * config.head_size * size),
        up_((config.gated ? 2 : 1) * config.intermediate * size),
        activated_(config.intermediate * size),
        attended_(q_ + config.heads * kFloatBytes),
        norm_before_(config.norm_before ? 1 : 0),
        norm_after_(config.norm_after ? 1 : 0),
        beside_(config.parallel ? stream_ : 0),
        branch_(config.norm_after || config.residual_dropout > 0 ? stream_ : 0) {
    if (!config.qk_norm) return;
    qk_ = (config.heads + config.kv_heads) * config.head_size * size;
    qk_ += (config.qk_norm_whole ? 2 : config.heads + config.kv_heads) * kFloatBytes;
  }

  std::int64_t most() const {
    std::int64_t below = 0;   // what the blocks before one keep
    std::int64_t moving = 0;  // an input of a block before one, on its way to where it is kept, or from there
    std::int64_t most = 0;
    for (std::int64_t layer = 0; layer < layers_; ++layer) {
      most = std::max(most, below + moving + std::max({forward(), mlp_backward(layer), attention_backward()}));
      if (recomputed(layer) && checkpointing_.elsewhere) {
        moving = stream_;
      } else {
        below += kept(layer);
      }
    }
    // The stream at the end and its norm, then the gradients of both.
    return std::max(most, below + moving + 4 * stream_ + statistics_ + kFloatBytes);
  }

 private:
  bool recomputed(std::int64_t layer) const {
    return checkpointing_.kind == Checkpointing::Kind::kEveryBlock && layer % checkpointing_.every == 0;
  }

  /// All that a block makes, with its input.
  std::int64_t whole() const {
    const std::int64_t norms = 2 * (norm_before_ + norm_after_);
    return (2 + norms) * stream_ + norms * statistics_ + qkv_ + qk_ + attended_ + up_ + activated_;
  }

  std::int64_t kept(std::int64_t layer) const {
    if (recomputed(layer)) return stream_;
    return whole() - (checkpointing_.kind == Checkpointing::Kind::kAttention ? attended_ : 0);
  }

  /// With the output, and what dropout takes it from; where it is done again, the gradient is there instead.
  std::int64_t forward() const { return whole() + stream_ + std::max(branch_, stream_); }

  /// With the gradients of the output, of what the last product gave, of `up` and of `activated`.
  std::int64_t mlp_backward(std::int64_t layer) const {
    const std::int64_t saved = recomputed(layer) ? whole() : kept(layer);
    return saved - norm_after_ * stream_ + stream_ + branch_ + up_ + activated_;
  }

  /// With the gradients of the output, of what the last product gave, of `qkv`, and then of `attended` or of the input.
  std::int64_t attention_backward() const {
    const std::int64_t saved = whole() - up_ - activated_ - (1 + norm_before_ + 2 * norm_after_) * stream_;
    return saved + stream_ + branch_ + beside_ + qkv_ + std::max(q_, stream_);
  }

  std::int64_t layers_;
  Checkpointing checkpointing_;
  std::int64_t stream_, statistics_, q_, qkv_, up_, activated_, attended_;
  std::int64_t qk_ = 0;
  std::int64_t norm_before_, norm_after_;  ///< of each of the two parts
  std::int64_t beside_;                    ///< of parallel parts: the gradient that one of them gives
  std::int64_t branch_;
};

}  // namespace

DecoderMemory training_memory(const Config& config, core::Dtype compute, const Checkpointing& checkpointing,
                              std::int64_t sequences, std::int64_t length, int threads) {
  const std::int64_t size = core::bits(compute) / 8;
  const std::int64_t tokens = sequences * length;
  const std::int64_t c = config.hidden;
  const std::int64_t d = config.head_size;
  const std::int64_t q = config.heads * d;
  const std::int64_t qkv = q + 2 * config.kv_heads * d;
  const std::int64_t f = config.intermediate;
  const std::int64_t up = (config.gated ? 2 : 1) * f;

  DecoderMemory memory;
  const std::int64_t parameters = config.parameter_count();
  memory.parameters = size * parameters;
  memory.gradients = kFloatBytes * (parameters + (config.tied ? config.vocabulary * c : 0));
  memory.activations = tokens * Activations(config, size, checkpointing).most();

  // A processor with tiles for bf16 reads the operands of weights' gradients where they lie.
  const bool in_place = compute == core::Dtype::kBfloat16;
  const std::int64_t operand = operand_bytes(compute);
  // Copies packed for the products of a block's forward and backward pass, and of the head.
  const std::int64_t head_packs = packed_bytes(compute, c, config.vocabulary);
  std::int64_t forward_packs = 0, backward_packs = 0;
  for (const auto& [depth, columns] : {std::pair{c, qkv}, {q, c}, {c, up}, {f, c}}) {
    forward_packs += packed_bytes(compute, depth, columns);
    backward_packs += packed_bytes(compute, columns, depth);
  }
  if (config.gated) forward_packs += packed_bytes(compute, c, gated_columns(up)) - packed_bytes(compute, c, up);
  std::int64_t tables = 0;
  if (config.rope) tables += length * config.rope->rotary * kFloatBytes;
  if (config.local_rope) tables += length * config.local_rope->rotary * kFloatBytes;

  // Of each thread that multiplies: the sums of some tiles, and rows that do not lie as they are read.
  const auto tiles = [&](std::int64_t depth) {
    const std::int64_t sums =
        kTileRows * kTileColumns * kFloatBytes * (depth > kPartDepth && !in_place ? kGroupTiles : 1);
    return threads * (sums + kTileRows * depth * operand);
  };
  // y += a' b for a and b of so many rows: b is packed, or each thread packs a block of both.
  const auto product = [&](std::int64_t rows, std::int64_t columns) {
    return in_place ? threads * kBlockBytes : packed_bytes(compute, rows, columns) + tiles(rows);
  };
  const std::int64_t chunk = std::min(kLossTokens, config.vocabulary);
  const std::int64_t loss = tokens * (chunk * size + (compute == core::Dtype::kFloat32 ? 0 : c * kFloatBytes)) +
                            std::max({product(chunk, c), product(tokens, c), tiles(c)});
  const std::int64_t widest = config.family == Family::kGpt2 ? std::max(qkv, up) : std::max({c, q, f});
  const std::int64_t weight_gradients = product(tokens, widest);
  const std::int64_t keys = rounded_up(length, kTileColumns);
  const std::int64_t queries = rounded_up(length, kTileRows);
  const std::int64_t columns = rounded_up(d, kColumnBlock);
  const std::int64_t attention =
      sequences * config.kv_heads * (packed_bytes(compute, d, keys) + keys * columns * operand) +
      threads * kTileRows * (d * operand + kTileColumns * (kFloatBytes + operand) + columns * kFloatBytes);
  // Of each thread, one head of keys with all that comes of it, and of queries; and a tile of scores.
  const std::int64_t attention_backward =
      threads * (keys * (3 * d * operand + 2 * columns * kFloatBytes) + queries * (2 * (d + columns) * operand + 12) +
                 kTileRows * kTileColumns * (2 * kFloatBytes + 3 * operand) + 2 * kTileRows * d * kFloatBytes);
  const std::int64_t backward = std::max(weight_gradients, attention_backward);
  memory.workspace =
      tables + head_packs + config.layers * (forward_packs + backward_packs) + std::max({loss, attention, backward});
  const bool recomputes = checkpointing.kind == Checkpointing::Kind::kEveryBlock;
  memory.gathered_workspace =
      tables + std::max({head_packs + loss, forward_packs + attention,
                         backward_packs + (recomputes ? forward_packs : 0) + std::max(backward, attention)});
  return memory;
}

}  // namespace braise::model
