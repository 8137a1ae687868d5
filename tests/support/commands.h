// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

#include "tests/support/support.h"

namespace braise::test {

/// A folder on the left of PATH: commands that are found before those of the machine, by this process and those it starts.
class Commands {
 public:
  Commands() { ::setenv("PATH", (folder_.path().string() + ":" + before_).c_str(), 1); }
  ~Commands() { ::setenv("PATH", before_.c_str(), 1); }
  Commands(const Commands&) = delete;
  Commands& operator=(const Commands&) = delete;

  /// Adds a bash script, or replaces it.
  void add(const std::string& name, const std::string& lines) {
    std::filesystem::permissions(folder_.write(name, "#!/bin/bash\n" + lines), std::filesystem::perms::owner_all);
  }

 private:
  TemporaryFolder folder_;
  const std::string before_ = std::getenv("PATH");
};

}  // namespace braise::test
