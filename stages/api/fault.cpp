// SPDX-License-Identifier: Apache-2.0
#include "stages/api/fault.h"

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <string_view>
#include <tuple>
#include <unordered_set>

namespace braise::stages {
namespace {

bool is_continuation(unsigned char byte) {
  return (byte & 0xC0) == 0x80;
}

/// The bytes of the UTF-8 character that begins here; 1 where there is none. Good enough for text that is only shown.
std::size_t character_bytes(std::string_view text) {
  const auto first = static_cast<unsigned char>(text[0]);
  const std::size_t bytes = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : first >= 0xC2 ? 2 : 1;
  if (first > 0xF4 || text.size() < bytes) return 1;
  for (std::size_t i = 1; i < bytes; ++i) {
    if (!is_continuation(static_cast<unsigned char>(text[i]))) return 1;
  }
  return bytes;
}

/// Characters that show nothing or turn the text around them: a name that holds one looks like another.
bool is_invisible(std::string_view character) {
  if (character.size() == 2) return character < "\xC2\xA0";  // U+0080 to U+009F
  if (character.size() != 3) return false;
  const auto within = [&](std::string_view first, std::string_view last) {
    return character >= first && character <= last;
  };
  return within("\xE2\x80\x8B", "\xE2\x80\x8F") || within("\xE2\x80\xA8", "\xE2\x80\xAE") ||
         within("\xE2\x81\xA0", "\xE2\x81\xAF") || character == "\xEF\xBB\xBF";
}

}  // namespace

std::string printable(const std::string& text, std::size_t limit) {
  std::string result;
  std::string_view rest = text;
  for (std::size_t shown = 0; !rest.empty(); ++shown) {
    if (shown == limit) return result + "...";
    const std::size_t bytes = character_bytes(rest);
    const std::string_view character = rest.substr(0, bytes);
    rest.remove_prefix(bytes);
    const auto byte = static_cast<unsigned char>(character[0]);
    if (character == "\n") {
      result += "\\n";
    } else if (character == "\t") {
      result += "\\t";
    } else if ((bytes == 1 && (byte < 0x20 || byte >= 0x7F)) || is_invisible(character)) {
      for (const char c : character) {
        char escaped[8];
        std::snprintf(escaped, sizeof escaped, "\\x%02x", static_cast<unsigned char>(c));
        result += escaped;
      }
    } else {
      result += character;
    }
  }
  return result;
}

std::string to_string(const Fault& fault) {
  std::string text;
  const auto add = [&text](const std::string& part, const char* glue) {
    if (part.empty()) return;
    if (!text.empty()) text += glue;
    text += part;
  };
  if (fault.at.file) {
    std::string place = printable(*fault.at.file, 4096);
    if (fault.at.line > 0) place += ":" + std::to_string(fault.at.line) + ":" + std::to_string(fault.at.column);
    add(place, "");
  }
  constexpr std::size_t kLongestPart = 1000;
  add(printable(fault.path, 400), ": ");
  add(printable(fault.problem, kLongestPart), ": ");
  add(printable(fault.remedy, kLongestPart), "; ");
  return text;
}

std::string to_string(const Faults& faults) {
  std::vector<const Fault*> sorted;
  for (const Fault& fault : faults) sorted.push_back(&fault);
  const auto key = [](const Fault& fault) {
    const std::string_view file = fault.at.file ? std::string_view(*fault.at.file) : std::string_view();
    return std::make_tuple(file, fault.at.line, fault.at.column);
  };
  std::stable_sort(sorted.begin(), sorted.end(), [&](const Fault* a, const Fault* b) { return key(*a) < key(*b); });
  std::string text;
  std::unordered_set<std::string> seen;
  for (const Fault* fault : sorted) {
    const auto [line, is_new] = seen.insert(to_string(*fault) + "\n");
    if (is_new) text += *line;
  }
  return text;
}

std::string nearest(const std::string& word, const std::vector<std::string>& candidates) {
  // Nobody means a long word by another, and nobody is helped by a search through everything.
  constexpr std::size_t kLongestWord = 64;
  constexpr std::size_t kMostCandidates = 1000;
  if (word.size() > kLongestWord) return {};
  std::string best;
  std::size_t best_distance = std::max<std::size_t>(1, word.size() / 3) + 1;
  for (std::size_t k = 0; k < std::min(candidates.size(), kMostCandidates); ++k) {
    const std::string& candidate = candidates[k];
    if (candidate.size() > kLongestWord) continue;
    std::vector<std::size_t> previous_row(candidate.size() + 1), row(candidate.size() + 1),
        before(candidate.size() + 1);
    std::iota(previous_row.begin(), previous_row.end(), std::size_t{0});
    for (std::size_t i = 1; i <= word.size(); ++i) {
      row[0] = i;
      for (std::size_t j = 1; j <= candidate.size(); ++j) {
        const bool same = word[i - 1] == candidate[j - 1];
        row[j] = std::min({previous_row[j] + 1, row[j - 1] + 1, previous_row[j - 1] + (same ? 0 : 1)});
        const bool swapped = i > 1 && j > 1 && word[i - 1] == candidate[j - 2] && word[i - 2] == candidate[j - 1];
        if (swapped) row[j] = std::min(row[j], before[j - 2] + 1);
      }
      before = previous_row;
      previous_row = row;
    }
    if (previous_row.back() < best_distance) {
      best_distance = previous_row.back();
      best = candidate;
    }
  }
  return best;
}

}  // namespace braise::stages
