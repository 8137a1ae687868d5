// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace braise::recipe {

/// A compiled regular expression of a schema. `$` means the very end, as in JavaScript; matching searches.
class Pattern {
 public:
  /// Errors: core::Error where it is not a regular expression.
  explicit Pattern(const std::string& expression);

  bool matches(std::string_view text) const;

 private:
  struct Code;
  std::shared_ptr<const Code> code_;
};

}  // namespace braise::recipe
