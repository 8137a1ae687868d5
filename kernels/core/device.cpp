// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/device.h"

#include <chrono>

#include "kernels/core/arena.h"
#include "kernels/core/error.h"

namespace braise::core {
namespace {

/// Work on the CPU is done when it was given, so an event is a moment.
class CpuEvent : public Event {
 public:
  void synchronize() override {}
  double seconds_since(const Event& earlier) const override {
    const auto* const other = dynamic_cast<const CpuEvent*>(&earlier);
    if (other == nullptr) throw Error("two events of different devices have no time between them");
    return std::chrono::duration<double>(moment_ - other->moment_).count();
  }

 private:
  std::chrono::steady_clock::time_point moment_ = std::chrono::steady_clock::now();
};

class CpuStream : public Stream {
 public:
  explicit CpuStream(Arena& arena) : Stream(kCpu, arena) {}
  void synchronize() override {}
  std::unique_ptr<Event> record() override { return std::make_unique<CpuEvent>(); }
  void wait(const Event&) override {}
};

[[noreturn]] void fail_without_cuda(const std::string& what) {
  throw Error(what + ": this build has no CUDA backend; use device: cpu");
}

}  // namespace

std::string Device::text() const {
  return kind == DeviceKind::kCpu ? "cpu" : "cuda:" + std::to_string(index);
}

std::unique_ptr<Stream> make_stream(Arena& arena) {
  if (arena.device().kind != DeviceKind::kCpu) fail_without_cuda("a stream on " + arena.device().text());
  return std::make_unique<CpuStream>(arena);
}

void require_cpu(const Stream& stream, const char* operation) {
  if (stream.device().kind != DeviceKind::kCpu) {
    throw Error(std::string(operation) + " has no implementation for " + stream.device().text() + " in this build");
  }
}

}  // namespace braise::core
