// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cassert>
#include <string>
#include <vector>

#include "kernels/core/error.h"
#include "stages/shared/text/raw_file.h"

namespace braise::text {

/// What the decompressing sources have in common.
class CompressedSource : public TextSource {
 public:
  explicit CompressedSource(RawFile file) : file_(std::move(file)), output_(kOutputBytes) {}

  bool can_seek() const override { return false; }
  void seek(std::uint64_t) override { assert(false && "a compressed file cannot be sought in"); }
  std::string sha256() override { return file_.sha256(); }
  FileIdentity identity() const override { return file_.identity(); }

 protected:
  static constexpr std::size_t kOutputBytes = 256 * 1024;

  /// `unread`: how many of the bytes that were read have not been decompressed.
  [[noreturn]] void fail(const std::string& what, std::size_t unread,
                         core::SourceLocation where = core::SourceLocation::current()) const {
    throw core::Error(file_.path().string() + ": " + what + " at byte " + std::to_string(file_.offset() - unread),
                      where);
  }

  RawFile file_;
  std::vector<char> output_;
};

}  // namespace braise::text
