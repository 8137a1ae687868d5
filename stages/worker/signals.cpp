// SPDX-License-Identifier: Apache-2.0
#include "stages/worker/signals.h"

#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <atomic>

#include "kernels/core/error.h"

namespace braise::worker {
namespace {

std::atomic<std::int64_t> checkpoints = 0;
std::atomic<bool> stop = false;
static_assert(std::atomic<std::int64_t>::is_always_lock_free && std::atomic<bool>::is_always_lock_free,
              "only lock-free atomics may be used in a signal handler");

void on_signal(int signal) {
  if (signal == SIGUSR1) {
    checkpoints.fetch_add(1);
  } else {
    stop.store(true);
  }
}

}  // namespace

void die_with_parent() {
  const pid_t parent = ::getppid();
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) core::fail_errno("cannot ask to die with the parent");
  // A parent that died before the call above sends nothing any more. (One that died before the first line is missed by
  // MPI_Init, which fails without it.)
  if (::getppid() != parent) ::_exit(1);
}

void catch_requests() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (const int signal : {SIGUSR1, SIGUSR2, SIGTERM}) {
    if (::sigaction(signal, &action, nullptr) != 0) core::fail_errno("cannot catch a signal");
  }
}

Requested requested() {
  return {checkpoints.load(), stop.load()};
}

void block_signals() {
  sigset_t all;
  sigfillset(&all);
  if (::pthread_sigmask(SIG_BLOCK, &all, nullptr) != 0) core::fail_errno("cannot block signals");
}

}  // namespace braise::worker
