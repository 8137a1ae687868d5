// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <filesystem>
#include <string>
#include <thread>

#include "runner/journal/finished.h"
#include "stages/shared/io/file.h"

namespace braise::schedule {

/// Takes over a finished job's outputs in a thread of its own: their digests may take minutes to verify, during which
/// running jobs must be looked after.
class Reuse {
 public:
  enum class Result { taken, cancelled, stale };

  Reuse(const journal::FinishedIndex& index, journal::FinishedJob job, std::filesystem::path attempt_dir);
  ~Reuse();  ///< cancels what is not done
  Reuse(const Reuse&) = delete;
  Reuse& operator=(const Reuse&) = delete;

  int event_fd() const { return done_.get(); }  ///< readable once it is done
  bool done() const { return finished_; }
  void cancel() { cancelled_ = true; }

  /// Once done. Where the outputs were not taken, the attempt's folder is gone again.
  Result result() const { return result_; }
  const std::string& problem() const { return problem_; }  ///< why it is stale
  const journal::FinishedJob& job() const { return job_; }

 private:
  void work();

  journal::FinishedIndex index_;
  journal::FinishedJob job_;
  std::filesystem::path attempt_dir_;
  io::FileDescriptor done_;
  std::atomic<bool> cancelled_ = false, finished_ = false;
  Result result_ = Result::cancelled;
  std::string problem_;
  std::thread thread_;
};

}  // namespace braise::schedule
