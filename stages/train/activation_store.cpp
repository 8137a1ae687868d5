// SPDX-License-Identifier: Apache-2.0
#include "stages/train/activation_store.h"

#include <utility>

#include "kernels/core/copy.h"
#include "kernels/core/error.h"

namespace braise::train {

using core::Tensor;

ActivationStore::ActivationStore(core::Stream& stream, core::Arena& host, Home home, const Disk& disk, int places,
                                 core::Dtype dtype, const core::Shape& shape)
    : stream_(stream), host_(host), dtype_(dtype), shape_(shape), places_(static_cast<std::size_t>(places)) {
  for (int place = places - 1; place >= 0; --place) free_.push_back(place);
  if (home != Home::kNvme) return;
  const std::vector<std::int64_t> bytes(places_.size(), shape.elements() * core::bits(dtype) / 8);
  store_ = std::make_unique<offload::Store>(disk.folder, host, bytes, disk.log);
}

Tensor ActivationStore::memory(core::Arena& arena) const {
  return arena.tensor(dtype_, shape_, core::Category::kActivations, "kept activations");
}

/// Waits for what is being written.
void ActivationStore::written() {
  writes_.wait();
  writing_ = {};
}

int ActivationStore::keep(Tensor activation) {
  core::require_tensor("a kept activation", "activation", activation.view, dtype_, shape_);
  core::require(!free_.empty(), "a kept activation", "there is no place left");
  const int number = free_.back();
  free_.pop_back();
  if (store_ == nullptr) {
    Tensor& on_host = places_[static_cast<std::size_t>(number)].on_host;
    on_host = memory(host_);
    core::copy(stream_, on_host.view, activation.view);
    return number;
  }
  written();
  stream_.synchronize();
  writing_ = std::move(activation);
  writes_ = store_->write(number, 0, writing_.view);
  return number;
}

void ActivationStore::fetch(int number) {
  Place& place = places_[static_cast<std::size_t>(number)];
  if (place.fetched.view) return;
  if (store_ != nullptr) written();
  place.fetched = memory(stream_.arena());
  if (store_ == nullptr) {
    core::copy(stream_, place.fetched.view, place.on_host.view);
    stream_.synchronize();
    place.on_host = {};
  } else {
    place.reading = store_->read(number, 0, place.fetched.view);
  }
}

Tensor ActivationStore::take(int number) {
  fetch(number);
  Place& place = places_[static_cast<std::size_t>(number)];
  place.reading.wait();
  free_.push_back(number);
  return std::exchange(place.fetched, {});
}

}  // namespace braise::train
