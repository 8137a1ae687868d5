// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/attention/attention.h"
#include "kernels/attention/rope.h"
#include "kernels/core/random.h"
#include "kernels/core/vocabulary_part.h"
#include "kernels/linear/matmul.h"
#include "stages/shared/model/decoder.h"
#include "stages/shared/model/tensor_axis.h"

/// What a decoder is made of: for the sources of Decoder alone.
namespace braise::model {

/// Where dropout happens, within a layer (or, with layer 0's first, before all).
enum class Site : std::uint64_t { kAttention, kAfterAttention, kAfterFeedForward, kEmbedding };

/// A parameter, or several that are used as one, where their unit's memory has a place.
struct Value {
  struct Placed {
    core::TensorView view;
  };
  Placed value;
  Placed gradient;
  bool is_there = false;   ///< whether the model has it
  core::TensorView share;  ///< of the gradient, while other ranks have theirs

  /// What a backward pass adds to.
  const core::TensorView& sink() const { return share ? share : gradient.view; }
  explicit operator bool() const { return is_there; }
};

/// A weight of a product y = x w, K x N, and its bias.
struct Linear {
  Value weight;
  Value bias;
  bool outputs_first = false;  ///< stored N x K
  linear::PackedMatrix forward;
  linear::PackedMatrix backward;  ///< transposed: dx = dy w'

  core::ConstTensorView matrix() const {
    return outputs_first ? weight.value.view.transposed(0, 1) : weight.value.view;
  }
};

struct NormParameters {
  Value weight;
  Value bias;
};

/// What the statistics of a norm's rows are.
struct Statistics {
  core::Tensor mean;
  core::Tensor inverse_std;
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
  NormParameters after1;
  NormParameters after2;
};

/// What a block's forward pass keeps.
struct Saved {
  core::Tensor input;
  Statistics statistics1;
  core::Tensor normed1;
  core::Tensor qkv;  ///< q and k rotated, but with qk_norm as they come from the projection
  core::Tensor qk;   ///< with qk_norm: normed and rotated
  Statistics q_statistics;
  Statistics k_statistics;
  core::Tensor attended;
  core::Tensor log_sums;
  core::Tensor added1;  ///< with norm_after: what attention adds, before its norm
  Statistics added1_statistics;
  core::Tensor middle;  ///< the residual stream after attention
  Statistics statistics2;
  core::Tensor normed2;
  core::Tensor up;  ///< before the activation; of gated models: gate, then up
  core::Tensor activated;
  core::Tensor added2;  ///< with norm_after: what the feed-forward part adds, before its norm
  Statistics added2_statistics;

  /// What the products of the two parts read.
  const core::Tensor& read1() const { return normed1.view ? normed1 : input; }
  const core::Tensor& read2() const { return normed2.view ? normed2 : middle; }
};

struct Decoder::Pass::Kept {
  std::vector<Saved> saved;
  std::vector<int> inputs;  ///< by block, what the keeper of activations calls its input; -1: it has it not
  core::Tensor last;
  Statistics final_statistics;
  core::Tensor final_normed;
  core::Tensor loss_log_sums;
};

struct Decoder::State {
  State(core::Stream& s, const Config& c, const DecoderSettings& options, const Part& which)
      : stream(s), config(c), settings(options), part(which), shares(shares_of(c, which)) {}

  core::Stream& stream;
  const Config config;
  const DecoderSettings settings;
  const Part part;
  const Shares shares;
  std::unique_ptr<TensorAxis> axis;  ///< none where no other rank shares the blocks
  std::vector<Parameter> parameters;
  Units units;
  std::vector<core::TensorView> accumulators;             ///< by unit
  std::vector<core::Tensor> held_values, held_gradients;  ///< by unit, where there is no keeper

  Value tokens;
  Value positions;
  std::vector<Block> blocks;
  NormParameters final_norm;
  Value head;       ///< of models that are not tied
  Value tied_head;  ///< of those that are: its gradient
  linear::PackedMatrix packed_head;
  attention::RopeTable rope;
  attention::RopeTable local_rope;
  std::int64_t rope_positions = 0;

  // The cached sequences that a pass extends, if it does.
  KvCache* cache = nullptr;
  std::span<const Extension> extensions;

  // This rank's shares of a unit's gradients, of parameters that other ranks have too: for one unit after another.
  core::Tensor share_memory;

  Pass pass;  // of forward and backward

