// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <filesystem>
#include <optional>
#include <string>

#include "runner/plan/bind.h"

namespace braise::journal {

/// A job that some run finished.
struct FinishedJob {
  std::string run;  ///< folder name in the runs folder
  std::string job;
  plan::Completed completed;
};

/// Finished jobs of all runs by fingerprint: `<runs>/.finished/<2 hex>/<fingerprint>`, a small JSON file each. A hint,
/// not a truth: an entry may be stale, and reuse() checks all it takes over.
class FinishedIndex {
 public:
  /// Where it stands in a folder of runs.
  static constexpr const char* kFolder = ".finished";

  explicit FinishedIndex(std::filesystem::path runs_dir) : runs_dir_(std::move(runs_dir)) {}

  /// Notes a finished job durably; the latest one of a fingerprint is kept.
  void add(const std::string& fingerprint, const FinishedJob& job) const;

  /// The finished job of that fingerprint whose output files all exist with their sizes.
  std::optional<FinishedJob> find(const std::string& fingerprint) const;

  /// Takes out an entry that proved stale.
  void remove(const std::string& fingerprint) const;

  /// Puts a finished job's outputs into the empty folder `attempt_dir`, read-only: hard links, or copies where the file
  /// system has no links. Every digest is verified. False where `cancelled` became true meanwhile.
  /// Errors: core::Error naming the file that is missing or changed.
  bool reuse(const FinishedJob& job, const std::filesystem::path& attempt_dir,
             const std::atomic<bool>& cancelled) const;

 private:
  std::filesystem::path entry(const std::string& fingerprint) const;
  std::filesystem::path runs_dir_;
};

/// The first of the outputs' files that is not there with its size, or has no safe name; empty where all are.
std::string missing_output(const std::filesystem::path& attempt_dir,
                           const std::map<std::string, stages::Output>& outputs);

}  // namespace braise::journal
