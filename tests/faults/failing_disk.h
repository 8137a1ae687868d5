// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

#include "tests/support/support.h"

namespace braise::test {

/// A disk of 16 MiB that can be made to fail: ext4 on a loop device over memory, where this user may have one.
class FailingDisk {
 public:
  FailingDisk();
  ~FailingDisk();
  FailingDisk(const FailingDisk&) = delete;
  FailingDisk& operator=(const FailingDisk&) = delete;

  bool mounted() const { return mounted_; }
  const std::filesystem::path& path() const { return folder_.path(); }

  /// From now on it reads and writes nothing any more.
  void fail();

  /// Takes it away: the path is an ordinary folder.
  void unmount();

 private:
  TemporaryFolder folder_;
  int memory_ = -1;
  int device_ = -1;
  bool mounted_ = false;
};

}  // namespace braise::test
