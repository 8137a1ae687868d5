// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <set>
#include <unordered_set>
#include <utility>

#include "kernels/core/error.h"
#include "stages/shared/weights/json_reader.h"
#include "stages/shared/weights/safetensors.h"
#include "stages/shared/weights/text.h"

namespace braise::weights {
namespace {

constexpr std::size_t kLengthBytes = 8;
constexpr std::string_view kMetadataKey = "__metadata__";
constexpr std::uint64_t kMostElements = std::uint64_t{1} << 62;

/// A tensor as the header describes it.
struct Entry {
  std::string name;
  std::optional<Encoding> encoding;
  std::optional<core::Shape> shape;
  std::optional<std::pair<std::uint64_t, std::uint64_t>> range;  // of the tensors' bytes
};

/// {"__metadata__": {key: text}, name: {"dtype": text, "shape": [...], "data_offsets": [begin, end]}}
class HeaderReader final : public JsonReader {
 public:
  explicit HeaderReader(const std::filesystem::path& path) : JsonReader(path, "header") {}

  std::vector<Entry> entries;
  std::map<std::string, std::string> metadata;

  bool start_object(std::size_t) override {
    if (place_ == Place::kStart) {
      place_ = Place::kTensors;
    } else if (place_ == Place::kTensors && name_ == kMetadataKey) {
      place_ = Place::kMetadata;
    } else if (place_ == Place::kTensors) {
      place_ = Place::kTensor;
      entries.emplace_back().name = name_;
    } else {
      unexpected("an object");
    }
    return true;
  }

  bool key(string_t& value) override {
    switch (place_) {
      case Place::kTensors:
        if (!names_.insert(value).second) fail("the name " + in_quotes(value) + " is given twice");
        name_ = value;
        return true;
      case Place::kMetadata:
        if (metadata.contains(value)) fail("the key " + in_quotes(value) + " of __metadata__ is given twice");
        key_ = value;
        return true;
      default:
        break;
    }
    const Entry& entry = entries.back();
    const bool again = (value == "dtype" && entry.encoding) || (value == "shape" && entry.shape) ||
                       (value == "data_offsets" && entry.range);
    if (again) fail(tensor() + ": the key " + in_quotes(value) + " is given twice");
    if (value != "dtype" && value != "shape" && value != "data_offsets") {
      fail(tensor() + ": unknown key " + in_quotes(value) + "; a tensor has dtype, shape and data_offsets");
    }
    key_ = value;
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMetadata) {
      metadata.emplace(key_, value);
      return true;
    }
    if (place_ != Place::kTensor || key_ != "dtype") unexpected(in_quotes(value));
    entries.back().encoding = safetensors_encoding(value);
    if (!entries.back().encoding) {
      fail(tensor() + ": unknown dtype " + in_quotes(value) +
           "; known are BOOL, U8, I8, F8_E5M2, F8_E4M3, I16, U16, F16, BF16, I32, U32, F32, F64, I64 and U64");
    }
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ != Place::kTensor || key_ == "dtype") unexpected("a list");
    place_ = key_ == "shape" ? Place::kShape : Place::kOffsets;
    numbers_ = 0;
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::kShape && place_ != Place::kOffsets) unexpected(std::to_string(value));
    if (place_ == Place::kOffsets && numbers_ == 2) fail(tensor() + ": data_offsets has more than two numbers");
    if (place_ == Place::kShape && numbers_ == core::kMaxRank) {
      fail(tensor() + ": more than " + std::to_string(core::kMaxRank) + " dimensions, which are the most supported");
    }
    list_[numbers_++] = value;
    return true;
  }

  bool end_array() override {
    Entry& entry = entries.back();
    if (place_ == Place::kOffsets) {
      if (numbers_ != 2) fail(tensor() + ": data_offsets has " + std::to_string(numbers_) + " numbers, not two");
      if (list_[0] > list_[1]) {
        fail(tensor() + ": data_offsets ends (" + std::to_string(list_[1]) + ") before it begins (" +
             std::to_string(list_[0]) + ")");
      }
      entry.range = {list_[0], list_[1]};
    } else {
      std::array<std::int64_t, core::kMaxRank> extents{};
      std::uint64_t product = 1;
      for (std::size_t i = 0; i < numbers_; ++i) {
        if (list_[i] > 0 && product > kMostElements / list_[i]) {
          fail(tensor() + ": the shape has more than 2^62 elements");
        }
        if (list_[i] > 0) product *= list_[i];
        extents[i] = static_cast<std::int64_t>(list_[i]);
      }
      entry.shape = core::Shape(std::span<const std::int64_t>(extents.data(), numbers_));
    }
    place_ = Place::kTensor;
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kTensor) {
      const Entry& entry = entries.back();
      for (const auto& [there, key] :
           {std::pair{entry.encoding.has_value(), "dtype"}, std::pair{entry.shape.has_value(), "shape"},
            std::pair{entry.range.has_value(), "data_offsets"}}) {
        if (!there) fail(tensor() + ": " + key + " is missing");
      }
    }
    place_ = place_ == Place::kTensors ? Place::kEnd : Place::kTensors;
    return true;
  }

 private:
  enum class Place { kStart, kTensors, kMetadata, kTensor, kShape, kOffsets, kEnd };

  std::string tensor() const { return "tensor " + in_quotes(name_); }

  std::string expected() const override {
    switch (place_) {
      case Place::kTensors:
        return name_ == kMetadataKey ? "the object of __metadata__" : "the object of " + tensor();
      case Place::kMetadata:
        return "the text of key " + in_quotes(key_) + " of __metadata__";
      case Place::kTensor:
        return (key_ == "dtype" ? "the name of a dtype" : "the list " + key_) + " of " + tensor();
      case Place::kShape:
      case Place::kOffsets:
        return "a whole number, 0 or more and below 2^64, in " + key_ + " of " + tensor();
      default:
        return "the object of tensors";
    }
  }

  Place place_ = Place::kStart;
  std::string name_;  // the last key of the outermost object
  std::string key_;   // the last key within
  std::unordered_set<std::string> names_;
  std::array<std::uint64_t, core::kMaxRank> list_{};
  std::size_t numbers_ = 0;
};

