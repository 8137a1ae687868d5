// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/core/device.h"
#include "kernels/core/shape.h"
#include "kernels/core/tensor.h"
#include "stages/shared/weights/encoding.h"
#include "stages/shared/weights/mapped_file.h"

namespace braise::weights {

/// How a file stores a tensor that is known by another name than the file's: Weights::read undoes it.
struct StoredForm {
  std::string name;         ///< in the file
  bool transposed = false;  ///< rows are columns
  std::int64_t heads = 0;   ///< if not 0: rows are of so many heads, in each of which row i of the first half is
                           ///< followed by row i of the second
  float added = 0;  ///< the file's elements are larger by this

  bool another() const { return transposed || heads != 0 || added != 0; }
};

/// A tensor of a weight file.
struct TensorInfo {
  std::string name;
  Encoding encoding = Encoding::kOther;
  std::string type;                       ///< the encoding as the file calls it: "BF16", "Q4_0", "Q5_K"
  core::Shape shape;                      ///< row-major, outermost first, as Hugging Face writes it
  std::span<const std::byte> bytes;       ///< in the mapped file
  std::size_t file = 0;                   ///< which of the files
  std::optional<StoredForm> stored = {};  ///< of a tensor that was renamed
};

/// The tensors of a model's weight files, mapped into memory and checked: every range lies in its file, has the size
/// its shape asks for, and shares no byte with another. Threads may use it at once. Errors of all members: core::Error
/// naming the file, the tensor, what is wrong and what would be right.
class Weights {
 public:
  /// What the readers of formats hand over; names are unique.
  Weights(std::vector<MappedFile> files, std::vector<TensorInfo> tensors);

  /// In the order of their names' bytes.
  std::span<const TensorInfo> tensors() const { return tensors_; }

  /// Null where there is none of that name.
  const TensorInfo* find(std::string_view name) const;

  /// Errors: also where there is none of that name.
  const TensorInfo& tensor(std::string_view name) const;

  /// The same files with their tensors under other names and in other forms.
  Weights renamed(std::vector<TensorInfo> tensors) && { return {std::move(files_), std::move(tensors)}; }

  /// The tensor in the mapped file itself, where its encoding is a dtype of ours, it lies aligned and is not stored in
  /// another form; else no tensor.
  /// It lives as long as this object. See MappedFile for files that change.
  core::ConstTensorView view(std::string_view name) const;

  /// destination = the tensor, of equal shape.
  ///
  /// Floating-point encodings go to fp32, bf16 and fp16 with one rounding (to nearest, ties to even; too large becomes
  /// infinity); blocks are dequantised to the fp32 of ggml first, and what StoredForm says was added is taken off in
  /// fp32. Integers go to int32 and int8 where every value fits.
  /// The destination's rows must be evenly spaced, for blocks on the CPU and contiguous in themselves. Returns when all
  /// is done. Uses some hundred KiB of memory at most.
  /// Errors: also for other dtypes and shapes, a value that does not fit, kOther, a file that has changed. The
  /// destination is then undefined.
  void read(core::Stream& stream, std::string_view name, const core::TensorView& destination) const;

 private:
  std::string label(const TensorInfo& tensor) const;
  void require_readable(const TensorInfo& tensor, const core::TensorView& destination) const;
  void read_form(core::Stream& stream, const TensorInfo& tensor, const core::TensorView& destination) const;

  std::vector<MappedFile> files_;
  std::vector<TensorInfo> tensors_;
};

/// Opens a weight file by its name: *.gguf, *.safetensors, or the index of a sharded model, *.safetensors.index.json.
/// Errors: core::Error for other names; those of the format's reader.
Weights open_weights(const std::filesystem::path& path);

/// Opens the weights in a folder of a Hugging Face model: model.safetensors, or the shards that
/// model.safetensors.index.json names. Errors: core::Error where there is neither; those of the format's reader.
Weights open_model_weights(const std::filesystem::path& folder);

}  // namespace braise::weights
