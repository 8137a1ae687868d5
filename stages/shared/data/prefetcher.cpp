// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/data/prefetcher.h"

#include <cassert>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

namespace braise::data {
namespace {

/// A batch, the end, or what went wrong; after either of the latter nothing follows.
struct Result {
  std::optional<HostBatch> batch;
  std::exception_ptr error;
};

}  // namespace

struct Prefetcher::State {
  State(const BatchSource& from, Order in_order, int batches)
      : source(from), order(std::move(in_order)), depth(static_cast<std::size_t>(batches)) {}

  const BatchSource& source;
  const Order order;
  const std::size_t depth;
  std::uint64_t produced = 0;  ///< by the thread, or by next() where there is none

  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Result> ready;
  bool stopping = false;
  std::optional<Result> last;  ///< of the caller's thread: the end or the error, once it was given
  std::thread thread;

  Result produce() {
    Result result;
    try {
      if (const std::optional<BatchRange> range = order(produced))
        result.batch = source.fetch(range->first_sequence, range->count);
    } catch (...) {
      result.error = std::current_exception();
    }
    ++produced;
    return result;
  }

  void run() {
    for (;;) {
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return stopping || ready.size() < depth; });
        if (stopping) return;
      }
      Result result = produce();
      const bool last_one = !result.batch;
      {
        const std::lock_guard lock(mutex);
        ready.push_back(std::move(result));
      }
      changed.notify_all();
      if (last_one) return;
    }
  }

  Result take() {
    if (depth == 0) return produce();
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return !ready.empty(); });
    Result result = std::move(ready.front());
    ready.pop_front();
    lock.unlock();
    changed.notify_all();
    return result;
  }
};

Prefetcher::Prefetcher(const BatchSource& source, Order order, int depth)
    : state_(std::make_unique<State>(source, std::move(order), depth)) {
  assert(depth >= 0);
  if (depth > 0) state_->thread = std::thread([state = state_.get()] { state->run(); });
}

Prefetcher::~Prefetcher() {
  if (!state_->thread.joinable()) return;
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->changed.notify_all();
  state_->thread.join();
}

std::optional<HostBatch> Prefetcher::next() {
  if (!state_->last) {
    Result result = state_->take();
    if (result.batch) return std::move(result.batch);
    state_->last = std::move(result);
  }
  if (state_->last->error) std::rethrow_exception(state_->last->error);
  return std::nullopt;
}

}  // namespace braise::data
