// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

#include "stages/api/stage.h"

namespace braise::worker {

using StageWork = stages::Ending (*)(stages::StageContext&, stages::Outputs&);

/// The work of a stage kind; nullptr where there is no such kind.
StageWork find_work(std::string_view kind);

}  // namespace braise::worker
