// SPDX-License-Identifier: Apache-2.0
#include "stages/infer/generator.h"

#include <algorithm>
#include <string>
#include <utility>

#include "kernels/core/arena.h"
#include "kernels/core/error.h"
#include "kernels/sampling/sampling.h"

namespace braise::infer {
namespace {

using core::Category;
using core::Dtype;
using core::Shape;

/// Where the earliest stop text begins that ends within the last `added` bytes; npos: none.
std::size_t find_stop(const std::string& text, std::size_t added, const std::vector<std::string>& stops) {
  std::size_t earliest = std::string::npos;
  for (const std::string& stop : stops) {
    const std::size_t before = text.size() - added;
    const std::size_t from = before < stop.size() ? 0 : before - stop.size() + 1;
    earliest = std::min(earliest, text.find(stop, from));
  }
  return earliest;
}

}  // namespace

Generator::Generator(core::Stream& stream, model::Decoder& decoder, const text::Tokenizer& tokenizer,
                     const Sampling& sampling, std::int64_t batch, std::int64_t positions)
    : stream_(stream),
      decoder_(decoder),
      tokenizer_(tokenizer),
      sampling_(sampling),
      cache_(stream.arena(), decoder.config(), decoder.parameters().front().value.dtype(), batch, positions),
      places_(static_cast<std::size_t>(batch)) {
  core::require(tokenizer.vocabulary_size() <= decoder.config().vocabulary, "a generator",
                "the tokenizer has more tokens than the model");
}

void Generator::add(Request request) {
  core::require(!request.tokens.empty(), "a request", "has no tokens");
  core::require(std::ssize(request.tokens) <= cache_.positions(), "a request",
                "has more tokens than there is room for");
  queue_.push_back(std::move(request));
}

std::int64_t Generator::running() const {
  return std::count_if(places_.begin(), places_.end(), [](const auto& place) { return place.has_value(); });
}

void Generator::admit() {
  for (std::size_t place = 0; place < places_.size() && !queue_.empty(); ++place) {
    if (places_[place]) continue;
    cache_.clear(static_cast<std::int64_t>(place));
    places_[place] = Running{std::move(queue_.front()), {}, 0};
    queue_.pop_front();
  }
}

bool Generator::step(const Done& done) {
  admit();
  if (running() == 0) return false;

  // Each running request has its token; what is left of the pass goes to prompts, in the order of their places.
  std::int64_t room = std::max<std::int64_t>(kPassTokens - running(), 0);
  std::vector<model::Extension> extensions;
  std::vector<sampling::Choice> choices;
  std::vector<bool> whole;  // whether the pass ends what the request has so far
  std::vector<std::int32_t> ids;
  for (std::size_t place = 0; place < places_.size(); ++place) {
    if (!places_[place]) continue;
    const auto& [request, generation, in_cache] = *places_[place];
    const auto& tokens = in_cache < std::ssize(request.tokens) ? request.tokens : generation.tokens;
    const std::int64_t begin = &tokens == &request.tokens ? in_cache : std::ssize(tokens) - 1;
    const std::int64_t more = std::min(std::ssize(tokens) - begin - 1, room);
    room -= more;
    extensions.push_back({static_cast<std::int64_t>(place), 1 + more});
    ids.insert(ids.end(), tokens.begin() + begin, tokens.begin() + begin + 1 + more);
    whole.push_back(begin + 1 + more == std::ssize(tokens));
    choices.push_back({whole.back() ? sampling_.temperature : 0, sampling_.top_k, sampling_.top_p, sampling_.seed,
                       request.random, generation.tokens.size()});
  }

  const auto rows = std::ssize(extensions);
  const core::Tensor logits = stream_.arena().tensor(Dtype::kFloat32, Shape{rows, decoder_.config().vocabulary},
                                                     Category::kActivations, "logits");
  decoder_.extend(logits.view, core::ConstTensorView(ids.data(), Dtype::kInt32, Shape{std::ssize(ids)}), cache_,
                  extensions);
  std::vector<std::int32_t> chosen(extensions.size());
  try {
    // A model may have room for more tokens than its tokenizer knows.
    sampling::sample(stream_, core::TensorView(chosen.data(), Dtype::kInt32, Shape{rows}),
                     logits.view.slice(1, 0, tokenizer_.vocabulary_size()), choices);
  } catch (const core::Error& error) {
    std::string requests;
    for (const model::Extension& extension : extensions) {
      requests += " " + std::to_string(places_[static_cast<std::size_t>(extension.sequence)]->request.id);
    }
    throw core::Error(std::string(error.what()) + "; rows are the requests" + requests +
                      ". The weights are not finite, or too large for precision.compute");
  }
  for (std::size_t i = 0; i < extensions.size(); ++i) {
    places_[static_cast<std::size_t>(extensions[i].sequence)]->in_cache += extensions[i].tokens;
    if (whole[i]) take(extensions[i].sequence, chosen[i], done);
  }
  return running() > 0 || !queue_.empty();
}

void Generator::take(std::int64_t place, std::int32_t token, const Done& done) {
  std::optional<Running>& running = places_[static_cast<std::size_t>(place)];
  Generation& generation = running->generation;
  generation.tokens.push_back(static_cast<std::uint32_t>(token));
  ++tokens_;
  const std::size_t before = generation.text.size();
  tokenizer_.decode(std::span(generation.tokens).last(1), generation.text);
  const std::size_t stop = find_stop(generation.text, generation.text.size() - before, sampling_.stop);
  std::optional<Finish> finish;
  if (stop != std::string::npos) {
    generation.text.resize(stop);
    finish = Finish::kStop;
  } else if (tokenizer_.end_of_document() == generation.tokens.back()) {
    finish = Finish::kEndOfDocument;
  } else if (std::ssize(generation.tokens) >= sampling_.max_tokens) {
    finish = Finish::kLength;
  } else if (running->in_cache >= cache_.positions()) {
    finish = Finish::kPositions;
  }
  if (!finish) return;
  generation.finish = *finish;
  const std::size_t id = running->request.id;
  Generation result = std::move(generation);
  running.reset();
  done(id, std::move(result));
}

}  // namespace braise::infer
