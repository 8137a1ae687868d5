// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace braise::infer {

/// Why a completion ended.
enum class Finish : std::uint8_t {
  kLength,         ///< it has as many tokens as were asked for
  kStop,           ///< a stop text came
  kEndOfDocument,  ///< the model ended it
  kPositions,      ///< the model has no more positions
};

/// "length", "stop", "end_of_document", "positions": see schemas/generations.schema.json.
std::string_view name(Finish finish);

/// Errors: core::Error for another word.
Finish finish_named(std::string_view word);

/// A completion.
struct Generation {
  std::vector<std::uint32_t> tokens;  ///< all that were generated
  std::string text;                   ///< of them, without a stop text and what follows it: any bytes
  Finish finish = Finish::kLength;
};

/// What a completion belongs to.
struct Origin {
  std::uint64_t prompt_index = 0;
  std::uint64_t sample = 0;
  std::uint64_t seed = 0;
  std::string prompt;  ///< UTF-8
};

/// A line of generations.jsonl; schemas/generations.schema.json.
nlohmann::json to_json(const Origin& origin, const Generation& generation);

/// The same for a person: a headline, the prompt and what followed it. Without control characters but newlines and
/// tabs; those, and bytes that are not UTF-8, are written as \x1b.
std::string to_text(const Origin& origin, const Generation& generation);

}  // namespace braise::infer
