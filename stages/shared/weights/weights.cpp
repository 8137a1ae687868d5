// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/weights/weights.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "kernels/core/copy.h"
#include "kernels/core/error.h"
#include "kernels/quant/ggml_blocks.h"
#include "stages/shared/weights/decode.h"
#include "stages/shared/weights/gguf.h"
#include "stages/shared/weights/safetensors.h"
#include "stages/shared/weights/text.h"

namespace braise::weights {
namespace {

// Elements that are converted on the way, at a time: they stay in the cache. A multiple of every block.
constexpr std::int64_t kStaged = 65536;
// Elements that are read from where they lie, at a time: what is brought into memory ahead of use.
constexpr std::int64_t kMapped = std::int64_t{1} << 24;

/// Calls work(part, first element) for pieces of at most `most` elements, or one row where that is more; a part is a
/// list, or rows x C.
template <class Work>
void for_parts(const core::TensorView& destination, std::int64_t most, const Work& work) {
  if (destination.contiguous()) {
    const std::int64_t elements = destination.elements();
    const core::TensorView list = destination.reshaped({elements});
    for (std::int64_t at = 0; at < elements; at += most) work(list.slice(0, at, std::min(at + most, elements)), at);
    return;
  }
  const core::TensorView rows = destination.as_rows();
  const std::int64_t columns = rows.extent(1);
  const std::int64_t row_step = std::max<std::int64_t>(most / columns, 1);
  const std::int64_t column_step = std::min(columns, most);
  for (std::int64_t row = 0; row < rows.extent(0); row += row_step) {
    const core::TensorView some = rows.slice(0, row, std::min(row + row_step, rows.extent(0)));
    for (std::int64_t column = 0; column < columns; column += column_step) {
      work(some.slice(1, column, std::min(column + column_step, columns)), row * columns + column);
    }
  }
}

/// The shape of a part's blocks, as bytes.
core::Shape block_shape(const core::TensorView& part, std::int64_t block_bytes) {
  const std::int64_t bytes = part.extent(-1) / quant::kGgmlBlock * block_bytes;
  return part.rank() == 1 ? core::Shape{bytes} : core::Shape{part.extent(0), bytes};
}

bool is_blocks(Encoding encoding) {
  return encoding == Encoding::kQ8_0 || encoding == Encoding::kQ4_0 || encoding == Encoding::kQ4_1;
}

void dequantize(core::Stream& stream, Encoding encoding, const core::TensorView& part, const std::byte* from) {
  const auto blocks = [&](std::int64_t block_bytes) {
    return core::ConstTensorView(from, core::Dtype::kInt8, block_shape(part, block_bytes));
  };
  switch (encoding) {
    case Encoding::kQ8_0:
      return quant::dequantize_q8_0(stream, part, blocks(quant::kQ8_0Bytes));
    case Encoding::kQ4_0:
      return quant::dequantize_q4_0(stream, part, blocks(quant::kQ4_0Bytes));
    default:
      return quant::dequantize_q4_1(stream, part, blocks(quant::kQ4_1Bytes));
  }
}

/// Bytes of the first `elements` elements of a tensor's rows: whole rows, or whole blocks.
std::size_t bytes_of(const TensorInfo& tensor, std::int64_t elements) {
  const std::int64_t all = tensor.shape.elements();
  if (elements == all) return tensor.bytes.size();
  if (!is_blocks(tensor.encoding)) return static_cast<std::size_t>(elements * element_bytes(tensor.encoding));
  return static_cast<std::size_t>(elements / quant::kGgmlBlock) *
         (tensor.bytes.size() / static_cast<std::size_t>(all / quant::kGgmlBlock));
}

std::string text_of(const Unfit& unfit, Encoding encoding, core::Dtype dtype) {
  const std::string allowed =
      encoding == Encoding::kBool ? "a BOOL is 0 or 1" : std::string(core::name(dtype)) + " cannot hold it";
  return "element " + std::to_string(unfit.element) + " is " + (unfit.negative ? "-" : "") +
         std::to_string(unfit.magnitude) + "; " + allowed;
}

/// Rows `first` on of heads whose halves' rows alternate, to where they belong in `destination`.
void copy_heads(core::Stream& stream, const core::TensorView& destination, const core::ConstTensorView& part,
                std::int64_t first, std::int64_t heads) {
  const std::int64_t head = destination.extent(0) / heads;
  core::require(head * heads == destination.extent(0) && head % 2 == 0, "Weights::read", "rows are no even heads");
  for (std::int64_t i = 0; i < part.extent(0); ++i) {
    const std::int64_t row = (first + i) % head;
    const std::int64_t to = first + i - row + row / 2 + row % 2 * (head / 2);
    core::copy(stream, destination.slice(0, to, to + 1),
               destination.rank() == 1 ? part.slice(0, i, i + 1).select(1, 0) : part.slice(0, i, i + 1));
  }
}

bool aligned(const std::byte* address, core::Dtype dtype) {
  return reinterpret_cast<std::uintptr_t>(address) % static_cast<std::size_t>(core::bits(dtype) / 8) == 0;
}

}  // namespace

Weights::Weights(std::vector<MappedFile> files, std::vector<TensorInfo> tensors)
    : files_(std::move(files)), tensors_(std::move(tensors)) {
  std::ranges::sort(tensors_, {}, &TensorInfo::name);
}

const TensorInfo* Weights::find(std::string_view name) const {
  const auto found = std::ranges::lower_bound(tensors_, name, {}, &TensorInfo::name);
  return found != tensors_.end() && found->name == name ? &*found : nullptr;
}

const TensorInfo& Weights::tensor(std::string_view name) const {
  const TensorInfo* const found = find(name);
  if (found == nullptr) {
    throw core::Error((files_.empty() ? "no file" : files_.front().path().string()) + ": there is no tensor " +
                      in_quotes(name) + " among its " + std::to_string(tensors_.size()));
  }
  return *found;
}

std::string Weights::label(const TensorInfo& tensor) const {
  return files_[tensor.file].path().string() + ": tensor " +
         (tensor.stored ? in_quotes(tensor.stored->name) + " (" + in_quotes(tensor.name) + ")"
                        : in_quotes(tensor.name));
}

core::ConstTensorView Weights::view(std::string_view name) const {
  const TensorInfo& found = tensor(name);
  files_[found.file].require_unchanged();
  const std::optional<core::Dtype> dtype = same_dtype(found.encoding);
  if (!dtype || (found.stored && found.stored->another()) || !aligned(found.bytes.data(), *dtype)) return {};
  return core::ConstTensorView(found.bytes.data(), *dtype, found.shape);
}

void Weights::require_readable(const TensorInfo& tensor, const core::TensorView& destination) const {
  if (tensor.encoding == Encoding::kOther) {
    throw core::Error(label(tensor) + " is stored as " + tensor.type +
                      ", which is not supported; F32, F16, BF16, Q8_0, Q4_0 and Q4_1 are");
  }
  const core::Dtype to = destination.dtype();
  const bool fits =
      is_float(tensor.encoding) ? core::is_float(to) : (to == core::Dtype::kInt8 || to == core::Dtype::kInt32);
  if (!destination || !fits || destination.shape() != tensor.shape) {
    throw core::Error(label(tensor) + " is " + tensor.type + "[" + tensor.shape.text() + "] and cannot be read into " +
                      destination.text() + "; its shape must be the same, its type " +
                      (is_float(tensor.encoding) ? "fp32, bf16 or fp16" : "int32 or int8"));
  }
}

void Weights::read(core::Stream& stream, std::string_view name, const core::TensorView& destination) const {
  const TensorInfo& found = tensor(name);
  require_readable(found, destination);
  if (destination.elements() == 0) return;
  const MappedFile& file = files_[found.file];
  file.require_unchanged();
  if (found.stored && found.stored->another()) return read_form(stream, found, destination);
  const core::Dtype to = destination.dtype();
  const std::optional<core::Dtype> dtype = same_dtype(found.encoding);
  const bool blocks = is_blocks(found.encoding);
  const bool in_place =
      blocks || (dtype && aligned(found.bytes.data(), *dtype) && (*dtype == to || is_float(found.encoding)));
  std::vector<std::byte> staged(in_place ? 0 : static_cast<std::size_t>(std::min(kStaged, destination.elements())) * 4);
  for_parts(destination, in_place ? kMapped : kStaged, [&](const core::TensorView& part, std::int64_t first) {
    const std::size_t begin = bytes_of(found, first);
    const std::span<const std::byte> from =
        found.bytes.subspan(begin, bytes_of(found, first + part.elements()) - begin);
    file.bring_in(from);
    if (blocks) {
      dequantize(stream, found.encoding, part, from.data());
    } else if (in_place) {
      core::copy(stream, part, core::ConstTensorView(from.data(), *dtype, part.shape()));
    } else if (is_float(found.encoding)) {
      auto* const values = reinterpret_cast<float*>(staged.data());
      decode_floats(found.encoding, from.data(), {values, static_cast<std::size_t>(part.elements())},
                    to == core::Dtype::kFloat32 ? Rounding::kNearest : Rounding::kToOdd);
      core::copy(stream, part, core::ConstTensorView(values, core::Dtype::kFloat32, part.shape()));
    } else {
      const auto decoded = [&](auto* values) {
        return decode_integers(found.encoding, from.data(),
                               std::span(values, static_cast<std::size_t>(part.elements())));
      };
      std::optional<Unfit> unfit = to == core::Dtype::kInt8 ? decoded(reinterpret_cast<std::int8_t*>(staged.data()))
                                                            : decoded(reinterpret_cast<std::int32_t*>(staged.data()));
      if (unfit) {
        unfit->element += static_cast<std::size_t>(first);
        throw core::Error(label(found) + ": " + text_of(*unfit, found.encoding, to));
      }
      core::copy(stream, part, core::ConstTensorView(staged.data(), to, part.shape()));
    }
    stream.synchronize();
  });
  file.require_unchanged();
}

void Weights::read_form(core::Stream& stream, const TensorInfo& tensor, const core::TensorView& destination) const {
  const StoredForm& form = *tensor.stored;
  const MappedFile& file = files_[tensor.file];
  const bool list = destination.rank() == 1;
  core::require(is_float(tensor.encoding) && (list ? !form.transposed : destination.rank() == 2), "Weights::read",
                "only matrices and lists of floating point are stored in other forms");
  const std::int64_t rows = list ? 1 : destination.extent(form.transposed ? 1 : 0);
  const std::int64_t columns = destination.elements() / rows;
  const std::int64_t step = std::min(rows, std::max<std::int64_t>(kStaged / columns, 1));
  std::vector<float> staged(static_cast<std::size_t>(step * columns));
  for (std::int64_t row = 0; row < rows; row += step) {
    const std::int64_t count = std::min(step, rows - row);
    const std::size_t begin = bytes_of(tensor, row * columns);
    const auto from = tensor.bytes.subspan(begin, bytes_of(tensor, (row + count) * columns) - begin);
    file.bring_in(from);
    const core::TensorView part(staged.data(), core::Dtype::kFloat32, core::Shape{count, columns});
    const std::span<float> values(staged.data(), static_cast<std::size_t>(count * columns));
    if (is_blocks(tensor.encoding)) {
      dequantize(stream, tensor.encoding, part, from.data());
      stream.synchronize();
    } else {
      decode_floats(tensor.encoding, from.data(), values,
                    destination.dtype() == core::Dtype::kFloat32 ? Rounding::kNearest : Rounding::kToOdd);
    }
    if (form.added != 0) {
      for (float& value : values) value -= form.added;
    }
    if (form.transposed) {
      core::copy(stream, destination.slice(1, row, row + count), part.transposed(0, 1));
    } else if (form.heads == 0) {
      core::copy(stream, list ? destination : destination.slice(0, row, row + count), list ? part.select(0, 0) : part);
    } else {
      copy_heads(stream, destination, list ? part.reshaped({columns, 1}) : part, row, form.heads);
    }
    stream.synchronize();  // what is staged is used again
  }
  file.require_unchanged();
}

Weights open_weights(const std::filesystem::path& path) {
  const std::string file = path.filename().string();
  if (file.ends_with(".gguf")) return open_gguf(path).weights;
  if (file.ends_with(".safetensors")) return open_safetensors(path).weights;
  if (file.ends_with(".safetensors.index.json")) return open_sharded_safetensors(path).weights;
  throw core::Error(path.string() +
                    ": not the name of a weight file; it ends in .safetensors, .safetensors.index.json "
                    "or .gguf");
}

Weights open_model_weights(const std::filesystem::path& folder) {
  for (const char* const name : {"model.safetensors", "model.safetensors.index.json"}) {
    if (std::filesystem::exists(folder / name)) return open_weights(folder / name);
  }
  throw core::Error(
      folder.string() +
      " has neither model.safetensors nor model.safetensors.index.json; convert its weights to safetensors");
}

}  // namespace braise::weights
