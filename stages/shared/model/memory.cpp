// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/model/memory.h"

#include <algorithm>

#include "stages/shared/model/product_memory.h"

namespace braise::model {
namespace {

// Tokens of the vocabulary whose gradients the loss holds at a time: see kernels/loss/cross_entropy.cpp.
constexpr std::int64_t kLossTokens = 8192;

// Of a token's loss over a part of the vocabulary: see loss::kPartials.
constexpr std::int64_t kPartialBytes = 4 * kFloatBytes;

/// Goes through the passes of a rank as the decoder does, and notes what activations it holds; see decoder.cpp,
/// decoder_block.cpp and pipeline.cpp, whose order this follows.
class Activations {
 public:
  Activations(const Config& config, std::int64_t size, const Checkpointing& checkpointing, std::int64_t tokens,
              const PassPlace& place)
      : config_(config),
        checkpointing_(checkpointing),
        place_(place),
        width_(place.part.tensor_width),
        tokens_(tokens),
        rows_((tokens + width_ - 1 - place.part.tensor) / width_),
        stream_(rows_ * config.hidden * size),
        whole_stream_(tokens * config.hidden * size),
        terms_(tokens * config.hidden * kFloatBytes),
        sum_(rows_ * config.hidden * kFloatBytes),
        statistics_(rows_ * (config.norm == Norm::kLayer ? 2 : 1) * kFloatBytes) {
    const Shares shares = shares_of(config, place.part);
    const std::int64_t heads = shares.heads.size(), kv_heads = shares.kv_heads.size();
    q_ = tokens * heads * config.head_size * size;
    qkv_ = q_ + tokens * 2 * kv_heads * config.head_size * size;
    attended_ = q_ + tokens * heads * kFloatBytes;
    activated_ = tokens * shares.intermediate.size() * size;
    up_ = (config.gated ? 2 : 1) * activated_;
    if (!config.qk_norm) return;
    qk_ = tokens *
          ((heads + kv_heads) * config.head_size * size + (config.qk_norm_whole ? 2 : heads + kv_heads) * kFloatBytes);
  }

  /// With what is sent to other ranks meanwhile.
  void go(DecoderMemory& memory) {
    const std::int64_t stages_after = place_.stages - 1 - place_.stage;
    // More micro-batches are more of the same.
    const std::int64_t count = std::min<std::int64_t>(place_.micro_batches, place_.stages + 1);
    const std::int64_t ahead = std::min(count, stages_after);
    std::int64_t inputs = is_first() ? 0 : count, gradients = stages_after == 0 ? 0 : count;
    const auto ask = [&](std::int64_t& left) {
      if (left > 0) hold(stream_);
      left -= left > 0 ? 1 : 0;
    };
    ask(inputs);
    ask(gradients);
    std::int64_t sent = 0, sent_back = 0;  // what is on its way to other stages
    const auto go_forward = [&] {
      ask(inputs);
      forward();
      if (stages_after == 0) return;
      drop(sent);
      sent = stream_;
    };
    const auto go_backward = [&] {
      ask(gradients);
      backward();
      if (is_first()) return;
      drop(sent_back);
      sent_back = stream_;
    };
    std::int64_t begun = 0, done = 0;
    for (; begun < ahead; ++begun) go_forward();
    for (; begun < count; ++begun, ++done) {
      go_forward();
      go_backward();
    }
    for (; done < count; ++done) go_backward();
    memory.activations = most_;
    memory.sent_to_tensor = sent_to_tensor_ / count * place_.micro_batches;
    memory.sent_to_stages = ((is_first() ? 0 : 1) + (stages_after == 0 ? 0 : 1)) * stream_ * place_.micro_batches;
  }

 private:
  void hold(std::int64_t bytes) {
    now_ += bytes;
    most_ = std::max(most_, now_);
  }
  void drop(std::int64_t bytes) { now_ -= bytes; }
  void pass_by(std::int64_t bytes) { most_ = std::max(most_, now_ + bytes); }
  bool is_shared() const { return width_ > 1; }
  bool is_first() const { return place_.part.blocks.begin == 0; }
  bool has_head() const { return place_.part.blocks.end == config_.layers; }
  bool drops() const { return config_.residual_dropout > 0; }
  bool recomputed(std::int64_t layer) const {
    return checkpointing_.kind == Checkpointing::Kind::kEveryBlock && layer % checkpointing_.every == 0;
  }

  /// All rows of what this rank has its rows of.
  std::int64_t gathered() {
    if (is_shared()) sent_to_tensor_ += (width_ - 1) * stream_;
    return is_shared() ? whole_stream_ : 0;
  }
  /// A sum over the ranks that share blocks.
  void scatter_sum() {
    hold(sum_);
    drop(terms_);
    sent_to_tensor_ += terms_ - sum_;
  }

