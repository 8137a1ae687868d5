// SPDX-License-Identifier: Apache-2.0
#include "stages/worker/job_journal.h"

#include <fcntl.h>

#include <cerrno>
#include <utility>

#include "kernels/core/error.h"
#include "stages/shared/io/clock.h"

namespace braise::worker {
namespace {

/// Creates the journal; nobody may have done so before.
const std::filesystem::path& created(const std::filesystem::path& path) {
  io::create_directories_durably(path.parent_path());
  const io::FileDescriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (!file && errno == EEXIST) throw core::Error("this attempt has been started before: " + path.string() + " exists");
  if (!file) core::fail_errno("cannot create " + path.string());
  return path;
}

}  // namespace

JobJournal::JobJournal(const Attempt& attempt, std::string job)
    : job_(std::move(job)), attempt_(attempt.number), token_(attempt.token), file_(created(attempt.journal)) {}

void JobJournal::append(const char* event, nlohmann::json details) {
  details["event"] = event;
  details["time"] = io::format_utc(io::utc_us());
  details["writer"] = file_.path().stem().string();
  details["seq"] = next_seq_++;
  details["job"] = job_;
  details["attempt"] = attempt_;
  details["token"] = token_;
  file_.append(details, true);
}

}  // namespace braise::worker
