// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "stages/shared/io/file.h"

namespace braise::schedule {

/// How a signal handler tells the scheduler to stop: asked once, running jobs checkpoint and stop; asked again, they
/// are killed.
class StopSignal {
 public:
  StopSignal();

  /// Asks once more. Safe in a signal handler and from any thread.
  void ask() noexcept;

  int fd() const { return file_.get(); }  ///< readable when it was asked since the last take()
  int take();                             ///< how often it was asked since the last take()

 private:
  io::FileDescriptor file_;
};

}  // namespace braise::schedule
