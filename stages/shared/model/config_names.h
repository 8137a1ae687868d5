// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>

/// Names of Hugging Face, for what reads and writes its config.json.
namespace braise::model {

/// The classes by model_type: all the architectures that Braise knows.
const std::map<std::string, std::string>& class_names();

}  // namespace braise::model
