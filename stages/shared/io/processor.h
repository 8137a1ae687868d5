// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace braise::io {

/// The model of this machine's first processor, "Intel(R) Xeon(R) Platinum 8481C"; empty where the system does not
/// tell.
std::string processor_model();

}  // namespace braise::io
