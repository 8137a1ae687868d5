// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/weights/gguf.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>
#include <set>
#include <utility>

#include "kernels/core/error.h"
#include "stages/shared/weights/text.h"

namespace braise::weights {
namespace {

constexpr std::uint64_t kMostElements = std::uint64_t{1} << 62;
constexpr std::uint32_t kDefaultAlignment = 32;
constexpr int kMostListDepth = 8;
constexpr std::uint32_t kMostDimensions = 4;  // what ggml has

/// The types of metadata, by number.
constexpr std::array<std::string_view, 13> kValueTypes = {"uint8",  "int8",    "uint16", "int16", "uint32",
                                                          "int32",  "float32", "bool",   "text",  "list",
                                                          "uint64", "int64",   "float64"};
static_assert(std::variant_size_v<GgufValue> == kValueTypes.size());
static_assert(std::variant_size_v<decltype(GgufList::elements)> == kValueTypes.size());

/// The fewest bytes a value of each type takes.
constexpr std::array<std::uint64_t, 13> kLeastBytes = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};

/// A type of tensors: a row is a number of blocks.
struct TensorType {
  std::uint32_t number;
  std::string_view name;
  std::uint64_t block_elements;
  std::uint64_t block_bytes;
  Encoding encoding;
};

constexpr std::array kTensorTypes = {
    TensorType{0, "F32", 1, 4, Encoding::kF32},
    TensorType{1, "F16", 1, 2, Encoding::kF16},
    TensorType{2, "Q4_0", 32, 18, Encoding::kQ4_0},
    TensorType{3, "Q4_1", 32, 20, Encoding::kQ4_1},
    TensorType{6, "Q5_0", 32, 22, Encoding::kOther},
    TensorType{7, "Q5_1", 32, 24, Encoding::kOther},
    TensorType{8, "Q8_0", 32, 34, Encoding::kQ8_0},
    TensorType{9, "Q8_1", 32, 36, Encoding::kOther},
    TensorType{10, "Q2_K", 256, 84, Encoding::kOther},
    TensorType{11, "Q3_K", 256, 110, Encoding::kOther},
    TensorType{12, "Q4_K", 256, 144, Encoding::kOther},
    TensorType{13, "Q5_K", 256, 176, Encoding::kOther},
    TensorType{14, "Q6_K", 256, 210, Encoding::kOther},
    TensorType{15, "Q8_K", 256, 292, Encoding::kOther},
    TensorType{16, "IQ2_XXS", 256, 66, Encoding::kOther},
    TensorType{17, "IQ2_XS", 256, 74, Encoding::kOther},
    TensorType{18, "IQ3_XXS", 256, 98, Encoding::kOther},
    TensorType{19, "IQ1_S", 256, 50, Encoding::kOther},
    TensorType{20, "IQ4_NL", 32, 18, Encoding::kOther},
    TensorType{21, "IQ3_S", 256, 110, Encoding::kOther},
    TensorType{22, "IQ2_S", 256, 82, Encoding::kOther},
    TensorType{23, "IQ4_XS", 256, 136, Encoding::kOther},
    TensorType{24, "I8", 1, 1, Encoding::kI8},
    TensorType{25, "I16", 1, 2, Encoding::kI16},
    TensorType{26, "I32", 1, 4, Encoding::kI32},
    TensorType{27, "I64", 1, 8, Encoding::kI64},
    TensorType{28, "F64", 1, 8, Encoding::kF64},
    TensorType{29, "IQ1_M", 256, 56, Encoding::kOther},
    TensorType{30, "BF16", 1, 2, Encoding::kBf16},
    TensorType{34, "TQ1_0", 256, 54, Encoding::kOther},
    TensorType{35, "TQ2_0", 256, 66, Encoding::kOther},
    TensorType{39, "MXFP4", 32, 17, Encoding::kOther},
};

const TensorType* tensor_type(std::uint32_t number) {
  const auto found = std::ranges::find(kTensorTypes, number, &TensorType::number);
  return found == kTensorTypes.end() ? nullptr : &*found;
}

/// Reads a file from its start on, never past its end.
class Cursor {
 public:
  explicit Cursor(const MappedFile& file) : file_(file) {}

  std::uint64_t position() const { return at_; }
  std::uint64_t left() const { return file_.bytes().size() - at_; }

  [[noreturn]] void fail(const std::string& problem) const {
    throw core::Error(file_.path().string() + ": " + problem);
  }

  template <class T>
  T number(const std::string& what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }

