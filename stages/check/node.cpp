// SPDX-License-Identifier: Apache-2.0
#include "stages/check/node.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/core/error.h"
#include "stages/check/pattern.h"
#include "stages/shared/io/file.h"

namespace braise::check {
namespace fs = std::filesystem;
namespace {

constexpr std::uint64_t kBlock = 1 << 20;

std::string of_workers(std::uint64_t needed, int workers) {
  return "where its " + std::to_string(workers) + " workers need " + std::to_string(needed);
}

}  // namespace

std::uint64_t available_memory_bytes() {
  std::istringstream lines(io::read_file("/proc/meminfo"));
  for (std::string line; std::getline(lines, line);) {
    constexpr char kKey[] = "MemAvailable:";
    if (line.starts_with(kKey)) return std::stoull(line.substr(sizeof kKey - 1)) * 1024;
  }
  throw core::Error("/proc/meminfo does not tell how much memory is available");
}

void verify_memory(std::uint64_t needed, int workers) {
  const std::uint64_t available = available_memory_bytes();
  if (available >= needed) return;
  throw core::Error("the node has " + std::to_string(available) + " bytes of main memory available, " +
                    of_workers(needed, workers));
}

void verify_room(const fs::path& folder, std::uint64_t needed, int workers) {
  struct statvfs disk {};
  if (::statvfs(folder.c_str(), &disk) != 0) core::fail_errno("cannot look at the disk of " + folder.string());
  const std::uint64_t free = std::uint64_t{disk.f_bavail} * disk.f_frsize;
  if (free >= needed) return;
  throw core::Error("the node has " + std::to_string(free) + " bytes free in " + folder.string() + ", " +
                    of_workers(needed, workers));
}

void verify_disk(const fs::path& folder, std::uint64_t bytes, int rank) {
  const fs::path path = folder / ("check." + std::to_string(rank));
  std::vector<std::byte> block, found;
  const auto next_block = [&](std::uint64_t begin) {
    block.resize(std::min(kBlock, bytes - begin));
    fill(block, begin / kBlock, static_cast<std::uint64_t>(rank), 0);
  };
  io::FileDescriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!file) core::fail_errno("cannot create " + path.string());
  for (std::uint64_t begin = 0; begin < bytes; begin += block.size()) {
    next_block(begin);
    io::write_all(file.get(), {reinterpret_cast<const char*>(block.data()), block.size()}, path);
  }
  if (::fsync(file.get()) != 0) core::fail_errno("cannot write " + path.string() + " to its disk");
  // From the disk, where the system heeds that.
  ::posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED);
  for (std::uint64_t begin = 0; begin < bytes; begin += block.size()) {
    next_block(begin);
    found.resize(block.size());
    io::read_at(file.get(), found, begin, path);
    if (found != block) {
      throw core::Error("what was written to " + path.string() + " was read back otherwise, within the " +
                        std::to_string(block.size()) + " bytes from " + std::to_string(begin));
    }
  }
  file.reset();
  std::error_code error;
  fs::remove(path, error);
  if (error) throw core::Error("cannot remove " + path.string() + ": " + error.message());
}

}  // namespace braise::check
