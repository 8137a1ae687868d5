// SPDX-License-Identifier: Apache-2.0
#include "stages/train/loss_scale.h"

#include <catch2/catch.hpp>

namespace braise::train {
namespace {

TEST_CASE("the loss scale grows after enough good steps in a row, and shrinks at an overflow") {
  LossScale scale({.initial = 1024, .growth = 2, .backoff = 0.5, .interval = 3, .hysteresis = 1, .minimum = 1});
  scale.good_step();
  scale.good_step();
  CHECK(scale.scale() == 1024);
  CHECK(scale.overflow());
  CHECK(scale.scale() == 512);
  scale.good_step();
  scale.good_step();
  CHECK(scale.scale() == 512);
  scale.good_step();
  CHECK(scale.scale() == 1024);
}

TEST_CASE("hysteresis lets overflows pass") {
  LossScale scale({.initial = 64, .growth = 2, .backoff = 0.25, .interval = 100, .hysteresis = 3, .minimum = 1});
  CHECK(scale.overflow());
  CHECK(scale.overflow());
  CHECK(scale.scale() == 64);
  CHECK(scale.overflow());
  CHECK(scale.scale() == 16);
}

TEST_CASE("an overflow at the minimum says that scaling cannot help") {
  LossScale scale({.initial = 4, .growth = 2, .backoff = 0.5, .interval = 100, .hysteresis = 1, .minimum = 2});
  CHECK(scale.overflow());
  CHECK(scale.scale() == 2);
  CHECK_FALSE(scale.overflow());
}

TEST_CASE("a restored scale goes on where it was") {
  const LossScaleSettings settings{
      .initial = 8, .growth = 2, .backoff = 0.5, .interval = 4, .hysteresis = 2, .minimum = 1};
  LossScale straight(settings);
  straight.good_step();
  straight.overflow();
  straight.good_step();
  LossScale restored(settings);
  restored.restore(straight.state());
  for (LossScale* const scale : {&straight, &restored}) {
    scale->good_step();
    scale->good_step();
    scale->good_step();
  }
  CHECK(straight.scale() == 16);
  CHECK(restored.scale() == straight.scale());
}

}  // namespace
}  // namespace braise::train
