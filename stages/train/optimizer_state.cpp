// SPDX-License-Identifier: Apache-2.0
#include "stages/train/optimizer_state.h"

#include <algorithm>
#include <utility>

#include "kernels/core/copy.h"
#include "kernels/core/error.h"
#include "kernels/optimizer/adam.h"
#include "kernels/optimizer/rms_prop.h"
#include "kernels/optimizer/sgd.h"
#include "stages/shared/checkpoint/checkpoint.h"
#include "stages/shared/checkpoint/parameters.h"
#include "stages/shared/weights/weights.h"

namespace braise::train {
namespace {

using core::Category;
using core::Dtype;
using core::Shape;
using core::TensorView;

/// The names of what an algorithm keeps for each parameter, as torch.optim has them.
std::vector<std::string> state_names(const OptimizerSettings& settings) {
  switch (settings.algorithm) {
    case Algorithm::kAdamW:
    case Algorithm::kAdam:
      return {"exp_avg", "exp_avg_sq"};
    case Algorithm::kSgd:
      if (settings.momentum > 0) return {"momentum_buffer"};
      return {};
    case Algorithm::kRmsProp:
      if (settings.momentum > 0) return {"square_avg", "momentum_buffer"};
      return {"square_avg"};
  }
  return {};
}

TensorView flat(const TensorView& tensor) {
  return tensor.reshaped(Shape{tensor.elements()});
}

/// What this rank's part has of tensors that are read whole, one at a time, of which some elements are wanted.
class ReadParameter {
 public:
  ReadParameter(core::Arena& host, const model::Decoder& decoder) : host_(host), decoder_(decoder) {}

  /// to = elements of the rank's tensor from `begin` on; read(whole) reads the logical tensor `name`, of a parameter's
  /// shape.
  template <class Read>
  void copy_part(core::Stream& stream, const std::string& name, std::size_t parameter, std::int64_t begin,
                 const TensorView& to, const Read& read) {
    const model::Cut& cut = decoder_.parameters()[parameter].cut;
    const Shape shape = cut.shape();
    if (cut.whole() && to.elements() == shape.elements()) return read(to.reshaped(shape));
    if (!memory_.view || name_ != name || memory_.view.dtype() != to.dtype()) {
      memory_ = {};
      memory_ = host_.tensor(to.dtype(), shape, Category::kWorkspace, "load");
      name_ = name;
      if (cut.whole()) {
        read(memory_.view);
      } else {
        const core::Tensor whole = host_.tensor(to.dtype(), cut.logical, Category::kWorkspace, "load");
        read(whole.view);
        model::take_cut(stream, memory_.view, whole.view, cut);
      }
    }
    core::copy(stream, to, flat(memory_.view).slice(0, begin, begin + to.elements()));
  }