std::string range_text(std::uint64_t begin, std::uint64_t end) {
  return "[" + std::to_string(begin) + ", " + std::to_string(end) + ")";
}

/// The header's text, and the tensors' bytes behind it.
std::pair<std::string_view, std::span<const std::byte>> split(const MappedFile& file) {
  const std::span<const std::byte> bytes = file.bytes();
  const auto fail = [&](const std::string& problem) { throw core::Error(file.path().string() + ": " + problem); };
  if (bytes.size() < kLengthBytes) {
    fail("has " + std::to_string(bytes.size()) + " bytes; a safetensors file begins with the 8 of its header's length");
  }
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), kLengthBytes);
  if (length > bytes.size() - kLengthBytes) {
    fail("the header should have " + std::to_string(length) + " bytes, and the file ends after " +
         std::to_string(bytes.size() - kLengthBytes) + "; it is cut short, or no safetensors file");
  }
  if (length > kMostHeaderBytes) {
    fail("the header has " + std::to_string(length) + " bytes; at most " + std::to_string(kMostHeaderBytes) +
         " are allowed");
  }
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, length);
  if (header.empty() || header.front() != '{') fail("the header does not begin with {; this is no safetensors file");
  return {header, bytes.subspan(kLengthBytes + length)};
}

/// Adds the tensors of a file, which is number `index`, and its metadata as far as its keys are new.
void add_file(const MappedFile& file, std::size_t index, std::vector<TensorInfo>& tensors,
              std::map<std::string, std::string>& metadata) {
  const auto [text, data] = split(file);
  HeaderReader header(file.path());
  header.run(text);
  metadata.merge(header.metadata);
  std::vector<Entry>& entries = header.entries;
  std::ranges::sort(
      entries, [](const Entry& a, const Entry& b) { return std::tie(*a.range, a.name) < std::tie(*b.range, b.name); });
  const auto fail = [&](const std::string& problem) { throw core::Error(file.path().string() + ": " + problem); };
  std::uint64_t reached = 0;
  const Entry* before = nullptr;
  for (Entry& entry : entries) {
    const auto [begin, end] = *entry.range;
    const std::string label = "tensor " + in_quotes(entry.name) + ": ";
    if (end > data.size()) {
      fail(label + "bytes " + range_text(begin, end) + " are past the end of the data, which has " +
           std::to_string(data.size()));
    }
    const auto size = static_cast<std::uint64_t>(element_bytes(*entry.encoding));
    const auto elements = static_cast<std::uint64_t>(entry.shape->elements());
    if (elements > data.size() / size || elements * size != end - begin) {
      fail(label + std::string(name(*entry.encoding)) + "[" + entry.shape->text() + "] does not take the " +
           std::to_string(end - begin) + " bytes that data_offsets gives it");
    }
    if (begin < reached) {
      fail(label + "bytes " + range_text(begin, end) + " overlap those of tensor " + in_quotes(before->name) + ", " +
           range_text(before->range->first, before->range->second));
    }
    if (begin > reached) {
      fail("bytes " + range_text(reached, begin) + " of the data, before tensor " + in_quotes(entry.name) +
           ", belong to no tensor");
    }
    reached = end;
    before = &entry;
    tensors.push_back({entry.name, *entry.encoding, std::string(name(*entry.encoding)), *entry.shape,
                       data.subspan(begin, end - begin), index});
  }
  if (reached != data.size()) {
    fail("bytes " + range_text(reached, data.size()) + " of the data, after the last tensor, belong to no tensor");
  }
}

/// {"metadata": anything, "weight_map": {tensor: file}}
class IndexReader final : public JsonReader {
 public:
  explicit IndexReader(const std::filesystem::path& path) : JsonReader(path, "index") {}

  std::map<std::string, std::string> files;  ///< by tensor

  bool start_object(std::size_t) override {
    if (in_map_) unexpected("an object");
    in_map_ = depth_ == 1 && key_ == kMap;
    return enter();
  }

