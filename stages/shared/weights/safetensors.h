// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/core/tensor.h"
#include "stages/shared/weights/weights.h"

namespace braise::weights {

/// The longest header the format allows, in bytes.
inline constexpr std::uint64_t kMostHeaderBytes = 100'000'000;

/// What a safetensors file holds.
struct Safetensors {
  Weights weights;
  std::map<std::string, std::string> metadata;  ///< "__metadata__"; of shards, what the first that has a key says
};

/// Opens one file: eight bytes that give the header's length, the header (JSON, from "{" on; spaces may follow), and
/// the tensors' bytes, all of them belonging to one tensor each. Errors: core::Error naming the file, the tensor, what
/// is wrong and what would be right. Refused are also what the format leaves to chance: names given twice, unknown
/// keys.
Safetensors open_safetensors(const std::filesystem::path& path);

/// Opens the shards that an index names, all of them: files beside it, which hold the tensors that the index gives them
/// and no others. Errors: as for open_safetensors.
Safetensors open_sharded_safetensors(const std::filesystem::path& index);

/// A tensor to be written.
struct NewTensor {
  std::string name;
  Encoding encoding = Encoding::kF32;
  core::Shape shape;
};

/// Writes a model as safetensors, in one file or in shards with an index. The bytes depend on the tensors and the
/// metadata only, not on the order of calls: in a file, tensors lie by the size of their elements, largest first, then
/// by name, so that each is aligned. A model is there once finish() has returned, and until then not at all: the files
/// have other names, and of shards, the index comes last. Errors: core::Error naming the file.
class SafetensorsWriter {
 public:
  static constexpr std::int64_t kUnlimited = std::numeric_limits<std::int64_t>::max();

  /// `path` is "folder/model.safetensors". Where the tensors' bytes are more than `shard_bytes`, tensors in the order
  /// of their names fill shards of at most that (or of one tensor): "model-00001-of-00003.safetensors" ..., and
  /// "model.safetensors.index.json" lists them. Takes the disk space of all at once.
  /// Errors: also for names that are not UTF-8, given twice or "__metadata__"; encodings safetensors lacks; a header
  /// longer than kMostHeaderBytes; an index that is there already.
  SafetensorsWriter(std::filesystem::path path, std::vector<NewTensor> tensors,
                    std::map<std::string, std::string> metadata, std::int64_t shard_bytes = kUnlimited);

  /// Removes what is not finished.
  ~SafetensorsWriter();

  /// The whole of one tensor, once each, in any order.
  /// Errors: also for an unknown name, one written before, or another number of bytes.
  void write(const std::string& name, std::span<const std::byte> bytes);

  /// The same from a contiguous tensor in the machine's memory. Errors: also for another dtype or shape.
  void write(const std::string& name, const core::ConstTensorView& tensor);

  /// Brings all to the disk, under its names. The last call. Errors: also where a tensor was not written.
  void finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace braise::weights