  bool embeds() const { return part.blocks.begin == 0; }
  bool has_head() const { return part.blocks.end == config.layers; }
  bool is_whole() const { return embeds() && has_head(); }
  std::int64_t heads_here() const { return shares.heads.size(); }
  std::int64_t kv_heads_here() const { return shares.kv_heads.size(); }
  std::int64_t intermediate() const { return shares.intermediate.size(); }
  std::int64_t q_size() const { return heads_here() * config.head_size; }
  std::int64_t kv_size() const { return kv_heads_here() * config.head_size; }
  core::VocabularyPart vocabulary() const { return {shares.vocabulary.begin, config.vocabulary}; }
  const Value& head_value() const { return config.tied ? tokens : head; }
  /// Without the embedding, a tied head's gradient is all that a part knows of the table's.
  core::TensorView head_gradient() const { return (!config.tied ? head : embeds() ? tied_head : tokens).gradient.view; }

  void make();

  void make_parameters();
  Value& value_of(const ParameterSpec& spec);
  /// The value that a place of a unit is of.
  Value& value_at(int unit, const ParameterSpec& spec) { return unit == units.tied_head ? tied_head : value_of(spec); }
  void place(int unit, const core::TensorView& memory, bool gradient);
  void pack(linear::PackedMatrix& packed, const core::ConstTensorView& matrix, const std::string& owner,
            linear::Columns columns = linear::Columns::kPlain) const;
  /// `layer`: of the model; here and below.
  int unit_of(std::size_t layer) const {
    return units.first_block + static_cast<int>(layer) - static_cast<int>(part.blocks.begin);
  }
  const Block& block_of(std::size_t layer) const { return blocks[layer - static_cast<std::size_t>(part.blocks.begin)]; }

  /// What of a unit several ranks have.
  struct Shared {
    std::vector<Value*> by_all;     ///< by all that share the blocks
    std::vector<Value*> by_copies;  ///< in part, by those with the same heads of keys and values
  };
  Shared shared_of(int unit);
  /// The unit's gradients that several ranks have: apart until add_shares, which sums them.
  void begin_shares(int unit);
  void add_shares(int unit);

  // What the keeper is told.
  void need_values(int unit, const Packs& packs) const {
    if (settings.keeper != nullptr) settings.keeper->need_values(unit, packs);
  }
  void values_used(int unit) const {
    if (settings.keeper != nullptr) settings.keeper->values_used(unit);
  }
  void need_gradients(int unit) const {
    if (settings.keeper != nullptr) settings.keeper->need_gradients(unit);
  }
  void gradients_added(int unit) const {
    if (settings.keeper != nullptr) settings.keeper->gradients_added(unit);
  }
  void need_end(const Packs& packs) const;
  void end_used() const;

  core::Tensor activation(const core::Shape& shape, core::Dtype dtype, const std::string& owner) const {
    return stream.arena().tensor(dtype, shape, core::Category::kActivations, owner);
  }
  core::Tensor activation(const core::Shape& shape, const std::string& owner) const {
    return activation(shape, settings.compute, owner);
  }

  void check(const Batch& batch, bool targets) const;
  void need_rope(const Batch& batch);
  void need_rope(std::int64_t most);
  attention::RopePositions rope_positions_of(const Batch& batch) const { return {batch.positions, 0}; }

  core::RandomStream random(const Batch& batch, std::int64_t sequence, std::size_t layer, Site site) const {
    return core::RandomStream(batch.dropout->seed, core::Purpose::kDropout, batch.dropout->step,
                              batch.dropout->first_sample + static_cast<std::uint64_t>(sequence),
                              4 * static_cast<std::uint64_t>(layer) + static_cast<std::uint64_t>(site));
  }
  /// to (=|+=) dropout(from), rows of the stream, each sequence from a stream of random numbers of its own.
  void drop(const core::TensorView& to, const core::ConstTensorView& from, const Batch& batch, double rate,
            std::size_t layer, Site site, core::Accumulate accumulate) const;
  bool drops(const Batch& batch, double rate) const { return batch.dropout && rate > 0; }

  /// The batch's positions, or 0, 1, 2 ... in memory of `own`.
  core::ConstTensorView position_ids(const Batch& batch, core::Tensor& own) const;
  core::Tensor embed(const Batch& batch) const;
  void embed_backward(core::Tensor dx, const Batch& batch) const;

  /// This rank's rows of the stream.
  comm::Range rows(const Batch& batch) const;
  core::Shape stream_shape(const Batch& batch) const;

