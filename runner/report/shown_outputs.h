// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "runner/journal/run_directory.h"
#include "runner/plan/plan.h"

namespace braise::report {

/// The first `lines` lines of a text, each cut after `columns` bytes (at the beginning of a character) with "..."; one
/// more line, "...", where there are more. Empty lines at the end are left out.
std::string beginning(std::string_view text, std::size_t lines, std::size_t columns);

/// What a run's completed jobs leave for people to read (stages::OutputDeclaration::shown): the name of each file and
/// its beginning. Empty where there is nothing. Errors: core::Error for a file that cannot be read.
std::string shown_outputs(const plan::Plan& plan, const journal::RunDirectory& run);

}  // namespace braise::report
