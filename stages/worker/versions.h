// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace braise::worker {

/// Braise's own version and those of the libraries that are in use, which may be others than it was built with.
nlohmann::json versions();

/// Tells this very build of the program from every other: the linker's build id, with versions().
/// Errors: core::Error where the program was linked without one.
std::string build_identity();

}  // namespace braise::worker
