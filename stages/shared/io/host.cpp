// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/io/host.h"

#include <unistd.h>

#include <cstdlib>

#include "kernels/core/error.h"

namespace braise::io {

std::string node_name() {
  if (const char* const node = std::getenv("SLURMD_NODENAME"); node != nullptr && *node != '\0') return node;
  char name[256] = {};
  if (::gethostname(name, sizeof name - 1) != 0) core::fail_errno("cannot tell the host's name");
  return name;
}

}  // namespace braise::io
