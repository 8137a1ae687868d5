// SPDX-License-Identifier: Apache-2.0
#include "runner/schedule/stop_signal.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "kernels/core/error.h"

namespace braise::schedule {

StopSignal::StopSignal() : file_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!file_) core::fail_errno("cannot make an event counter");
}

void StopSignal::ask() noexcept {
  const int saved = errno;
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t put = ::write(file_.get(), &one, sizeof one);
  errno = saved;
}

int StopSignal::take() {
  std::uint64_t count = 0;
  return ::read(file_.get(), &count, sizeof count) == sizeof count ? static_cast<int>(count) : 0;
}

}  // namespace braise::schedule