  std::string text(const std::string& what) {
    const auto length = number<std::uint64_t>(what);
    const std::span<const std::byte> bytes = take(length, what);
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }

  std::span<const std::byte> take(std::uint64_t bytes, const std::string& what) {
    if (bytes > left()) {
      fail(what + " at byte " + std::to_string(at_) + " takes " + std::to_string(bytes) +
           " bytes, and the file ends after " + std::to_string(left()) + "; it is cut short, or no GGUF file");
    }
    const std::span<const std::byte> taken = file_.bytes().subspan(at_, bytes);
    at_ += bytes;
    return taken;
  }

 private:
  const MappedFile& file_;
  std::uint64_t at_ = 0;
};

std::uint32_t value_type(Cursor& cursor, const std::string& what) {
  const auto type = cursor.number<std::uint32_t>(what);
  if (type >= kValueTypes.size()) {
    cursor.fail(what + " has type " + std::to_string(type) + "; known are 0 to " +
                std::to_string(kValueTypes.size() - 1));
  }
  return type;
}

bool read_bool(Cursor& cursor, const std::string& what) {
  const auto byte = cursor.number<std::uint8_t>(what);
  if (byte > 1) cursor.fail(what + " is " + std::to_string(byte) + "; a bool is 0 or 1");
  return byte == 1;
}

GgufList read_list(Cursor& cursor, const std::string& what, int depth);

template <class T>
T read_element(Cursor& cursor, const std::string& what, int depth) {
  if constexpr (std::is_same_v<T, bool>) {
    return read_bool(cursor, what);
  } else if constexpr (std::is_same_v<T, std::string>) {
    return cursor.text(what);
  } else if constexpr (std::is_same_v<T, GgufList>) {
    return read_list(cursor, what, depth + 1);
  } else {
    return cursor.number<T>(what);
  }
}

/// Calls make(std::integral_constant<std::size_t, type>()).
template <std::size_t kType = 0, class Make>
auto with_type(std::uint32_t type, const Make& make) {
  if constexpr (kType + 1 < kValueTypes.size()) {
    if (type != kType) return with_type<kType + 1>(type, make);
  }
  return make(std::integral_constant<std::size_t, kType>());
}

GgufList read_list(Cursor& cursor, const std::string& what, int depth) {
  if (depth > kMostListDepth) {
    cursor.fail(what + " has lists in lists more than " + std::to_string(kMostListDepth) + " deep");
  }
  const std::uint32_t type = value_type(cursor, what);
  const auto count = cursor.number<std::uint64_t>(what);
  // What follows takes room by this number, so it must be one that the file can hold.
  if (count > cursor.left() / kLeastBytes[type]) {
    cursor.fail(what + " has " + std::to_string(count) + " elements of " + std::string(kValueTypes[type]) +
                ", and the file ends after " + std::to_string(cursor.left()) + " bytes");
  }
  return with_type(type, [&](auto index) {
    using Elements = std::variant_alternative_t<decltype(index)::value, decltype(GgufList::elements)>;
    using T = typename Elements::value_type;
    Elements elements;
    elements.reserve(count);
    for (std::uint64_t i = 0; i < count; ++i) elements.push_back(read_element<T>(cursor, what, depth));
    return GgufList{std::move(elements)};
  });
}

GgufValue read_value(Cursor& cursor, const std::string& what) {
  return with_type(value_type(cursor, what), [&](auto index) {
    using T = std::variant_alternative_t<decltype(index)::value, GgufValue>;
    return GgufValue(read_element<T>(cursor, what, 0));
  });
}

std::map<std::string, GgufValue, std::less<>> read_metadata(Cursor& cursor, std::uint64_t count) {
  std::map<std::string, GgufValue, std::less<>> values;
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::string key = cursor.text("the key of metadata " + std::to_string(i));
    const std::string what = "metadata " + in_quotes(key);
    if (!is_utf8(key)) cursor.fail(what + ": the key is not UTF-8");
    if (values.contains(key)) cursor.fail(what + " is given twice");
    values.emplace(key, read_value(cursor, what));
  }
  return values;
}

std::uint32_t alignment_of(const Cursor& cursor, const std::map<std::string, GgufValue, std::less<>>& values) {
  const auto found = values.find("general.alignment");
  if (found == values.end()) return kDefaultAlignment;
  const auto* const alignment = std::get_if<std::uint32_t>(&found->second);
  if (alignment == nullptr || !std::has_single_bit(*alignment)) {
    cursor.fail("general.alignment is " +
                (alignment == nullptr ? "of type " + std::string(kValueTypes[found->second.index()])
                                      : std::to_string(*alignment)) +
                "; it must be a uint32 that is a power of two");
  }
  return *alignment;
}

