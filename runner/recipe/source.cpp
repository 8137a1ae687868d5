// SPDX-License-Identifier: Apache-2.0
#include "runner/recipe/source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "stages/shared/io/file.h"

namespace braise::recipe {
namespace {

SourceText refuse(std::string problem, std::string remedy) {
  return {std::nullopt, std::move(problem), std::move(remedy)};
}

SourceText refuse_errno(int error) {
  const bool missing = error == ENOENT || error == ENOTDIR;
  return refuse(missing ? "does not exist" : std::string("cannot be read: ") + std::strerror(error),
                missing ? "give the path of a recipe" : "give a file that can be read");
}

SourceText too_large() {
  return refuse("is larger than " + std::to_string(kMaxSourceBytes >> 20) + " MiB",
                "keep data in files of its own and name them in the recipe");
}

}  // namespace

SourceText read_source(const std::filesystem::path& path, std::size_t limit) {
  // O_NONBLOCK: a fifo without a writer must not stop us from seeing that it is one.
  const io::FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!file) return refuse_errno(errno);
  struct stat status = {};
  if (::fstat(file.get(), &status) != 0) return refuse_errno(errno);
  if (S_ISDIR(status.st_mode)) return refuse("is a folder", "give the path of a recipe in it");
  if (!S_ISREG(status.st_mode)) return refuse("is not a regular file", "give the path of a file");
  if (static_cast<std::size_t>(status.st_size) > limit) return too_large();
  std::string text;
  char buffer[65536];
  while (text.size() <= limit) {  // a file may grow, or lie about its size as those in /proc do
    const ssize_t got = ::read(file.get(), buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return refuse_errno(errno);
    if (got == 0) return {std::move(text), {}, {}};
    text.append(buffer, static_cast<std::size_t>(got));
  }
  return too_large();
}

}  // namespace braise::recipe
