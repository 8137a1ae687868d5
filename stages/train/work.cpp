// SPDX-License-Identifier: Apache-2.0
#include "stages/train/work.h"

#include "stages/train/training.h"

namespace braise::train {

stages::Ending run(stages::StageContext& context, stages::Outputs& outputs) {
  return Training(context).run(outputs);
}

}  // namespace braise::train