  void embed() {
    hold(stream_);
    const bool places = config_.positions > 0 && !config_.rope && place_.part.tensor == 0;
    const std::int64_t ids = places ? tokens_ * 4 : 0;
    hold(ids);
    if (is_shared()) {
      hold(terms_);
      scatter_sum();
      drop(sum_);
    }
    drop(ids);
  }

  void project() {
    if (!is_shared()) return;
    hold(terms_);
    scatter_sum();
    drop(sum_);
  }

  /// What a part of a block adds to the stream.
  void add_branch() {
    hold(stream_);
    if (config_.norm_after) hold(stream_);
    if (!config_.norm_after && drops()) hold(stream_);
    project();
    if (config_.norm_after) hold(statistics_);
    if (!config_.norm_after && drops()) drop(stream_);
  }

  /// Its output is held after what it saves.
  void forward_block() {
    const std::int64_t norm = config_.norm_before ? stream_ + statistics_ : 0;
    hold(norm);
    hold(qkv_);
    pass_by(gathered());
    hold(qk_);
    hold(attended_);
    add_branch();
    hold(norm);
    hold(up_ + activated_);
    pass_by(gathered());
    add_branch();
  }

  void forward() {
    if (is_first()) embed();
    for (std::int64_t layer = place_.part.blocks.begin; layer < place_.part.blocks.end; ++layer) {
      const std::int64_t before = now_;
      forward_block();
      if (recomputed(layer)) {
        drop(now_ - before - stream_);
        if (checkpointing_.elsewhere) keep_elsewhere();
      } else if (checkpointing_.kind == Checkpointing::Kind::kAttention) {
        drop(attended_);
      }
    }
    if (!has_head()) return;
    hold(stream_ + statistics_ + tokens_ * kFloatBytes);
    const std::int64_t partials = is_shared() ? width_ * tokens_ * kPartialBytes : 0;
    hold(partials);
    pass_by(gathered());
    drop(partials);
  }

  /// One input is on its way to where it is kept, or back.
  void keep_elsewhere() {
    if (moving_) drop(stream_);
    moving_ = true;
  }

  void backward() {
    if (has_head()) {
      hold(stream_);
      if (is_shared()) {
        hold(terms_);
        pass_by(gathered());
        scatter_sum();
      } else {
        hold(stream_);
      }
      drop(2 * (stream_ + statistics_) - statistics_ + tokens_ * kFloatBytes);
      drop(is_shared() ? sum_ : stream_);
    }
    for (std::int64_t layer = place_.part.blocks.end - 1; layer >= place_.part.blocks.begin; --layer) {
      if (recomputed(layer)) {
        if (checkpointing_.elsewhere && has_recomputed_before(layer)) hold(stream_);
        if (checkpointing_.elsewhere && !has_recomputed_before(layer)) moving_ = false;
        forward_block();
        drop(stream_);
      }
      backward_block(recomputed(layer) || checkpointing_.kind != Checkpointing::Kind::kAttention);
    }
    if (!is_first()) return;
    const std::int64_t ids = config_.positions > 0 && !config_.rope ? tokens_ * 4 : 0;
    pass_by(gathered() + ids);
    drop(stream_);
  }

  bool has_recomputed_before(std::int64_t layer) const {
    for (std::int64_t other = place_.part.blocks.begin; other < layer; ++other) {
      if (recomputed(other)) return true;
    }
    return false;
  }

  /// Backwards through a product out of the stream; its gradient is dropped.
  void read_backward() {
    if (is_shared()) {
      const std::int64_t all = gathered();
      hold(all + terms_);
      scatter_sum();
      drop(all);
    } else {
      hold(stream_);
    }
  }

  /// The gradient of the output is held before, that of the input after.
  void backward_block(bool has_attended) {
    const std::int64_t branch = config_.norm_after || drops() ? stream_ : 0;
    const std::int64_t added = config_.norm_after ? stream_ : 0;
    const std::int64_t normed = config_.norm_before ? stream_ : 0;
    const std::int64_t d_read = is_shared() ? sum_ : stream_;
    const std::int64_t d_input = config_.parallel ? stream_ : 0;
    hold(branch);
    drop(added);
    hold(up_ + activated_);
    pass_by(gathered());
    drop(2 * activated_ + up_);
    read_backward();
    hold(d_input);
    drop(normed + stream_ + d_read + up_ + branch);

    hold(branch);
    drop(added);
    hold(qkv_);
    if (!has_attended) hold(attended_);
    hold(q_);
    pass_by(gathered());
    drop(q_);
    read_backward();
    drop(d_read + qkv_ + branch + d_input);
    // What is saved to the last.
    const std::int64_t norms = (config_.norm_before ? 2 : 0) + (config_.norm_after ? 2 : 0);
    drop(stream_ + normed + norms * statistics_ + qkv_ + qk_ + attended_);
  }

