// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace braise::core {

enum class DeviceKind : std::uint8_t { kCpu, kCuda };

/// Where memory lies and operations run. There is one CPU device (index 0); GPUs are numbered as the process sees them.
struct Device {
  DeviceKind kind = DeviceKind::kCpu;
  int index = 0;
  bool operator==(const Device&) const = default;

  std::string text() const;  ///< "cpu", "cuda:0"
};

inline constexpr Device kCpu{DeviceKind::kCpu, 0};

class Arena;

/// A point in a stream's work.
class Event {
 public:
  virtual ~Event() = default;

  /// Blocks until the work before it is done.
  virtual void synchronize() = 0;

  /// Seconds from `earlier` (of the same device) to this event. Blocks until both are reached.
  virtual double seconds_since(const Event& earlier) const = 0;
};

/// Work on one device, done in the order it is given. An operation may return before it is done; its tensors must live
/// and stay untouched until then. On the CPU an operation is done when it returns, on the OpenMP threads of the calling
/// thread. Owned by one thread at a time.
class Stream {
 public:
  virtual ~Stream() = default;

  Device device() const { return device_; }

  /// Where operations of this stream take their workspace.
  Arena& arena() const { return *arena_; }

  /// Blocks until all work given so far is done. Errors: core::Error if some of it failed.
  virtual void synchronize() = 0;

  /// Marks the end of the work given so far.
  virtual std::unique_ptr<Event> record() = 0;

  /// Work given from now on starts after `event`, which may be of another stream.
  virtual void wait(const Event& event) = 0;

 protected:
  Stream(Device device, Arena& arena) : device_(device), arena_(&arena) {}

 private:
  Device device_;
  Arena* arena_;
};

/// A stream on the arena's device. The arena must outlive it.
/// Errors: core::Error where this build has no backend for the device.
std::unique_ptr<Stream> make_stream(Arena& arena);

/// What an operation calls before its CPU implementation.
/// Errors: core::Error "<operation> has no implementation for <device> in this build".
void require_cpu(const Stream& stream, const char* operation);

}  // namespace braise::core
