// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>
#include <vector>

#include "stages/api/descriptor.h"

namespace braise::stages {

/// Every stage kind, in the order of stages/kinds.inc.
const std::vector<const StageDescriptor*>& registry();

/// The kind of that name; nullptr where there is none.
const StageDescriptor* find_kind(std::string_view kind);

}  // namespace braise::stages
