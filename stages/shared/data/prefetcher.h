// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "stages/shared/data/batch_source.h"

namespace braise::data {

/// A batch to fetch.
struct BatchRange {
  std::uint64_t first_sequence = 0;
  std::int64_t count = 0;
};

/// Fetches batches ahead, on a thread of its own. What next() gives does not depend on the depth. Memory: at most
/// `depth` batches (one, without a thread) besides those the caller holds, from the source's arena.
/// next() by one thread; the source must outlive it.
class Prefetcher {
 public:
  /// The batch number i (from 0), or nothing after the last. Called in order, on the thread.
  using Order = std::function<std::optional<BatchRange>(std::uint64_t i)>;

  /// `depth`: batches that may lie ready; 0: no thread, next() fetches.
  Prefetcher(const BatchSource& source, Order order, int depth);
  /// Ends the thread after the batch it is at.
  ~Prefetcher();
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  /// The next batch in order; nothing after the last. Errors: what BatchSource::fetch (or the order) threw for this
  /// batch, thrown here after all batches before it were given; again for each later call.
  std::optional<HostBatch> next();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace braise::data
