// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/core/arena.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"
#include "kernels/loss/cross_entropy.h"
#include "stages/shared/model/checkpointing.h"
#include "stages/shared/model/config.h"
#include "stages/shared/model/kv_cache.h"
#include "stages/shared/model/parameters.h"
#include "stages/shared/model/part.h"
#include "stages/shared/model/units.h"
#include "stages/shared/weights/weights.h"

namespace braise::comm {
class Communicator;
}

namespace braise::model {

/// The copies of a unit's weights that are packed for the products of a forward and a backward pass.
struct Packs {
  bool forward = true;
  bool backward = true;
};

/// Who holds the memory of a decoder's parameters and gradients, in place of the decoder itself. It is told by the
/// thread that computes, before and after a pass needs those of a unit; nothing has a place until it gives it one.
class UnitKeeper {
 public:
  virtual ~UnitKeeper() = default;

  /// The unit's values must have their place (Decoder::place_values) and be packed, until values_used.
  virtual void need_values(int unit, const Packs& packs) = 0;
  virtual void values_used(int unit) = 0;

  /// The unit's gradients must have their place (Decoder::place_gradients), with what is added to; after
  /// gradients_added this pass adds no more to them.
  virtual void need_gradients(int unit) = 0;
  virtual void gradients_added(int unit) = 0;
};

/// Who holds the inputs of blocks that are computed again, from the forward pass to the backward pass, in place of the
/// decoder. It is told by the thread that computes.
class ActivationKeeper {
 public:
  virtual ~ActivationKeeper() = default;

  /// Takes an activation; gives a number for it.
  virtual int keep(core::Tensor activation) = 0;

  /// It will be taken soon.
  virtual void fetch(int number) = 0;

  /// Gives it back, in memory of the stream's arena; the number is no longer its own.
  virtual core::Tensor take(int number) = 0;
};

struct DecoderSettings {
  core::Dtype compute = core::Dtype::kBfloat16;  ///< of parameters as computed with, and of activations
  bool gradients = true;                         ///< whether there are any: false for a decoder that only infers
  Checkpointing checkpointing = {};
  UnitKeeper* keeper = nullptr;             ///< null: the decoder holds all itself, all the time
  ActivationKeeper* activations = nullptr;  ///< null: the decoder holds them itself
};

/// What a forward pass computes on. B sequences of T tokens.
struct Batch {
  core::ConstTensorView ids;              ///< int32 [B, T], contiguous
  core::ConstTensorView targets;          ///< int32 [B, T], contiguous; needed for losses
  core::ConstTensorView positions;        ///< int32 [B, T], contiguous; none: 0 to T - 1 in each sequence
  core::ConstTensorView document_starts;  ///< as attention::Mask has it

  /// What dropout draws from: none means that nothing is dropped.
  struct Dropout {
    std::uint64_t seed = 0;
    std::uint64_t step = 0;
    std::uint64_t first_sample = 0;  ///< of the step; sequence b is sample first_sample + b
  };
  std::optional<Dropout> dropout;
};

/// One parameter of a decoder, as far as the decoder's part has it: its tensors are of cut.shape().
struct Parameter {
  ParameterSpec spec;
  Cut cut;
  core::TensorView value;     ///< of the compute dtype, contiguous; none while it has no place
  core::TensorView gradient;  ///< fp32, contiguous; none while it has no place
};

/// A parameter's tensor in a weight file: of its name, with or without the prefix "transformer." or "model."; null
/// where there is none.
const weights::TensorInfo* find_parameter(const weights::Weights& weights, const ParameterSpec& spec);

/// destination = what `cut` leaves of a logical tensor.
void take_cut(core::Stream& stream, const core::TensorView& destination, const core::ConstTensorView& logical,
              const Cut& cut);

/// destination = what `cut` leaves of a tensor of a weight file, which has that shape. One that is cut is read whole,
/// into workspace.
void read_cut(core::Stream& stream, const weights::Weights& weights, const std::string& name, const Cut& cut,
              const core::TensorView& destination);

/// Sets a parameter as its spec says: element i of the logical tensor is drawn from (seed, its name, i), whatever the
/// layout, in the dtype of `value`, which has the elements from number `first` on of those that `cut` leaves.
void initialise(core::Stream& stream, const core::TensorView& value, const ParameterSpec& spec, const Cut& cut,
                const Config& config, std::uint64_t seed, std::int64_t first = 0);

/// Whether a file has the weights of a model. A head of its own in the file of a tied model is ignored only if it
/// equals the embedding, for which both are read into `workspace`. Errors: core::Error naming every parameter that is
/// missing, has another shape, or is not the model's.
void check_weights(core::Stream& stream, core::Arena& workspace, const weights::Weights& weights, const Config& config);

/// A decoder-only transformer: forward and backward passes over one configuration, on one stream. Sequences do not
/// depend on each other's presence. Deterministic: equal bits for any number of threads and any checkpointing, and
/// however the blocks are cut into parts. With other ranks that share its blocks the bits are others: each sums
/// products over its part of their depth, in fp32, and those sums are added by a tree over the ranks. Memory comes from
/// the stream's arena; a second step of the same shape takes none from the system. Errors of all members: core::Error
/// for batches that do not go together, ids and targets out of range included.
class Decoder {
 public:
  /// All of the model.
  Decoder(core::Stream& stream, const Config& config, const DecoderSettings& settings);

