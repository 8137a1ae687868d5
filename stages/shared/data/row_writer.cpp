// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cassert>

#include "stages/shared/data/sequences.h"

namespace braise::data {

void RowWriter::append(std::span<const std::int32_t> ids, std::int32_t next, std::size_t first_target) {
  assert(!ids.empty() && ids.size() <= room());
  std::copy(ids.begin(), ids.end(), row_.ids.begin() + static_cast<std::ptrdiff_t>(at_));
  const std::span<std::int32_t> targets = row_.targets.subspan(at_, ids.size());
  std::copy(ids.begin() + 1, ids.end(), targets.begin());
  targets.back() = next;
  const auto ignored = static_cast<std::ptrdiff_t>(std::min(first_target, targets.size()));
  std::fill(targets.begin(), targets.begin() + ignored, kIgnored);
  if (!row_.positions.empty()) {
    for (std::size_t i = 0; i < ids.size(); ++i) {
      row_.positions[at_ + i] = static_cast<std::int32_t>(i);
      row_.document_starts[at_ + i] = static_cast<std::int32_t>(at_);
    }
  }
  at_ += ids.size();
}

void RowWriter::set_last_target(std::int32_t next) {
  assert(at_ > 0);
  row_.targets[at_ - 1] = next;
}

void RowWriter::pad(std::int32_t id) {
  const std::size_t begin = at_;
  for (; at_ < row_.ids.size(); ++at_) {
    row_.ids[at_] = id;
    row_.targets[at_] = kIgnored;
    if (row_.positions.empty()) continue;
    row_.positions[at_] = static_cast<std::int32_t>(at_ - begin);
    row_.document_starts[at_] = static_cast<std::int32_t>(begin);
  }
}

std::int32_t padding_id(const TokenFile& file) {
  return static_cast<std::int32_t>(file.end_of_document().value_or(0));
}

}  // namespace braise::data