  const Config& config_;
  const Checkpointing checkpointing_;
  const PassPlace& place_;
  const std::int64_t width_, tokens_, rows_;
  const std::int64_t stream_, whole_stream_;  // of this rank's rows, and of all
  const std::int64_t terms_, sum_;            // of a product that ranks have parts of
  const std::int64_t statistics_;
  std::int64_t q_ = 0, qkv_ = 0, up_ = 0, activated_ = 0, attended_ = 0, qk_ = 0;
  std::int64_t now_ = 0, most_ = 0, sent_to_tensor_ = 0;
  bool moving_ = false;
};

/// Of a block's gradients that other ranks have too, this rank's share until they are summed.
std::int64_t shared_gradient_bytes(const Config& config, const Part& part) {
  if (part.tensor_width == 1) return 0;
  const bool copies = shares_of(config, part).kv_copies > 1;
  std::int64_t elements = 0;
  for (const PartSpec& one : part_specs(config, part)) {
    if (one.spec.layer != part.blocks.begin) continue;
    const bool is_qkv = one.spec.role == Role::kQkvWeight || one.spec.role == Role::kQkvBias;
    if (one.cut.whole() || (copies && is_qkv)) elements += one.cut.shape().elements();
  }
  return elements * kFloatBytes;
}

}  // namespace

DecoderMemory training_memory(const Config& config, core::Dtype compute, const Checkpointing& checkpointing,
                              std::int64_t sequences, std::int64_t length, int threads, core::Tier tier,
                              const PassPlace& place) {
  const std::int64_t size = core::bits(compute) / 8;
  const std::int64_t tokens = sequences * length;
  const std::int64_t c = config.hidden;
  const std::int64_t d = config.head_size;
  const Shares shares = shares_of(config, place.part);
  const std::int64_t q = shares.heads.size() * d;
  const std::int64_t qkv = q + 2 * shares.kv_heads.size() * d;
  const std::int64_t f = shares.intermediate.size();
  const std::int64_t vocabulary = shares.vocabulary.size();
  const bool is_shared = place.part.tensor_width > 1;
  const bool has_head = place.part.blocks.end == config.layers;
  const std::int64_t up = (config.gated ? 2 : 1) * f;

  DecoderMemory memory;
  const std::int64_t parameters = config.parameter_count();
  memory.parameters = size * parameters;
  memory.gradients = kFloatBytes * (parameters + (config.tied ? config.vocabulary * c : 0));
  Activations(config, size, checkpointing, tokens, place).go(memory);

  const Products products(compute, tier);
  // Copies packed for the products of a block's forward and backward pass, and of the head.
  const std::int64_t head_packs = has_head ? products.packed_bytes(c, vocabulary) : 0;
  std::int64_t forward_packs = 0, backward_packs = 0;
  std::int64_t accumulated = 0, widest = 0;  // of any product of a block: of a weight's gradient, and its depth
  for (const auto& [depth, columns] : {std::pair{c, qkv}, {q, c}, {c, up}, {f, c}}) {
    forward_packs += products.packed_bytes(depth, columns);
    backward_packs += products.packed_bytes(columns, depth);
    const bool transposed = config.family != Family::kGpt2;
    accumulated = std::max(accumulated, products.accumulated_bytes(tokens, transposed ? columns : depth,
                                                                   transposed ? depth : columns, threads));
    widest = std::max({widest, depth, columns});
  }
  if (config.gated) forward_packs += products.packed_bytes(c, gated_columns(up)) - products.packed_bytes(c, up);
  std::int64_t tables = 0;
  if (config.rope) tables += length * config.rope->rotary * kFloatBytes;
  if (config.local_rope) tables += length * config.local_rope->rotary * kFloatBytes;

  const std::int64_t chunk = std::min(kLossTokens, vocabulary);
  const std::int64_t loss =
      tokens * (chunk * size + (compute == core::Dtype::kFloat32 || is_shared ? 0 : c * kFloatBytes)) +
      std::max({products.accumulated_bytes(chunk, tokens, c, threads),
                products.accumulated_bytes(tokens, chunk, c, threads), threads * products.tile_bytes(c)});
  const std::int64_t attention =
      attention_bytes(products, sequences, shares.kv_heads.size(), length, d, config.attention_dropout > 0, threads);
  const std::int64_t attention_backward = attention_backward_bytes(products, length, d, threads);
  const std::int64_t backward = std::max({accumulated, threads * products.tile_bytes(widest), attention_backward}) +
                                shared_gradient_bytes(config, place.part);
  memory.workspace = tables + head_packs + place.part.blocks.size() * (forward_packs + backward_packs) +
                     std::max({has_head ? loss : 0, attention, backward});
  const bool recomputes = checkpointing.kind == Checkpointing::Kind::kEveryBlock;
  memory.gathered_workspace =
      tables + std::max({has_head ? head_packs + loss : 0, forward_packs + attention,
                         backward_packs + (recomputes ? forward_packs : 0) + std::max(backward, attention)});
  return memory;
}

}  // namespace braise::model
