// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace braise::io {

/// What this machine is called: in a Slurm job what Slurm calls the node, else its host name.
std::string node_name();

}  // namespace braise::io
