// SPDX-License-Identifier: Apache-2.0
#include "runner/recipe/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "kernels/core/error.h"

namespace braise::recipe {

struct Pattern::Code {
  explicit Code(const std::string& expression) {
    int error = 0;
    PCRE2_SIZE where = 0;
    code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(),
                         PCRE2_UTF | PCRE2_DOLLAR_ENDONLY, &error, &where, nullptr);
    if (code == nullptr) throw core::Error("not a regular expression: " + expression);
    match = pcre2_match_data_create(1, nullptr);
  }
  ~Code() {
    pcre2_match_data_free(match);
    pcre2_code_free(code);
  }
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;

  pcre2_code* code = nullptr;
  pcre2_match_data* match = nullptr;
};

Pattern::Pattern(const std::string& expression) : code_(std::make_shared<Code>(expression)) {}

bool Pattern::matches(std::string_view text) const {
  const int groups =
      pcre2_match(code_->code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0, 0, code_->match, nullptr);
  return groups >= 0;
}

}  // namespace braise::recipe
