// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <vector>

#include "kernels/core/device.h"
#include "stages/infer/generation.h"
#include "stages/infer/settings.h"
#include "stages/shared/model/decoder.h"
#include "stages/shared/model/kv_cache.h"
#include "stages/shared/text/tokenizer.h"

namespace braise::infer {

/// A prompt to be continued.
struct Request {
  std::size_t id = 0;        ///< the caller's
  std::uint64_t random = 0;  ///< with the seed, what its random numbers are drawn by
  std::vector<std::uint32_t> tokens;
};

/// Continues prompts, some at a time. What comes of a prompt depends on the model, the prompt, the sampling and the
/// request's `random` alone: not on what is continued beside it, in what order, or how many at a time.
class Generator {
 public:
  using Done = std::function<void(std::size_t id, Generation generation)>;

  /// `batch` requests at a time, of at most `positions` tokens each, prompt and completion together. What is given by
  /// reference must outlive it. Errors: core::Error for a tokenizer with more tokens than the model.
  Generator(core::Stream& stream, model::Decoder& decoder, const text::Tokenizer& tokenizer, const Sampling& sampling,
            std::int64_t batch, std::int64_t positions);

  /// Queues a request. Errors: core::Error for one without tokens, or with more than `positions`.
  void add(Request request);

  /// One pass of the model: a token more for each running request, a part of the prompt for those that begin. Calls
  /// `done` for those that end with it. False where nothing is left to do.
  /// Errors: core::Error also for logits that are not numbers, naming the requests.
  bool step(const Done& done);

  std::uint64_t tokens() const { return tokens_; }  ///< generated so far

 private:
  struct Running {
    Request request;
    Generation generation;
    std::int64_t in_cache = 0;  ///< tokens, of the prompt and then of the completion
  };

  void admit();
  std::int64_t running() const;
  void take(std::int64_t place, std::int32_t token, const Done& done);

  core::Stream& stream_;
  model::Decoder& decoder_;
  const text::Tokenizer& tokenizer_;
  const Sampling& sampling_;
  model::KvCache cache_;
  std::deque<Request> queue_;
  std::vector<std::optional<Running>> places_;  ///< by sequence of the cache
  std::uint64_t tokens_ = 0;
};

}  // namespace braise::infer
