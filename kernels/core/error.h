// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <source_location>
#include <stdexcept>
#include <string>

namespace braise::core {

#ifdef __cpp_lib_source_location
using SourceLocation = std::source_location;
#else
/// What clang 14, which builds the fuzz targets, lacks.
class SourceLocation {
 public:
  static constexpr SourceLocation current(const char* file = __builtin_FILE(), unsigned line = __builtin_LINE()) {
    return SourceLocation(file, line);
  }
  constexpr const char* file_name() const { return file_; }
  constexpr unsigned line() const { return line_; }

 private:
  constexpr SourceLocation(const char* file, unsigned line) : file_(file), line_(line) {}
  const char* file_;
  unsigned line_;
};
#endif

/// A run-time fault (I/O, MPI, CUDA, HDF5, memory): what happened and the place in the source that saw it.
/// What a user wrote wrongly is a Fault value (stages/api/fault.h), never an Error. Only the main of a program catches
/// it.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, SourceLocation where = SourceLocation::current())
      : std::runtime_error(message), where_(where) {}

  const SourceLocation& where() const { return where_; }

  /// "stages/worker/main.cpp:120", relative to the source tree.
  std::string place() const;

 private:
  SourceLocation where_;
};

/// Throws an Error whose message is `what: <text of errno>`.
[[noreturn]] void fail_errno(const std::string& what, SourceLocation where = SourceLocation::current());

}  // namespace braise::core
