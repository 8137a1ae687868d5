// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace braise::recipe {

/// What an independent validator finds wrong with a value by a schema as it is published; empty: nothing.
std::string validate(const nlohmann::json& value, const nlohmann::json& schema);

}  // namespace braise::recipe