 private:
  core::Arena& host_;
  const model::Decoder& decoder_;
  std::string name_;
  core::Tensor memory_;
};

}  // namespace

OptimizerState::OptimizerState(core::Stream& stream, const model::Decoder& decoder, Values& values,
                               const Shards& owners, int rank, const OptimizerSettings& settings,
                               std::vector<ParameterRule> rules, const Where& where)
    : stream_(stream),
      decoder_(decoder),
      values_(values),
      host_(*where.host),
      settings_(settings),
      rules_(std::move(rules)) {
  for (const Segment& segment : owners.segments(rank)) {
    if (rules_[segment.parameter].frozen) {
      frozen_.push_back(segment);
      continue;
    }
    trained_.push_back(segment);
    offsets_.push_back(elements_);
    elements_ += segment.elements();
  }
  has_master_ = decoder.compute() != Dtype::kFloat32;
  if (has_master_) add_array("master/", Category::kMaster, where.master);
  for (const std::string& name : state_names(settings)) {
    add_array("optimizer/" + name + "/", Category::kOptimizer, where.optimizer);
  }
  open(where);
}

void OptimizerState::add_array(std::string path, Category category, Home home) {
  arrays_.push_back({std::move(path), category, home, {}, -1});
}

/// Takes the memory of the arrays, and the disk's.
void OptimizerState::open(const Where& where) {
  std::vector<std::int64_t> regions;
  std::vector<offload::ChunkLoop::Item> items;
  for (Array& array : arrays_) {
    if (array.home == Home::kNvme) {
      array.region = static_cast<int>(regions.size());
      regions.push_back(elements_ * 4);
      items.push_back({array.region, Dtype::kFloat32, true, array.category});
      continue;
    }
    core::Arena& arena = array.home == Home::kHost ? host_ : stream_.arena();
    array.memory = arena.tensor(Dtype::kFloat32, Shape{elements_}, array.category, array.path);
  }
  if (regions.empty()) return;
  store_ = std::make_unique<offload::Store>(where.disk.folder, host_, regions, where.disk.log);
  loop_ = std::make_unique<offload::ChunkLoop>(*store_, stream_.arena(), std::move(items), elements_,
                                               chunk_elements(elements_), kChunksInMemory, "optimizer");
}

/// Calls `work` for every part of the trained segments, in order; what it writes to arrays stays.
void OptimizerState::for_parts(const std::function<void(const Part&)>& work) {
  std::size_t next = 0;
  const auto chunk = [&](std::int64_t begin, std::int64_t end, std::span<const TensorView> from_disk) {
    for (; next < trained_.size() && offsets_[next] < end; ++next) {
      const Segment& whole = trained_[next];
      const std::int64_t first = std::max(begin, offsets_[next]);
      const std::int64_t last = std::min(end, offsets_[next] + whole.elements());
      Part part{whole, {}, {}};
      part.segment.begin = whole.begin + first - offsets_[next];
      part.segment.end = part.segment.begin + last - first;
      part.segment.offset = whole.offset + first - offsets_[next];
      for (const Array& array : arrays_) {
        part.arrays.push_back(
            array.region >= 0 ? from_disk[static_cast<std::size_t>(array.region)].slice(0, first - begin, last - begin)
                              : array.memory.view.slice(0, first, last));
      }
      part.value = values_.part(part.segment);
      work(part);
      if (last < offsets_[next] + whole.elements()) return;  // goes on in the next chunk
    }
  };
  if (loop_ == nullptr) return chunk(0, elements_, {});
  loop_->run(chunk);
}

void OptimizerState::prefetch() {
  if (loop_ != nullptr) loop_->prefetch();
}

void OptimizerState::initialise(std::uint64_t seed) {
  const auto draw = [&](const Segment& segment, const TensorView& to) {
    const model::Parameter& parameter = decoder_.parameters()[segment.parameter];
    model::initialise(stream_, to, parameter.spec, parameter.cut, decoder_.config(), seed, segment.begin);
  };
  for_parts([&](const Part& part) {
    for (const TensorView& array : part.arrays) core::fill(stream_, array, 0);
    draw(part.segment, has_master_ ? part.arrays.front() : part.value);
    if (has_master_) core::copy(stream_, part.value, part.arrays.front());
  });
  for (const Segment& segment : frozen_) draw(segment, values_.part(segment));
}

/// Weights that `read` reads as whole parameters, in the dtype that is asked.
void OptimizerState::begin_with(const Reader& read) {
  ReadParameter parameter(host_, decoder_);
  const auto copy_part = [&](const Segment& segment, const TensorView& to) {
    parameter.copy_part(stream_, spec(segment).name, segment.parameter, segment.begin, to,
                        [&](const TensorView& whole) { read(segment.parameter, whole); });
  };
  for_parts([&](const Part& part) {
    for (const TensorView& array : part.arrays) core::fill(stream_, array, 0);
    const TensorView& weights = has_master_ ? part.arrays.front() : part.value;
    copy_part(part.segment, weights);
    if (has_master_) core::copy(stream_, part.value, weights);
  });
  for (const Segment& segment : frozen_) copy_part(segment, values_.part(segment));
}

void OptimizerState::load(const weights::Weights& weights) {
  model::check_weights(stream_, host_, weights, decoder_.config());
  begin_with([&](std::size_t parameter, const TensorView& whole) {
    weights.read(stream_, model::find_parameter(weights, decoder_.parameters()[parameter].spec)->name, whole);
  });
}

void OptimizerState::load(const checkpoint::Checkpoint& checkpoint) {
  begin_with([&](std::size_t parameter, const TensorView& whole) {
    checkpoint::read_parameter(stream_, checkpoint, decoder_.parameters()[parameter].spec.name, whole);
  });
}

void OptimizerState::restore(const checkpoint::Checkpoint& checkpoint) {
  ReadParameter parameter(host_, decoder_);
  const auto read = [&](const std::string& path, const Segment& segment, const TensorView& to) {
    const std::string name = path + spec(segment).name;
    if (decoder_.parameters()[segment.parameter].cut.whole()) return checkpoint.read(name, segment.begin, to);
    parameter.copy_part(stream_, name, segment.parameter, segment.begin, to,
                        [&](const TensorView& whole) { checkpoint.read(name, 0, whole); });
  };
  for_parts([&](const Part& part) {
    for (std::size_t i = 0; i < arrays_.size(); ++i) read(arrays_[i].path, part.segment, part.arrays[i]);
    read("parameters/", part.segment, part.value);
  });
  for (const Segment& segment : frozen_) read("parameters/", segment, values_.part(segment));
}

void OptimizerState::apply(std::int64_t step, double learning_rate, float gradient_scale, Gradients& gradients) {
  for_parts([&](const Part& part) {
    const ParameterRule& rule = rules_[part.segment.parameter];
    optimizer::Slice slice;
    slice.master = has_master_ ? part.arrays.front() : part.value;
    if (has_master_) slice.copy = part.value;
    slice.gradient = gradients.part(part.segment);
    slice.gradient_scale = gradient_scale;
    const std::span<const TensorView> state = std::span(part.arrays).subspan(has_master_ ? 1 : 0);
    const auto kept = [&](std::size_t i) { return i < state.size() ? state[i] : TensorView(); };
    const double rate = learning_rate * rule.lr_scale;
    switch (settings_.algorithm) {
      case Algorithm::kAdamW:
      case Algorithm::kAdam:
        optimizer::adam_step(stream_, slice, kept(0), kept(1),
                             {.learning_rate = rate,
                              .beta1 = settings_.beta1,
                              .beta2 = settings_.beta2,
                              .epsilon = settings_.epsilon,
                              .weight_decay = rule.weight_decay,
                              .decay = settings_.algorithm == Algorithm::kAdamW ? optimizer::WeightDecay::kDecoupled
                                                                                : optimizer::WeightDecay::kGradient},
                             step);
        break;
      case Algorithm::kSgd:
        optimizer::sgd_step(stream_, slice, kept(0),
                            {.learning_rate = rate,
                             .weight_decay = rule.weight_decay,
                             .momentum = settings_.momentum,
                             .dampening = 0,
                             .nesterov = settings_.nesterov},
                            step);
        break;
      case Algorithm::kRmsProp:
        optimizer::rms_prop_step(stream_, slice, kept(0), {}, kept(1),
                                 {.learning_rate = rate,
                                  .alpha = settings_.alpha,
                                  .epsilon = settings_.epsilon,
                                  .weight_decay = rule.weight_decay,
                                  .momentum = settings_.momentum,
                                  .centered = false});
        break;
    }
  });
}

/// An array in memory: where it lies, or as the disk has it.
checkpoint::Content OptimizerState::shown(const Array& array) const {
  if (array.region < 0) return array.memory.view;
  return content_of(*store_, array.region, Dtype::kFloat32, elements_);
}

std::vector<std::string> OptimizerState::paths(std::size_t parameter) const {
  std::vector<std::string> paths{"parameters/"};
  if (!rules_[parameter].frozen) {
    for (const Array& array : arrays_) paths.push_back(array.path);
  }
  for (std::string& path : paths) path += decoder_.parameters()[parameter].spec.name;
  return paths;
}

std::vector<checkpoint::Piece> OptimizerState::pieces(const Shards& cut, int rank) {
  if (loop_ != nullptr) loop_->flush();
  std::map<std::size_t, std::size_t> trained;  // segment by parameter, of which a rank has one
  for (std::size_t i = 0; i < trained_.size(); ++i) trained[trained_[i].parameter] = i;
  std::vector<checkpoint::Piece> pieces;
  for (const Segment& segment : cut.segments(rank)) {
    const auto add = [&](const std::string& path, checkpoint::Content data) {
      pieces.push_back({path + spec(segment).name, spec(segment).shape, segment.begin, std::move(data)});
    };
    add("parameters/", values_.show(segment));
    const auto found = trained.find(segment.parameter);
    if (found == trained.end()) continue;
    const std::int64_t first = offsets_[found->second] + segment.begin - trained_[found->second].begin;
    for (const Array& array : arrays_) add(array.path, shown(array).slice(first, first + segment.elements()));
  }
  return pieces;
}

}  // namespace braise::train
