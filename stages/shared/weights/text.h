// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

namespace braise::weights {

/// What a file says, fit for a message: quoted, without control characters or broken UTF-8, and cut where it is long.
std::string in_quotes(std::string_view text);

/// Whether it is UTF-8 (no surrogates, no overlong forms).
bool is_utf8(std::string_view text);

}  // namespace braise::weights
