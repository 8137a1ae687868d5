// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>

#include "kernels/core/arena.h"
#include "kernels/core/device.h"
#include "kernels/core/error.h"
#include "kernels/core/ledger.h"
#include "stages/shared/weights/weights.h"

namespace braise::test {

inline void require(bool good, const char* what, const std::string& detail) {
  if (good) return;
  std::fprintf(stderr, "broken: %s\n%s\n", what, detail.c_str());
  std::abort();
}

/// A file in memory, with a name, whose content is set again and again.
class MemoryFile {
 public:
  MemoryFile() : fd_(::memfd_create("input", MFD_CLOEXEC)) { require(fd_ >= 0, "memfd_create", ""); }
  ~MemoryFile() { ::close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  std::filesystem::path path() const { return "/proc/self/fd/" + std::to_string(fd_); }

  void set(std::span<const std::uint8_t> bytes) {
    const auto size = static_cast<off_t>(bytes.size());
    const bool done =
        ::ftruncate(fd_, size) == 0 && ::pwrite(fd_, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(size);
    require(done, "the input cannot be written", "");
  }

 private:
  int fd_;
};

/// What is refused is refused with a message: one line, with the name of a file.
inline void check_message(const core::Error& error, const std::string& file) {
  const std::string message = error.what();
  require(message.find(file) != std::string::npos, "an error does not name the file", message);
  require(message.size() < 4096, "an error is very long", message);
  for (const char c : message) {
    require(static_cast<unsigned char>(c) >= 0x20, "an error holds a control character", message);
  }
}

/// Reads all that was opened, which must not fail but for what cannot be converted.
inline void read_all(const weights::Weights& weights, const std::string& file) {
  static core::MemoryLedger ledger;
  static core::Arena arena(core::kCpu, core::Space::kHost, ledger);
  static const std::unique_ptr<core::Stream> stream = core::make_stream(arena);
  const weights::TensorInfo* before = nullptr;
  for (const weights::TensorInfo& tensor : weights.tensors()) {
    require(before == nullptr || before->name < tensor.name, "names are not in order", tensor.name);
    before = &tensor;
    require(weights.find(tensor.name) == &tensor, "a tensor is not found", tensor.name);
    const core::ConstTensorView view = weights.view(tensor.name);
    if (view) {
      require(static_cast<std::size_t>(view.bytes()) == tensor.bytes.size(), "a view has other bytes", tensor.name);
    }
    for (const core::Dtype dtype : {core::Dtype::kFloat32, core::Dtype::kFloat16, core::Dtype::kInt8}) {
      if (weights::is_float(tensor.encoding) != core::is_float(dtype)) continue;
      const core::Tensor out = arena.tensor(dtype, tensor.shape, core::Category::kParameters, "out");
      try {
        weights.read(*stream, tensor.name, out.view);
      } catch (const core::Error& error) {
        require(!weights::is_float(tensor.encoding), "a tensor cannot be read", error.what());
        check_message(error, file);
      }
    }
  }
}

}  // namespace braise::test
