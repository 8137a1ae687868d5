// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "runner/journal/run_directory.h"
#include "runner/plan/plan.h"

namespace braise::journal {

/// The git repository of a recipe.
struct Repository {
  std::string root;    ///< its folder
  std::string commit;  ///< that is checked out
  std::string diff;    ///< of tracked files to that commit; at most kMaximalDiff bytes
  bool diff_is_cut = false;

  struct Untracked {
    std::uint64_t bytes = 0;
    std::string sha256;  ///< empty: not looked at
  };
  std::map<std::string, Untracked> untracked;  ///< files that git neither tracks nor ignores, relative to the root
  bool untracked_is_cut = false;               ///< there are more
};
inline constexpr std::size_t kMaximalDiff = 1 << 20;
inline constexpr std::size_t kMaximalUntracked = 1000;          ///< files that are told
inline constexpr std::uint64_t kMaximalDigested = 64ull << 20;  ///< bytes of untracked files that are looked at

/// A file that a recipe was read from.
struct SourceFile {
  std::string path;  ///< as named
  std::string sha256;
};

/// What provenance.json tells besides what it finds out itself (time, working directory, host, build).
struct Provenance {
  std::vector<std::string> command;
  int cores = 0;                   ///< that the runner may use
  std::uint64_t memory_bytes = 0;  ///< likewise
  std::vector<SourceFile> sources;
  recipe::Overrides overrides;
  std::map<std::string, std::string> environment;  ///< what the recipe lists under `env`
  std::vector<std::string> kept_environment;       ///< what else of it workers see, as "NAME=value"
  std::string processor;                           ///< its model; empty: not known
  std::vector<std::string> gpus;                   ///< models; empty: there is none
  std::optional<Repository> repository;
  std::string rerun_of;  ///< the folder of the run that is repeated; empty: none
};

/// The text of provenance.json, of a run made with those other files; schema: schemas/provenance.schema.json.
std::string provenance_text(const Provenance& provenance, const RunFiles& files);

/// Takes over what `run` was made of: its recipe's sources, overrides, environment and repository. Errors: core::Error
/// where its provenance.json cannot be read.
void take_origin(Provenance& provenance, const RunDirectory& run);

/// Which of recipe.yaml, resolved.yaml and plan.json are not what the run was made with: a line each, with both
/// digests; "" for none. Nothing where provenance.json has no digests, as earlier builds left it.
/// Errors: core::Error where a file cannot be read.
std::optional<std::string> edited_files(const RunDirectory& run);

}  // namespace braise::journal
