// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/data/dataset.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "kernels/core/error.h"
#include "stages/shared/data/examples.h"
#include "stages/shared/data/mixture.h"
#include "stages/shared/data/sequences.h"
#include "stages/shared/data/token_file.h"
#include "stages/shared/text/tokenizer.h"

namespace braise::data {
namespace {

/// Version of what sequence n is: to be raised whenever the same settings and files give other sequences.
constexpr int kVersion = 1;

/// The validation side is the same whatever the seed.
constexpr std::uint64_t kValidationSeed = 0;

const char* name_of(Cutting cutting) {
  switch (cutting) {
    case Cutting::kWindows:
      return "windows";
    case Cutting::kDocuments:
      return "documents";
    case Cutting::kRandom:
      return "random";
  }
  return "";
}

/// An opened source: one of the two.
struct Opened {
  std::shared_ptr<const TokenFile> tokens;
  std::shared_ptr<const Examples> examples;
  bool pack = false;
  nlohmann::json identity;

  std::string name() const { return tokens ? tokens->path().string() : examples->name(); }
};

Opened open_source(const Source& source, const DatasetSettings& settings, const text::Tokenizer* tokenizer,
                   const Draw& draw, core::Arena& host, const OpenOptions& options) {
  Opened opened;
  if (const auto* tokens = std::get_if<TokenSource>(&source.data)) {
    opened.tokens = std::make_shared<const TokenFile>(tokens->master, tokens->sha256, options.verify, options.note);
    opened.identity = {{"kind", "tokens"},
                       {"sha256", opened.tokens->sha256()},
                       {"train_tokens", opened.tokens->tokens(Side::kTrain)},
                       {"validation_tokens", opened.tokens->tokens(Side::kValidation)}};
    return opened;
  }
  const auto& files = std::get<ExampleSource>(source.data);
  if (files.pack && !settings.document_mask)
    throw core::Error(
        "examples packed in one sequence would see each other: set `document_mask: true`, or give each a "
        "sequence of its own");
  core::require(tokenizer != nullptr, "Dataset", "a source of examples needs a tokenizer");
  opened.examples = std::make_shared<const Examples>(files, *tokenizer, settings.sequence, draw, host, options.note);
  opened.pack = files.pack;
  opened.identity = {{"kind", "examples"},
                     {"files", opened.examples->file_digests()},
                     {"prompt_key", files.prompt_key},
                     {"completion_key", files.completion_key},
                     {"pack", files.pack},
                     {"too_long", files.too_long == ExampleSource::TooLong::kCut ? "cut" : "skip"},
                     {"validation", files.validation}};
  return opened;
}

std::unique_ptr<Sequences> training_sequences(const Opened& opened, const DatasetSettings& settings, const Draw& draw,
                                              core::Arena& host) {
  if (opened.examples)
    return example_sequences(opened.examples, Side::kTrain, settings.sequence, opened.pack, draw, host);
  const bool masked = settings.document_mask;
  switch (settings.cutting) {
    case Cutting::kWindows:
      return window_sequences(opened.tokens, Side::kTrain, settings.sequence, masked, {draw, false});
    case Cutting::kDocuments:
      return document_sequences(opened.tokens, Side::kTrain, settings.sequence, masked, draw, host);
    case Cutting::kRandom:
      return random_sequences(opened.tokens, Side::kTrain, settings.sequence, masked, draw);
  }
  return nullptr;
}

/// Null where nothing is kept for validation.
std::unique_ptr<Sequences> validation_sequences(const Opened& opened, const DatasetSettings& settings,
                                                std::uint64_t source, core::Arena& host) {
  const Draw draw{kValidationSeed, source};
  if (opened.examples) {
    if (opened.examples->size(Side::kValidation) == 0) return nullptr;
    return example_sequences(opened.examples, Side::kValidation, settings.sequence, opened.pack, draw, host);
  }
  if (opened.tokens->tokens(Side::kValidation) < 2) return nullptr;
  if (settings.cutting == Cutting::kDocuments)
    return document_sequences(opened.tokens, Side::kValidation, settings.sequence, settings.document_mask, draw, host);
  return window_sequences(opened.tokens, Side::kValidation, settings.sequence, settings.document_mask, {draw, true});
}

}  // namespace

Dataset::Dataset(const DatasetSettings& settings, const std::vector<Source>& sources, const nlohmann::json& tokenizer,
                 core::Arena& host, const OpenOptions& options) {
  core::require(settings.sequence >= 1, "Dataset", "sequences have no positions");
  core::require(!sources.empty(), "Dataset", "there are no sources");
  std::unique_ptr<text::Tokenizer> made;
  if (!tokenizer.is_null()) {
    made = text::make_tokenizer(tokenizer);
    tokenizer_ = tokenizer.dump();
    vocabulary_size_ = made->vocabulary_size();
  }
  std::vector<Opened> opened;
  std::vector<double> weights;
  for (const Source& source : sources) {
    weights.push_back(source.weight);
    opened.push_back(open_source(source, settings, made.get(), {settings.seed, opened.size()}, host, options));
    const Opened& last = opened.back();
    if (!(source.weight > 0 && std::isfinite(source.weight)))
      throw core::Error(last.name() + ": its weight is " + std::to_string(source.weight) +
                        "; it must be a positive number");
    if (!last.tokens) continue;
    if (tokenizer_.empty()) {
      tokenizer_ = last.tokens->tokenizer();
      vocabulary_size_ = last.tokens->vocabulary_size();
    }
    if (last.tokens->tokenizer() != tokenizer_ || last.tokens->vocabulary_size() != vocabulary_size_)
      throw core::Error(last.name() + ": its tokens are of the tokenizer " + last.tokens->tokenizer() + " (" +
                        std::to_string(last.tokens->vocabulary_size()) + " tokens), those of " +
                        (made ? "the job" : opened.front().name()) + " of " + tokenizer_ + " (" +
                        std::to_string(vocabulary_size_) + " tokens); make all with one");
  }

  const auto identity = [&](const char* side) {
    nlohmann::json json = {{"version", kVersion},
                           {"side", side},
                           {"seed", settings.seed},
                           {"sequence", settings.sequence},
                           {"cutting", name_of(settings.cutting)},
                           {"document_mask", settings.document_mask},
                           {"tokenizer", nlohmann::json::parse(tokenizer_)},
                           {"sources", nlohmann::json::array()}};
    for (std::size_t k = 0; k < opened.size(); ++k) {
      json["sources"].push_back(opened[k].identity);
      json["sources"].back()["weight"] = weights[k];
    }
    return json.dump();
  };
  std::vector<std::unique_ptr<Sequences>> training, validation;
  std::vector<std::uint64_t> validation_counts;
  for (std::size_t k = 0; k < opened.size(); ++k) {
    training.push_back(training_sequences(opened[k], settings, {settings.seed, k}, host));
    if (auto kept = validation_sequences(opened[k], settings, k, host)) {
      validation_counts.push_back(kept->per_epoch());
      validation.push_back(std::move(kept));
    }
  }
  training_ =
      std::make_unique<BatchSource>(std::move(training), Mixture::endless(weights, settings.seed), identity("training"),
                                    settings.document_mask, true, settings.sequence, host);
  if (validation.empty()) return;
  validation_ =
      std::make_unique<BatchSource>(std::move(validation), Mixture::finite(validation_counts), identity("validation"),
                                    settings.document_mask, false, settings.sequence, host);
}

Dataset::~Dataset() = default;

}  // namespace braise::data
