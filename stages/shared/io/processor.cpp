// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/io/processor.h"

#include <fstream>

namespace braise::io {

std::string processor_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("model name")) continue;
    const std::size_t value = line.find_first_not_of(" \t", line.find(':') + 1);
    return value == std::string::npos ? "" : line.substr(value);
  }
  return {};
}

}  // namespace braise::io
