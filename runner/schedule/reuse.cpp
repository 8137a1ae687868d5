// SPDX-License-Identifier: Apache-2.0
#include "runner/schedule/reuse.h"

#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "kernels/core/error.h"

namespace braise::schedule {
namespace fs = std::filesystem;

Reuse::Reuse(const journal::FinishedIndex& index, journal::FinishedJob job, fs::path attempt_dir)
    : index_(index),
      job_(std::move(job)),
      attempt_dir_(std::move(attempt_dir)),
      done_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!done_) core::fail_errno("cannot make an event counter");
  // Signals are the main thread's.
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { work(); });
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Reuse::~Reuse() {
  cancelled_ = true;
  thread_.join();
}

void Reuse::work() {
  try {
    io::create_directories_durably(attempt_dir_);
    result_ = index_.reuse(job_, attempt_dir_, cancelled_) ? Result::taken : Result::cancelled;
  } catch (const std::exception& error) {
    result_ = Result::stale;
    problem_ = error.what();
  }
  if (result_ != Result::taken) {
    std::error_code ignored;
    fs::remove_all(attempt_dir_, ignored);
  }
  finished_ = true;
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t put = ::write(done_.get(), &one, sizeof one);
}

}  // namespace braise::schedule
