// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "kernels/core/arena.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"
#include "stages/shared/checkpoint/piece.h"
#include "stages/shared/offload/store.h"

namespace braise::train {

/// A scratch folder, and who is told of what its system does not have.
struct Disk {
  std::filesystem::path folder;
  std::function<void(std::string_view)> log;
};

/// A region of a store as what checkpoints are made of: read when they are written, so the store must outlive that.
checkpoint::Content content_of(const offload::Store& store, int region, core::Dtype dtype, std::int64_t elements);

/// What a rank owns of every unit, on a disk: a region for each, of `elements[unit]`. Used by one thread.
class UnitFile {
 public:
  /// `host`: of copies that transfers need. It and the stream must outlive this. Errors: as offload::Store.
  UnitFile(core::Stream& stream, core::Arena& host, const Disk& disk, std::vector<std::int64_t> elements,
           core::Dtype dtype, core::Category category);

  std::int64_t elements(int unit) const { return elements_[static_cast<std::size_t>(unit)]; }
  int units() const { return static_cast<int>(elements_.size()); }

  /// Memory for a unit, on the device.
  core::Tensor memory(int unit) const;

  /// to = the unit, once the transfer is waited for.
  offload::Transfer read(int unit, const core::TensorView& to);

  /// The unit = memory, which is given up when that is written. One is written at a time: this waits for the one
  /// before, and for the stream.
  void write(int unit, core::Tensor memory);

  /// Waits until all is written.
  void flush();

  /// What the file has of a unit, until it is written again.
  checkpoint::Content show(int unit);

 private:
  core::Stream& stream_;
  const std::vector<std::int64_t> elements_;
  const core::Dtype dtype_;
  const core::Category category_;
  std::unique_ptr<offload::Store> store_;
  int writing_ = -1;  ///< the unit that is being written; -1: none
  core::Tensor written_;
  offload::Transfer writes_;
};

/// The units of a file in memory one after another: the next is read, and the last written, while one is worked on. At
/// most three are in memory, those next to each other; two where nothing is written.
class UnitWindow {
 public:
  UnitWindow(core::Stream& stream, UnitFile& file, bool writes) : stream_(stream), file_(file), writes_(writes) {}

  /// The unit, in memory until another is asked for or close() is called.
  const core::TensorView& at(int unit);

  /// Gives up all memory, when what was changed is written.
  void close();

 private:
  struct Held {
    int unit = -1;
    core::Tensor memory;
    offload::Transfer reading;
  };
  Held read(int unit);
  void leave();

  core::Stream& stream_;
  UnitFile& file_;
  const bool writes_;
  Held here_, next_;
};

}  // namespace braise::train
