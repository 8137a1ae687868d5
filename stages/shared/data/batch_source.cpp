// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/data/batch_source.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "kernels/core/error.h"
#include "stages/shared/data/mixture.h"
#include "stages/shared/data/sequences.h"
#include "stages/shared/io/digest.h"

namespace braise::data {
namespace {

/// Beyond any training run, and far enough from 2^64 for sums.
constexpr std::uint64_t kEndless = std::uint64_t{1} << 62;

std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

}  // namespace

BatchSource::BatchSource(std::vector<std::unique_ptr<Sequences>> sources, Mixture mixture, std::string identity,
                         bool masked, bool endless, std::int64_t sequence, core::Arena& host)
    : sources_(std::move(sources)),
      mixture_(std::make_unique<const Mixture>(std::move(mixture))),
      identity_(std::move(identity)),
      masked_(masked),
      endless_(endless),
      sequence_(sequence),
      host_(&host) {}

BatchSource::~BatchSource() = default;

std::uint64_t BatchSource::sequences() const {
  if (endless_) return kEndless;
  std::uint64_t sum = 0;
  for (const auto& source : sources_) sum += source->per_epoch();
  return sum;
}

BatchSource::Origin BatchSource::origin(std::uint64_t sequence) const {
  const Mixture::Place place = mixture_->place(sequence);
  const std::uint64_t per_epoch = sources_[place.source]->per_epoch();
  if (per_epoch == 0) return {place.source, 0, place.index};
  return {place.source, place.index / per_epoch, place.index % per_epoch};
}

HostBatch BatchSource::fetch(std::uint64_t first_sequence, std::int64_t count) const {
  core::require(count >= 1, "BatchSource::fetch", "the number of sequences is not positive");
  const auto rows = static_cast<std::uint64_t>(count);
  if (first_sequence > sequences() || rows > sequences() - first_sequence)
    throw core::Error("sequences " + std::to_string(first_sequence) + " to " +
                      std::to_string(first_sequence + rows - 1) + " were asked for, but there are " +
                      std::to_string(sequences()));
  HostBatch batch;
  batch.first_sequence = first_sequence;
  const core::Shape shape{count, sequence_};
  constexpr std::uint64_t kCacheLine = 64;
  const auto bytes = static_cast<std::int64_t>(
      round_up(static_cast<std::uint64_t>(shape.elements()) * sizeof(std::int32_t), kCacheLine));
  batch.memory = host_->allocate((masked_ ? 4 : 2) * bytes, core::Category::kWorkspace, "data");
  const auto array = [&](int place) { return batch.memory.view(core::Dtype::kInt32, shape, place * bytes); };
  const core::TensorView ids = array(0);
  const core::TensorView targets = array(1);
  const core::TensorView positions = masked_ ? array(2) : core::TensorView();
  const core::TensorView document_starts = masked_ ? array(3) : core::TensorView();

  std::vector<Origin> origins;
  for (std::uint64_t n = first_sequence; n < first_sequence + rows; ++n) {
    const Origin from = origin(n);
    sources_[from.source]->will_write(from.epoch, from.index);
    origins.push_back(from);
  }
  for (std::int64_t b = 0; b < count; ++b) {
    const Origin& from = origins[static_cast<std::size_t>(b)];
    const auto row = [&](const core::TensorView& tensor) -> std::span<std::int32_t> {
      if (!tensor) return {};
      return {tensor.data<std::int32_t>() + b * sequence_, static_cast<std::size_t>(sequence_)};
    };
    const std::span<const std::int32_t> row_targets = row(targets);
    sources_[from.source]->write(from.epoch, from.index,
                                 {row(ids), row(targets), row(positions), row(document_starts)});
    const auto ignored = std::count(row_targets.begin(), row_targets.end(), kIgnored);
    batch.target_counts.push_back(sequence_ - ignored);
    batch.target_count += batch.target_counts.back();
  }
  batch.ids = ids;
  batch.targets = targets;
  batch.positions = positions;
  batch.document_starts = document_starts;
  return batch;
}

std::uint64_t BatchSource::sequences_for_epochs(double epochs) const {
  core::require(epochs >= 0, "BatchSource::sequences_for_epochs", "the number of epochs is negative");
  std::vector<std::uint64_t> wanted;
  for (const auto& source : sources_) {
    if (source->per_epoch() == 0)
      throw core::Error(source->summary().name +
                        ": its sequences are drawn with replacement, so there are no epochs; "
                        "give the length of the training in steps or tokens, or cut the text another way");
    const double count = std::ceil(epochs * static_cast<double>(source->per_epoch()));
    if (!(count < static_cast<double>(kEndless))) throw core::Error(std::to_string(epochs) + " epochs are too many");
    wanted.push_back(static_cast<std::uint64_t>(count));
  }
  const auto enough = [&](std::uint64_t n) {
    const std::vector<std::uint64_t> counts = mixture_->counts(n);
    return std::equal(counts.begin(), counts.end(), wanted.begin(), std::greater_equal<>());
  };
  std::uint64_t low = 0, high = sequences();
  if (!enough(high)) throw core::Error("there are not as many as " + std::to_string(epochs) + " epochs");
  while (low < high) {
    const std::uint64_t middle = low + (high - low) / 2;
    if (enough(middle)) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

std::vector<SourceSummary> BatchSource::summaries() const {
  std::vector<SourceSummary> summaries;
  for (const auto& source : sources_) summaries.push_back(source->summary());
  return summaries;
}

std::string BatchSource::digest() const {
  return io::sha256(identity_);
}

void BatchSource::require_same(const Position& position) const {
  if (position.identity == identity_) return;
  std::string difference = "what they are cannot be read";
  const nlohmann::json theirs = nlohmann::json::parse(position.identity, nullptr, false);
  if (!theirs.is_discarded()) {
    const nlohmann::json ours = nlohmann::json::parse(identity_);
    difference.clear();
    for (const nlohmann::json& change : nlohmann::json::diff(theirs, ours)) {
      const nlohmann::json::json_pointer place(change.at("path").get<std::string>());
      const auto text = [&](const nlohmann::json& json) {
        return json.contains(place) ? json.at(place).dump() : "none";
      };
      difference +=
          (difference.empty() ? "" : "; ") + place.to_string() + " was " + text(theirs) + " and is now " + text(ours);
    }
  }
  throw core::Error("the data is not what the checkpoint was trained on, so its place in it means nothing (" +
                    difference + "); resume with the same data and settings, or begin a new training from its weights");
}

}  // namespace braise::data