/// A tensor before its bytes are known.
struct Entry {
  TensorInfo info;
  std::uint64_t offset = 0;             // in the data
  std::optional<std::uint64_t> length;  // of a known type
};

Entry read_entry(Cursor& cursor, std::uint64_t number, std::uint32_t alignment) {
  Entry entry;
  entry.info.name = cursor.text("the name of tensor " + std::to_string(number));
  const std::string what = "tensor " + in_quotes(entry.info.name);
  if (!is_utf8(entry.info.name)) cursor.fail(what + ": the name is not UTF-8");
  const auto dimensions = cursor.number<std::uint32_t>(what);
  if (dimensions > kMostDimensions) {
    cursor.fail(what + " has " + std::to_string(dimensions) + " dimensions; at most " +
                std::to_string(kMostDimensions) + " are allowed");
  }
  std::array<std::int64_t, kMostDimensions> extents{};
  std::uint64_t product = 1;
  std::uint64_t row = 1;
  for (std::uint32_t i = 0; i < dimensions; ++i) {
    const auto extent = cursor.number<std::uint64_t>(what);
    if (extent > 0 && product > kMostElements / extent) cursor.fail(what + ": the shape has more than 2^62 elements");
    if (extent > 0) product *= extent;
    if (i == 0) row = extent;
    extents[dimensions - 1 - i] = static_cast<std::int64_t>(extent);
  }
  entry.info.shape = core::Shape(std::span<const std::int64_t>(extents.data(), dimensions));
  const auto type = cursor.number<std::uint32_t>(what);
  entry.offset = cursor.number<std::uint64_t>(what);
  if (entry.offset % alignment != 0) {
    cursor.fail(what + ": offset " + std::to_string(entry.offset) + " is not a multiple of the alignment, " +
                std::to_string(alignment));
  }
  const TensorType* const known = tensor_type(type);
  if (known == nullptr) {
    entry.info.type = "type " + std::to_string(type);
    return entry;
  }
  entry.info.type = known->name;
  entry.info.encoding = known->encoding;
  if (row % known->block_elements != 0) {
    cursor.fail(what + ": rows of " + std::to_string(row) + " elements are no whole blocks of " +
                std::string(known->name) + ", which have " + std::to_string(known->block_elements));
  }
  const std::uint64_t blocks = static_cast<std::uint64_t>(entry.info.shape.elements()) / known->block_elements;
  if (blocks > kMostElements / known->block_bytes) cursor.fail(what + ": the shape takes more than 2^62 bytes");
  entry.length = blocks * known->block_bytes;
  return entry;
}

/// Gives the tensors their bytes, and refuses those that meet or are past the end.
std::vector<TensorInfo> placed(const Cursor& cursor, std::vector<Entry> entries, std::span<const std::byte> data) {
  std::ranges::sort(entries, [](const Entry& a, const Entry& b) {
    return std::pair(a.offset, a.length.value_or(0)) < std::pair(b.offset, b.length.value_or(0));
  });
  std::vector<TensorInfo> tensors;
  std::uint64_t reached = 0;
  std::string reached_by;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    Entry& entry = entries[i];
    const std::string what = "tensor " + in_quotes(entry.info.name);
    const std::uint64_t next = i + 1 < entries.size() ? entries[i + 1].offset : data.size();
    const std::uint64_t left = entry.offset > data.size() ? 0 : data.size() - entry.offset;
    const std::uint64_t length = entry.length.value_or(std::min(next - std::min(next, entry.offset), left));
    if (entry.offset > data.size() || length > left) {
      cursor.fail(what + " takes " + std::to_string(length) + " bytes from " + std::to_string(entry.offset) +
                  " on, and the data ends after " + std::to_string(data.size()) + "; the file is cut short");
    }
    if (!entry.length && static_cast<std::uint64_t>(entry.info.shape.elements()) / 8 > length) {
      cursor.fail(what + ": " + entry.info.shape.text() + " elements of " + entry.info.type + " cannot be in " +
                  std::to_string(length) + " bytes");  // less than a bit each
    }
    if (length > 0 && entry.offset < reached) {
      cursor.fail(what + " begins at byte " + std::to_string(entry.offset) + " of the data, within tensor " +
                  reached_by);
    }
    if (entry.offset + length > reached) {
      reached = entry.offset + length;
      reached_by = in_quotes(entry.info.name);
    }
    entry.info.bytes = data.subspan(entry.offset, length);
    tensors.push_back(entry.info);
  }
  return tensors;
}

