// SPDX-License-Identifier: Apache-2.0
#include "stages/train/unit_file.h"

#include <cstddef>
#include <span>
#include <utility>

namespace braise::train {

using core::Shape;
using core::Tensor;
using core::TensorView;

checkpoint::Content content_of(const offload::Store& store, int region, core::Dtype dtype, std::int64_t elements) {
  return {dtype, elements, [&store, region](std::int64_t offset, std::span<std::byte> to) {
            store.read_bytes(region, offset, to);
          }};
}

UnitFile::UnitFile(core::Stream& stream, core::Arena& host, const Disk& disk, std::vector<std::int64_t> elements,
                   core::Dtype dtype, core::Category category)
    : stream_(stream), elements_(std::move(elements)), dtype_(dtype), category_(category) {
  std::vector<std::int64_t> bytes;
  for (const std::int64_t count : elements_) bytes.push_back(count * core::bits(dtype) / 8);
  store_ = std::make_unique<offload::Store>(disk.folder, host, bytes, disk.log);
}

Tensor UnitFile::memory(int unit) const {
  return stream_.arena().tensor(dtype_, Shape{elements(unit)}, category_, "unit on a disk");
}

offload::Transfer UnitFile::read(int unit, const TensorView& to) {
  if (unit == writing_) flush();
  return store_->read(unit, 0, to);
}

void UnitFile::write(int unit, Tensor memory) {
  flush();
  stream_.synchronize();
  writing_ = unit;
  written_ = std::move(memory);
  writes_ = store_->write(unit, 0, written_.view);
}

void UnitFile::flush() {
  writes_.wait();
  written_ = {};
  writing_ = -1;
}

checkpoint::Content UnitFile::show(int unit) {
  flush();
  return content_of(*store_, unit, dtype_, elements(unit));
}

UnitWindow::Held UnitWindow::read(int unit) {
  Held held{unit, file_.memory(unit), {}};
  held.reading = file_.read(unit, held.memory.view);
  return held;
}

/// Leaves the unit that is worked on.
void UnitWindow::leave() {
  if (here_.unit < 0) return;
  if (writes_) {
    file_.write(here_.unit, std::move(here_.memory));
  } else {
    stream_.synchronize();
  }
  here_ = {};
}

const TensorView& UnitWindow::at(int unit) {
  if (unit == here_.unit) return here_.memory.view;
  leave();
  if (next_.unit != unit) {
    next_ = {};
    next_ = read(unit);
  }
  here_ = std::move(next_);
  next_ = {};
  here_.reading.wait();
  for (int after = unit + 1; after < file_.units(); ++after) {
    if (file_.elements(after) == 0) continue;
    next_ = read(after);
    break;
  }
  return here_.memory.view;
}

void UnitWindow::close() {
  leave();
  next_ = {};
  file_.flush();
}

}  // namespace braise::train