  /// A part of it, for which split_problems finds none. `tensor`: the ranks that share its blocks, as many as the
  /// part's tensor_width, in their places; this and all passes are then collective on them, with one batch. It must
  /// outlive the decoder, and no comm::Collectives may be on it.
  Decoder(core::Stream& stream, const Config& config, const DecoderSettings& settings, const Part& part,
          comm::Communicator& tensor);
  ~Decoder();
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  const Config& config() const;
  core::Dtype compute() const;
  const Part& part() const;
  std::span<const Parameter> parameters() const;

  const Units& units() const;

  /// Where a unit's values are from now on: of the compute dtype, [Unit::elements], contiguous, at home elsewhere; a
  /// default-made view: nowhere, as they are at first where there is a keeper.
  void place_values(int unit, const core::TensorView& memory);

  /// The same for what backward passes add to: fp32. The gradient of a tied head is a unit of its own until
  /// finish_gradients, where a part has the embedding too. Of parameters that several ranks have, all have the whole
  /// gradient.
  void place_gradients(int unit, const core::TensorView& memory);

  /// What place_gradients gave each unit, or the decoder's own memory.
  std::span<const core::TensorView> accumulators() const;

  /// Packs the values of a unit, in memory that is taken where it was not there.
  void pack(int unit, const Packs& packs);
  /// Gives that memory back.
  void drop_packs(int unit);

  /// Sets all values, each as model::initialise does.
  void initialise(std::uint64_t seed);

  /// Reads all values, each as find_parameter finds it. Errors: as check_weights.
  void load(const weights::Weights& weights);

  /// To be called when values have changed, before the next pass: packs the units that have a place.
  void values_changed();

  /// All gradients = 0.
  void zero_gradients();

  /// logits[b, t, :], fp32 [B, T, V] contiguous: what the model thinks of the token after t. Keeps nothing. Here and
  /// below but for parts' passes: of decoders with all blocks.
  void logits(const core::TensorView& logits, const Batch& batch);

  /// Adds tokens to cached sequences: any number to each, so a prompt, or the one token after it. ids: int32 [N],
  /// contiguous, the tokens of one extension after another. logits: fp32 [extensions, V], contiguous: of what follows
  /// the last token of each. Their bits are those of logits() on the whole sequence, whatever is extended beside it and
  /// in however many passes. The cache is of this model and its dtype. Where this throws, no sequence has grown.
  /// Errors: also for positions that the model lacks, or that would turn keys in the cache (dynamic rotary scaling),
  /// and where other ranks share the blocks.
  void extend(const core::TensorView& logits, const core::ConstTensorView& ids, KvCache& cache,
              std::span<const Extension> extensions);

  /// losses: fp32 [B, T], contiguous: the loss at each position, 0 where the target is ignored. Keeps what a backward
  /// pass needs, if the decoder has gradients.
  void forward(const core::TensorView& losses, const Batch& batch, const loss::CrossEntropy& settings = {});

  /// The losses alone: what forward gives, keeping nothing.
  void evaluate(const core::TensorView& losses, const Batch& batch, const loss::CrossEntropy& settings = {});

  /// Adds to all gradients those of sum of weights[b, t] losses[b, t], weights fp32 [B, T] contiguous, and frees what
  /// the forward pass kept. The batch and settings are those of the forward pass. The gradient that reaches a tied
  /// embedding as the head is kept apart until finish_gradients.
  void backward(const core::ConstTensorView& weights, const Batch& batch, const loss::CrossEntropy& settings = {});

  /// What a forward pass of a part keeps for its backward pass.
  class Pass {
   public:
    Pass();
    ~Pass();
    Pass(Pass&&) noexcept;
    Pass& operator=(Pass&&) noexcept;

   private:
    friend class Decoder;
    struct Kept;
    std::unique_ptr<Kept> kept_;
  };

  /// The stream between parts: [B, T, C], of the compute dtype; where ranks share the blocks [1, R, C], each having the
  /// rows that are its own.
  core::Shape stream_shape(const Batch& batch) const;

  /// The same as forward for a part. input: the stream that the part before gave; none for the first. losses: as
  /// forward; of the last part alone, others give them none. Gives the stream for the part after; of the last: none.
  /// `pass`: takes what the backward pass needs; without one nothing is kept. Any number of passes may be kept.
  core::Tensor forward_part(Pass* pass, core::Tensor input, const core::TensorView& losses, const Batch& batch,
                            const loss::CrossEntropy& settings = {});

  /// The same as backward for a part. d_output: the gradient of what forward_part gave, from the part after; of the
  /// last: none. weights: of the last part alone. Gives the gradient of its input; of the first: none.
  core::Tensor backward_part(Pass& pass, core::Tensor d_output, const core::ConstTensorView& weights,
                             const Batch& batch, const loss::CrossEntropy& settings = {});

  /// To be called once after the last backward pass of a step: adds a tied head's gradient to the embedding's, where
  /// the part has both; see Pipeline::add_other_end for parts that have one.
  void finish_gradients();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace braise::model
