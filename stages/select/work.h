// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "stages/api/stage.h"

namespace braise::select {

/// Ranks the candidates and writes selected.json. Call on every rank. Errors: core::Error where a checkpoint cannot be
/// read, and where none has a validation loss.
stages::Ending run(stages::StageContext& context, stages::Outputs& outputs);

}  // namespace braise::select
