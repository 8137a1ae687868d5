// SPDX-License-Identifier: Apache-2.0
#include "stages/api/build.h"

#include <nlohmann/json.hpp>

namespace braise::stages {

std::string version() {
  return BRAISE_VERSION;
}

const nlohmann::json& build_facts() {
  static const nlohmann::json facts = {
      {"version", BRAISE_VERSION},       {"commit", BRAISE_COMMIT},      {"compiler", BRAISE_COMPILER},
      {"build_type", BRAISE_BUILD_TYPE}, {"flags", BRAISE_FLAGS},        {"sanitizers", BRAISE_SANITIZERS},
      {"machine", "x86-64-v2"},          {"cuda", BRAISE_HAS_CUDA != 0}, {"yaml_cpp", BRAISE_YAML_CPP},
  };
  return facts;
}

}  // namespace braise::stages
