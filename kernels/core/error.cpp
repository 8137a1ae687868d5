// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/error.h"

#include <cerrno>
#include <string_view>
#include <system_error>

namespace braise::core {

std::string Error::place() const {
  // This very file is kernels/core/error.cpp, which gives the length of the source tree's own path.
  constexpr std::string_view kThis = __FILE__;
  constexpr std::string_view kSuffix = "kernels/core/error.cpp";
  static_assert(kThis.ends_with(kSuffix));
  constexpr std::string_view kRoot = kThis.substr(0, kThis.size() - kSuffix.size());
  std::string_view file = where_.file_name();
  if (file.starts_with(kRoot)) file.remove_prefix(kRoot.size());
  return std::string(file) + ":" + std::to_string(where_.line());
}

void fail_errno(const std::string& what, SourceLocation where) {
  throw Error(what + ": " + std::generic_category().message(errno), where);
}

}  // namespace braise::core
