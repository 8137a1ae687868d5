// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>

#include "kernels/core/dtype.h"

namespace braise::tools {

/// The exit statuses of every tool.
inline constexpr int kSuccess = 0;
inline constexpr int kBad = 1;       ///< damaged, or different
inline constexpr int kBadInput = 2;  ///< not what the tool can work on

/// What a person gave is not there, or not what the tool takes: told on standard error, exit status 2.
class BadInput : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Each tool prints what it has to say to standard output, and gives the exit status. Errors: BadInput; core::Error for
// files that are damaged or cannot be written.

/// What is in a checkpoint, a weight file, an HF directory or a token file; with `verify`, after everything was read
/// and checked.
int inspect(const std::filesystem::path& path, bool verify, bool json);

/// A checkpoint as an HF directory, which must not exist yet: model.safetensors (in shards where it is large),
/// config.json, and tokenizer.json where the checkpoint records a tokenizer of bytes. Weights come from "master/" where
/// that has them, else from "parameters/", and go to `dtype`; by default that of "parameters/".
int export_checkpoint(const std::filesystem::path& path, const std::filesystem::path& to,
                      std::optional<core::Dtype> dtype);

/// Weights of an HF directory or file as a checkpoint of step 0, in a folder that must not exist yet.
int import_weights(const std::filesystem::path& path, const std::filesystem::path& to);

/// Whether two checkpoints, or two runs (jobs, attempts), are the same to the bit: success, or the first difference.
/// With `through_step` later steps of runs count for nothing; where only one of them tells losses, their checkpoints
/// decide.
int compare(const std::filesystem::path& a, const std::filesystem::path& b,
            std::optional<std::int64_t> through_step = std::nullopt);

/// `braise-worker tool ...`: parses the arguments after that word, and does it.
int main(int argc, const char* const* argv);

}  // namespace braise::tools
