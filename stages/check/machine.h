// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>

namespace braise::check {

/// What hwloc and the CPU tell of the host this rank runs on: a host of schemas/machine.schema.json.
nlohmann::json describe_host();

}  // namespace braise::check
