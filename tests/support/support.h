// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace braise::test {

/// A folder of its own for one test, removed with it.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  /// Writes a file below the folder, making folders where needed, and gives its path.
  std::filesystem::path write(const std::string& name, const std::string& text) const;

 private:
  std::filesystem::path path_;
};

/// A disk of a few MiB ("16m"), where this user may mount one.
class SmallDisk {
 public:
  explicit SmallDisk(const std::string& bytes);
  ~SmallDisk();
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;

  bool mounted() const { return mounted_; }
  const std::filesystem::path& path() const { return folder_.path(); }

 private:
  TemporaryFolder folder_;
  bool mounted_ = false;
};

/// What a finished program left.
struct Finished {
  int status = 0;  ///< exit status, or 128 + signal
  std::string out;
  std::string err;
};

/// Runs a program to its end. `environment` adds to this process's; the folder is where it starts.
Finished run_program(const std::vector<std::string>& arguments,
                     const std::vector<std::pair<std::string, std::string>>& environment = {},
                     const std::filesystem::path& folder = {});

/// The built programs and the source tree.
std::filesystem::path program(const std::string& name);
std::filesystem::path source_dir();

/// ../shared/data beside the source tree; empty (and a visible warning from the test) where it is absent.
std::filesystem::path shared_data();

}  // namespace braise::test