  bool end_object() override {
    in_map_ = false;
    --depth_;
    return true;
  }

  bool start_array(std::size_t) override {
    if (!skipping()) unexpected("a list");
    return enter();
  }

  bool end_array() override {
    --depth_;
    return true;
  }

  bool key(string_t& value) override {
    if (in_map_) {
      if (files.contains(value)) fail("tensor " + in_quotes(value) + " is given twice");
      tensor_ = value;
    } else if (depth_ == 1) {
      if (!keys_.insert(value).second) fail("the key " + in_quotes(value) + " is given twice");
      key_ = value;
    }
    return true;
  }

  bool string(string_t& value) override {
    if (!in_map_) return skipped(in_quotes(value));
    const bool plain = !value.empty() && value != "." && value != ".." && value.find('/') == std::string::npos &&
                       std::none_of(value.begin(), value.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; });
    if (!plain) {
      fail("tensor " + in_quotes(tensor_) + " is said to be in " + in_quotes(value) +
           "; that must be the name of a file in the index's own folder");
    }
    files.emplace(tensor_, value);
    return true;
  }

  bool null() override { return skipped("null"); }
  bool boolean(bool value) override { return skipped(value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override { return skipped(std::to_string(value)); }
  bool number_unsigned(number_unsigned_t value) override { return skipped(std::to_string(value)); }
  bool number_float(number_float_t value, const string_t& text) override {
    return skipping() || JsonReader::number_float(value, text);
  }

 private:
  static constexpr std::string_view kMap = "weight_map";
  static constexpr int kMostDepth = 16;

  /// Whether what comes is of no interest: the value of another key.
  bool skipping() const { return depth_ > 0 && !in_map_ && key_ != kMap; }

  bool skipped(const std::string& found) const {
    if (!skipping()) unexpected(found);
    return true;
  }

  bool enter() {
    if (++depth_ > kMostDepth) fail("nested more than " + std::to_string(kMostDepth) + " deep");
    return true;
  }

  std::string expected() const override {
    if (in_map_) return "the name of the file of tensor " + in_quotes(tensor_);
    return depth_ == 0 ? "an object with weight_map" : "the object weight_map";
  }

  int depth_ = 0;
  bool in_map_ = false;
  std::string key_;     // the last of the outermost object
  std::string tensor_;  // the last of weight_map
  std::set<std::string> keys_;
};

/// Errors: core::Error where a tensor of a shard is not one that the index gives it.
void check_listed(const std::filesystem::path& index, const std::string& shard, std::span<const TensorInfo> tensors,
                  const std::map<std::string, std::string>& files) {
  const auto fail = [&](const std::string& problem) { throw core::Error(index.string() + ": " + problem); };
  for (const TensorInfo& tensor : tensors) {
    const auto found = files.find(tensor.name);
    if (found == files.end())
      fail("tensor " + in_quotes(tensor.name) + " of shard " + in_quotes(shard) + " is not listed");
    if (found->second != shard) {
      fail("tensor " + in_quotes(tensor.name) + " is listed in shard " + in_quotes(found->second) +
           ", and is in shard " + in_quotes(shard));
    }
  }
}

/// Errors: core::Error where a tensor that the index lists is nowhere. `tensors` pass check_listed, so none is twice.
void check_present(const std::filesystem::path& index, std::span<const TensorInfo> tensors,
                   const std::map<std::string, std::string>& files) {
  if (tensors.size() == files.size()) return;
  std::unordered_set<std::string_view> there;
  for (const TensorInfo& tensor : tensors) there.insert(tensor.name);
  for (const auto& [tensor, shard] : files) {
    if (there.contains(tensor)) continue;
    throw core::Error(index.string() + ": tensor " + in_quotes(tensor) + " is listed in shard " + in_quotes(shard) +
                      ", and is not there");
  }
}

}  // namespace

Safetensors open_safetensors(const std::filesystem::path& path) {
  std::vector<MappedFile> files;
  files.emplace_back(path);
  std::vector<TensorInfo> tensors;
  std::map<std::string, std::string> metadata;
  add_file(files[0], 0, tensors, metadata);
  return {Weights(std::move(files), std::move(tensors)), std::move(metadata)};
}

Safetensors open_sharded_safetensors(const std::filesystem::path& index) {
  IndexReader reader(index);
  {
    const MappedFile file(index);
    reader.run({reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()});
  }
  if (reader.files.empty()) throw core::Error(index.string() + ": weight_map lists no tensor");
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : reader.files) shards.insert(shard);
  std::vector<MappedFile> files;
  std::vector<TensorInfo> tensors;
  std::map<std::string, std::string> metadata;
  for (const std::string& shard : shards) {
    files.emplace_back(index.parent_path() / shard);
    const std::size_t before = tensors.size();
    add_file(files.back(), files.size() - 1, tensors, metadata);
    check_listed(index, shard, std::span(tensors).subspan(before), reader.files);
  }
  check_present(index, tensors, reader.files);
  return {Weights(std::move(files), std::move(tensors)), std::move(metadata)};
}

}  // namespace braise::weights
