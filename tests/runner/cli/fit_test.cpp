// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "tests/support/support.h"

namespace braise {
namespace {

using Catch::Contains;

test::Finished plan(std::vector<std::string> more) {
  std::vector<std::string> command{test::program("braise"), "plan",
                                   std::string(BRAISE_SOURCE_DIR) + "/examples/larger-than-memory/recipe.yaml",
                                   "--fit"};
  command.insert(command.end(), more.begin(), more.end());
  return test::run_program(command);
}

TEST_CASE("plan --fit tells the layout that fits, and a plan that cannot fit is refused with it") {
  const test::Finished fits = plan({});
  INFO(fits.err);
  CHECK(fits.status == 0);
  CHECK_THAT(fits.out, Contains("pretrain: 2 x 40 MiB of device memory: fits as it stands"));

  const test::Finished less = plan({"--set", "resources.device_memory=30MiB"});
  CHECK(less.status == 0);
  CHECK_THAT(less.out, Contains("fits with these changes") && Contains("offload.gradients: host"));

  const test::Finished json = plan({"--json", "--set", "resources.device_memory=30MiB"});
  const nlohmann::json fit = nlohmann::json::parse(json.out).at("jobs").at(1).at("fit");
  CHECK(fit.at("fits") == true);
  CHECK(fit.at("device_bytes") <= 30 << 20);
  CHECK(fit.at("changes").at(0).at("key") == "offload.gradients");

  const test::Finished refused =
      plan({"--set", "stages.pretrain.parallel.zero=0", "--set", "stages.pretrain.offload={}"});
  CHECK(refused.status == 2);
  CHECK_THAT(refused.err, Contains("stages.pretrain: needs more of each worker's device memory") &&
                              Contains("this would fit: "));
}

}  // namespace
}  // namespace braise