/// The magic and the version; leaves the cursor behind them.
void read_start(Cursor& cursor) {
  const std::span<const std::byte> magic = cursor.take(4, "the mark GGUF");
  if (std::memcmp(magic.data(), "GGUF", 4) != 0) cursor.fail("does not begin with GGUF; this is no GGUF file");
  const auto version = cursor.number<std::uint32_t>("the version");
  if (version == 2 || version == 3) return;
  const bool swapped = (version & 0xffffu) == 0 && version != 0;
  cursor.fail(swapped ? "is big-endian; only little-endian GGUF files are supported"
                      : "is GGUF version " + std::to_string(version) + "; 2 and 3 are supported");
}

std::string type_text(const GgufValue& value) {
  const auto* const list = std::get_if<GgufList>(&value);
  return list == nullptr ? std::string(kValueTypes[value.index()])
                         : "list of " + std::string(kValueTypes[list->elements.index()]);
}

}  // namespace

const GgufValue& GgufMetadata::at(std::string_view key) const {
  const auto found = values_.find(key);
  if (found == values_.end()) throw core::Error(path_.string() + ": there is no metadata " + in_quotes(key));
  return found->second;
}

void GgufMetadata::refuse(std::string_view key, const GgufValue& found, const std::string& wanted) const {
  throw core::Error(path_.string() + ": metadata " + in_quotes(key) + " is " + type_text(found) + ", not " + wanted);
}

void GgufMetadata::refuse_type(std::string_view key, const GgufValue& found, const GgufValue& wanted) const {
  refuse(key, found, type_text(wanted));
}

std::int64_t GgufMetadata::integer(std::string_view key) const {
  const GgufValue& value = at(key);
  return std::visit(
      [&](const auto& held) -> std::int64_t {
        using T = std::decay_t<decltype(held)>;
        if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
          if (std::in_range<std::int64_t>(held)) return static_cast<std::int64_t>(held);
          refuse(key, value, "below 2^63: " + std::to_string(held));
        } else {
          refuse(key, value, "an integer");
        }
      },
      value);
}

double GgufMetadata::number(std::string_view key) const {
  const GgufValue& value = at(key);
  if (const auto* const wide = std::get_if<double>(&value)) return *wide;
  if (const auto* const narrow = std::get_if<float>(&value)) return *narrow;
  if (std::holds_alternative<bool>(value) || std::holds_alternative<std::string>(value) ||
      std::holds_alternative<GgufList>(value)) {
    refuse(key, value, "a number");
  }
  return static_cast<double>(integer(key));
}

bool GgufMetadata::boolean(std::string_view key) const {
  const GgufValue& value = at(key);
  if (!std::holds_alternative<bool>(value)) refuse(key, value, "bool");
  return std::get<bool>(value);
}

const std::string& GgufMetadata::text(std::string_view key) const {
  const GgufValue& value = at(key);
  if (!std::holds_alternative<std::string>(value)) refuse(key, value, "text");
  return std::get<std::string>(value);
}

Gguf open_gguf(const std::filesystem::path& path) {
  std::vector<MappedFile> files;
  files.emplace_back(path);
  Cursor cursor(files[0]);
  read_start(cursor);
  const auto tensor_count = cursor.number<std::uint64_t>("the number of tensors");
  const auto value_count = cursor.number<std::uint64_t>("the number of metadata");
  auto values = read_metadata(cursor, value_count);
  const std::uint32_t alignment = alignment_of(cursor, values);
  std::vector<Entry> entries;
  std::set<std::string> names;
  for (std::uint64_t i = 0; i < tensor_count; ++i) {
    entries.push_back(read_entry(cursor, i, alignment));
    const std::string& name = entries.back().info.name;
    if (!names.insert(name).second) cursor.fail("tensor " + in_quotes(name) + " is given twice");
  }
  const std::uint64_t over = cursor.position() % alignment;
  const std::uint64_t padding = over == 0 ? 0 : alignment - over;
  const std::span<const std::byte> data =
      files[0].bytes().subspan(cursor.position() + std::min(padding, cursor.left()));
  std::vector<TensorInfo> tensors = placed(cursor, std::move(entries), data);
  return {Weights(std::move(files), std::move(tensors)), GgufMetadata(path, std::move(values))};
}

}  // namespace braise::weights
