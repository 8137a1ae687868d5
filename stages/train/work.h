// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "stages/api/stage.h"

namespace braise::train {

/// The work of one rank; see README.md for the order of things. Call on every rank.
stages::Ending run(stages::StageContext& context, stages::Outputs& outputs);

}  // namespace braise::train
