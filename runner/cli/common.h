// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <stdexcept>
#include <string>

#include "runner/journal/run_directory.h"
#include "runner/plan/make.h"
#include "runner/recipe/recipe.h"

namespace braise::cli {

/// The exit statuses of every command.
inline constexpr int kSuccess = 0;
inline constexpr int kRunFailed = 1;
inline constexpr int kBadInput = 2;

/// A command used wrongly or on something that is not there: told on standard error, exit status 2.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// What names a recipe on the command line.
struct RecipeArguments {
  std::filesystem::path recipe;
  recipe::Overrides overrides;
};

/// A recipe's plan, made with inputs found on this machine. With faults: prints them (JSON on standard output where
/// `json`, else lines on standard error) and throws UsageError without text.
struct Planned {
  recipe::Document document;
  plan::Made made;
};
Planned plan_recipe(const RecipeArguments& arguments, bool json);

/// Prints faults as plan_recipe does.
void print_faults(const stages::Faults& faults, bool json);

/// The run that the user named, after a sweep of what killed commands left. Errors: UsageError.
journal::RunDirectory find_run(const std::string& run, const std::filesystem::path& runs);

/// Errors: UsageError where somebody runs the run, or Slurm has a job of it.
void refuse_in_use(const journal::RunDirectory& run);

/// braise-worker, which lies beside this program. Errors: core::Error where it does not.
std::filesystem::path worker_program();

/// Writes text to standard output. Errors: core::Error where it cannot be written (a full disk).
void print(const std::string& text);

}  // namespace braise::cli
