// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>

#include "runner/launch/slurm/groups.h"
#include "runner/recipe/site.h"

namespace braise::launch::slurm {

/// A word that bash reads as exactly these bytes (all but NUL), on one line whatever is in it.
std::string quote(const std::string& text);

/// What a batch script is written for.
struct ScriptFacts {
  std::filesystem::path program;  ///< braise itself, absolute
  std::filesystem::path run_dir;  ///< absolute
  std::string recipe;             ///< its name
  std::string comment;            ///< by which the job is found again: braise:<run>:<submission>:<group>
  int submission = 0;
};

/// How the comments of all that braise submits begin.
inline constexpr char kCommentStart[] = "braise:";

/// `braise:<run>:<submission>:<group>`, with what a folder's name may hold and Slurm not made `_`.
std::string comment_of(const std::string& run_id, int submission, const std::string& group);

/// How the comments of all jobs of a run begin.
std::string comment_prefix(const std::string& run_id);

/// What `sbatch --output` is given in place of what the script says, in a run's folder that Slurm would misread: it fills
/// in values of its own at `%` in the whole path of a log, and where there is a backslash takes it away and fills in
/// nothing, so that all jobs of an array write to one file then. Empty where the script's own will do.
std::string output_option(const Group& group, const std::filesystem::path& run_dir, int submission);

/// The batch script of a group: its options, the site's setup lines, and `exec` of the supervisor: no logic. Everything
/// but the site's own lines is quoted or of safe characters. Options that depend on other jobs are given to sbatch.
std::string script_text(const Group& group, const recipe::Site& site, const ScriptFacts& facts);

}  // namespace braise::launch::slurm
