// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

#include "stages/shared/io/file.h"

namespace braise::telemetry {

/// A point on TensorBoard's curve of that name: "train/loss".
struct Scalar {
  std::string_view tag;
  float value = 0;
};

/// A TensorBoard event file: Event messages in TFRecord frames. Only the rank that tells of the job writes one. Every
/// attempt has a folder of its own, which shows the whole job: `tensorboard --logdir <attempt>/tensorboard`.
class EventFile {
 public:
  /// Copies the whole records of earlier attempts' event files into `folder` (made where missing), and begins a file
  /// that sorts behind them. `earlier`: the folders of earlier attempts' event files, oldest first; those that are not
  /// there are passed over. Errors: core::Error naming the file.
  EventFile(const std::filesystem::path& folder, const std::vector<std::filesystem::path>& earlier);

  /// Training goes on from that step: readers forget all that was told of later ones, and all where it is 0. Also
  /// before the first step.
  void restart(std::int64_t resume_step);

  /// A point on each of the curves. Written at once: a kill loses nothing.
  void add_scalars(std::int64_t step, std::span<const Scalar> scalars);

  /// A text in Markdown, for TensorBoard's page of texts.
  void add_text(std::int64_t step, std::string_view tag, std::string_view markdown);

  const std::filesystem::path& path() const { return path_; }

 private:
  void append(std::string_view event);

  std::filesystem::path path_;
  io::FileDescriptor file_;
};

}  // namespace braise::telemetry
