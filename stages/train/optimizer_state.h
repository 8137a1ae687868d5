// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/core/arena.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"
#include "stages/shared/checkpoint/piece.h"
#include "stages/shared/model/decoder.h"
#include "stages/shared/offload/chunk_loop.h"
#include "stages/train/gradients.h"
#include "stages/train/limits.h"
#include "stages/train/parameter_rules.h"
#include "stages/train/settings.h"
#include "stages/train/shards.h"
#include "stages/train/unit_file.h"
#include "stages/train/values.h"

namespace braise::checkpoint {
class Checkpoint;
}

namespace braise::train {

/// The weights as the optimizer updates them, and its state: of the parameters that a rank owns and that are not
/// frozen, each as one long array, on the device, in the host's memory or on a disk.
class OptimizerState {
 public:
  struct Where {
    core::Arena* host = nullptr;
    Home master = Home::kDevice;
    Home optimizer = Home::kDevice;
    Disk disk;  ///< for Home::kNvme
  };
  /// What it refers to must outlive it. Master weights are fp32: the values themselves where those are.
  OptimizerState(core::Stream& stream, const model::Decoder& decoder, Values& values, const Shards& owners, int rank,
                 const OptimizerSettings& settings, std::vector<ParameterRule> rules, const Where& where);

  /// Random weights; here and below the values are to be told afterwards (Values::changed).
  void initialise(std::uint64_t seed);

  /// Weights of a file, or of a checkpoint: its master weights, or its parameters where those are all there is. The
  /// optimizer's state begins anew. Errors: core::Error naming what is missing.
  void load(const weights::Weights& weights);
  void load(const checkpoint::Checkpoint& checkpoint);

  /// Everything, as pieces() gave it. Not collective. Errors: core::Error of the checkpoint.
  void restore(const checkpoint::Checkpoint& checkpoint);

  /// Applies the gradients, times gradient_scale, at a learning rate; `step` counts from 1.
  void apply(std::int64_t step, double learning_rate, float gradient_scale, Gradients& gradients);

  /// Begins to read what apply() needs first, where that lies on a disk.
  void prefetch();

  /// The names in a checkpoint of what there is of a parameter, that of its values first.
  std::vector<std::string> paths(std::size_t parameter) const;

  /// What the rank contributes to a checkpoint of its part, `cut` among ranks (begins count elements of the part's
  /// tensor): "parameters/...", "master/..." where those are not
  /// the parameters, "optimizer/exp_avg/...". They show what is in use, until the next step.
  std::vector<checkpoint::Piece> pieces(const Shards& cut, int rank);

  /// The parameters that are not frozen, and the segments of them that the rank owns, in the order of its arrays.
  const std::vector<ParameterRule>& rules() const { return rules_; }
  std::span<const Segment> segments() const { return trained_; }

 private:
  /// One of the arrays.
  struct Array {
    std::string path;  ///< in a checkpoint, before the parameter's name: "master/"
    core::Category category = core::Category::kOptimizer;
    Home home = Home::kDevice;
    core::Tensor memory;  ///< unless on a disk
    int region = -1;      ///< there
  };
  /// A part of a segment that lies in the chunk at hand.
  struct Part {
    Segment segment;
    std::vector<core::TensorView> arrays;
    core::TensorView value;
  };
  using Reader = std::function<void(std::size_t parameter, const core::TensorView& whole)>;

  void add_array(std::string path, core::Category category, Home home);
  void open(const Where& where);
  void for_parts(const std::function<void(const Part&)>& work);
  void begin_with(const Reader& read);
  checkpoint::Content shown(const Array& array) const;
  const model::ParameterSpec& spec(const Segment& segment) const {
    return decoder_.parameters()[segment.parameter].spec;
  }

  core::Stream& stream_;
  const model::Decoder& decoder_;
  Values& values_;
  core::Arena& host_;
  const OptimizerSettings settings_;
  const std::vector<ParameterRule> rules_;
  std::vector<Segment> trained_, frozen_;
  std::vector<std::int64_t> offsets_;  // of trained segments, in the arrays
  std::int64_t elements_ = 0;          // of an array
  bool has_master_ = false;
  std::vector<Array> arrays_;  // master weights if there are any, then the optimizer's
  std::unique_ptr<offload::Store> store_;
  std::unique_ptr<offload::ChunkLoop> loop_;
};

}  // namespace braise::train
