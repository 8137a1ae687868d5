// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

namespace braise::yaml {

/// A place in what the user wrote. Lines and columns count from 1, columns in characters (not bytes); 0: no place
/// known.
struct Mark {
  std::shared_ptr<const std::string> file;  ///< as the user named it; or "--set" and the like
  int line = 0;
  int column = 0;
};

}  // namespace braise::yaml
