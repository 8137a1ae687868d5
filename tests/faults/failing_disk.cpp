// SPDX-License-Identifier: Apache-2.0
#include "tests/faults/failing_disk.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <unistd.h>

#include <string>

#include "kernels/core/error.h"
#include "stages/shared/io/file.h"

namespace braise::test {

FailingDisk::FailingDisk() : memory_(::memfd_create("failing disk", MFD_CLOEXEC | MFD_ALLOW_SEALING)) {
  const io::FileDescriptor control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  if (memory_ < 0 || !control || ::ftruncate(memory_, 16 << 20) != 0) return;
  const int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
  const std::string name = "/dev/loop" + std::to_string(number);
  device_ = number < 0 ? -1 : ::open(name.c_str(), O_RDWR | O_CLOEXEC);
  loop_config config{};
  config.fd = static_cast<unsigned>(memory_);
  config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
  if (device_ < 0 || ::ioctl(device_, LOOP_CONFIGURE, &config) != 0) return;
  if (run_program({"mkfs.ext4", "-q", "-m", "0", name}).status != 0) return;
  mounted_ = ::mount(name.c_str(), folder_.path().c_str(), "ext4", 0, nullptr) == 0;
}

FailingDisk::~FailingDisk() {
  unmount();
  if (device_ >= 0) ::close(device_);
  if (memory_ >= 0) ::close(memory_);
}

void FailingDisk::fail() {
  if (::ftruncate(memory_, 0) != 0 || ::fcntl(memory_, F_ADD_SEALS, F_SEAL_GROW) != 0) {
    core::fail_errno("the disk does not fail");
  }
}

void FailingDisk::unmount() {
  if (mounted_) ::umount2(folder_.path().c_str(), MNT_DETACH);
  mounted_ = false;
}

}  // namespace braise::test
