// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace braise::worker {

/// Braise's own version and those of the libraries it was built with, as JSON on one line.
std::string versions();

/// Tells this very build of the program from every other: the linker's build id, with versions().
/// Errors: core::Error where the program was linked without one.
std::string build_identity();

}  // namespace braise::worker