  /// All rows, of what this rank has its rows of.
  TensorAxis::Gathered gather(const core::ConstTensorView& local, const Batch& batch, const std::string& owner) const;
  void norm(const core::TensorView& y, Statistics& statistics, const core::ConstTensorView& x,
            const NormParameters& with, const std::string& owner) const;
  void norm_backward(const core::TensorView& dx, const core::ConstTensorView& dy, const core::ConstTensorView& x,
                     const Statistics& statistics, const NormParameters& with, core::Accumulate accumulate) const;
  void multiply(const core::TensorView& y, const core::ConstTensorView& x, const Linear& linear,
                linear::Epilogue epilogue = {}) const;
  /// A product into the stream, of which this rank has some of the inputs: y = x w + b, plus `input` where there is
  /// one, in this rank's rows.
  void project(const core::TensorView& y, const core::ConstTensorView& input, const core::ConstTensorView& x,
               const Linear& linear, const std::string& owner) const;
  void add_weight_gradient(const core::ConstTensorView& dy, const core::ConstTensorView& x, const Linear& linear) const;
  /// Backwards through a product into the stream: dx, and the gradients of weight and bias. dy: this rank's rows.
  void project_backward(const core::TensorView& dx, const core::ConstTensorView& dy, const core::ConstTensorView& x,
                        const Linear& linear, const Batch& batch, const std::string& owner) const;
  /// Backwards through a product out of the stream, of which this rank has some of the outputs. x: what it read, in
  /// this rank's rows. Gives dx, in this rank's rows.
  core::Tensor read_backward(const core::ConstTensorView& dy, const core::Tensor& x, const Linear& linear,
                             const Batch& batch, const std::string& owner) const;
  /// y = input + x w + b, with dropout of what is added.
  void add_product(const core::TensorView& y, const core::ConstTensorView& input, const core::ConstTensorView& x,
                   const Linear& linear, const Batch& batch, std::size_t layer, Site site,
                   const std::string& owner) const;

  /// The same with norm_after: y = input + norm(x w + b).
  void add_normed_product(const core::TensorView& y, const core::ConstTensorView& input, const core::ConstTensorView& x,
                          const Linear& linear, const NormParameters& with, core::Tensor& added, Statistics& statistics,
                          const std::string& owner) const;

  struct Heads {
    core::TensorView q;
    core::TensorView k;
    core::TensorView v;
  };
  core::TensorView as_heads(const core::TensorView& rows, std::int64_t heads) const {
    return rows.reshaped(core::Shape{rows.extent(0), rows.extent(1), heads, config.head_size});
  }
  Heads heads(const Saved& s) const;
  /// What the norms of q and k take as rows: heads, or all heads of a token.
  core::TensorView norm_rows(const core::TensorView& heads) const;
  attention::Mask mask(const Batch& batch, std::size_t layer) const;
  const attention::RopeTable& rope_of(std::size_t layer) const {
    return config.local_rope && config.has_window(static_cast<std::int64_t>(layer)) ? local_rope : rope;
  }
  std::vector<core::RandomStream> attention_streams(const Batch& batch, std::size_t layer) const;
  attention::Dropout attention_dropout(const std::vector<core::RandomStream>& streams) const {
    return {streams.empty() ? 0 : config.attention_dropout, streams, shares.heads.begin};
  }
  void attend(Saved& s, const Batch& batch, std::size_t layer, const std::string& owner) const;

  core::Tensor forward_block(Saved& s, const Batch& batch, std::size_t layer) const;
  core::Tensor backward_block(Saved& s, core::Tensor dy, const Batch& batch, std::size_t layer) const;
  void cap(const core::TensorView& logits) const;
  /// logits: of ranks that have some of the vocabulary each.
  void share_logits(const core::TensorView& logits, const core::ConstTensorView& normed, const Batch& batch) const;
  loss::CrossEntropy capped(loss::CrossEntropy loss) const;
  /// The residual stream after these blocks; `kept`, if any, takes what a backward pass needs. input: none for the
  /// first block.
  core::Tensor run_blocks(const Batch& batch, core::Tensor input, Pass::Kept* kept);
  void compute_losses(Pass::Kept& kept, const core::TensorView& losses, const Batch& batch,
                      const loss::CrossEntropy& loss, bool keep) const;
  core::Tensor losses_backward(Pass::Kept& kept, const core::ConstTensorView& weights, const Batch& batch,
                               const loss::CrossEntropy& loss);
  /// Has the keeper of activations fetch what the blocks before `end` need first of it.
  void fetch_input(const Pass::Kept& kept, std::size_t end) const;
  bool recomputed(std::size_t layer) const {
    return settings.checkpointing.kind == Checkpointing::Kind::kEveryBlock &&
           static_cast<std::int64_t>(layer) % settings.checkpointing.every == 0;
  }
};

}  // namespace braise::model
