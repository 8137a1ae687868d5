// SPDX-License-Identifier: Apache-2.0
// Feeds bytes to the reader of sharded safetensors: an index, up to the first NUL; two bytes that give the length of
// a.safetensors; it; and what is left, b.safetensors.
#include <algorithm>
#include <fstream>

#include "stages/shared/weights/safetensors.h"
#include "tests/fuzz/weight_input.h"

namespace braise {
namespace {

namespace fs = std::filesystem;

/// A folder in memory where there is one, removed at the end.
class Folder {
 public:
  Folder()
      : path_((fs::is_directory("/dev/shm") ? "/dev/shm/" : "/tmp/") + ("fuzz_index." + std::to_string(::getpid()))) {
    fs::create_directories(path_);
  }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }

  void write(const char* name, std::span<const std::uint8_t> bytes) const {
    std::ofstream(path_ / name, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  }

 private:
  fs::path path_;
};

}  // namespace
}  // namespace braise

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace braise;
  static const Folder folder;
  const std::span<const std::uint8_t> input(data, size);
  const auto end = static_cast<std::size_t>(std::find(input.begin(), input.end(), 0) - input.begin());
  folder.write("model.safetensors.index.json", input.first(end));
  std::span<const std::uint8_t> rest = input.subspan(std::min(end + 1, size));
  std::size_t length = 0;
  if (rest.size() >= 2) {
    length = rest[0] | static_cast<std::size_t>(rest[1]) << 8;
    rest = rest.subspan(2);
  }
  length = std::min(length, rest.size());
  folder.write("a.safetensors", rest.first(length));
  folder.write("b.safetensors", rest.subspan(length));
  try {
    const auto model = weights::open_sharded_safetensors(folder.path() / "model.safetensors.index.json");
    test::read_all(model.weights, folder.path());
  } catch (const core::Error& error) {
    test::check_message(error, folder.path());
  }
  return 0;
}
