// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/checkpoint/manifest.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "kernels/core/error.h"

namespace braise::checkpoint {
namespace {

using nlohmann::json;

constexpr char kFormat[] = "braise checkpoint";
constexpr std::size_t kLongestPath = 512;
constexpr std::int64_t kMostSteps = std::int64_t{1} << 53;  // what every reader of JSON has whole

// The first line of a manifest, around its 64 digits.
constexpr std::string_view kFirstLineBegin = "{\"manifest_sha256\": \"";
constexpr std::string_view kFirstLineEnd = "\",\n";
constexpr std::size_t kFirstLineBytes = kFirstLineBegin.size() + 64 + kFirstLineEnd.size();

std::string numbered(const char* format, std::int64_t number) {
  char text[40];
  std::snprintf(text, sizeof text, format, static_cast<long long>(number));
  return text;
}

/// A value of a JSON text and where it stands, for messages.
class Field {
 public:
  Field(const json& value, std::string where) : value_(value), where_(std::move(where)) {}

  [[noreturn]] void refuse(const std::string& what) const { throw core::Error(where_ + " " + what); }

  Field at(const char* key) const {
    if (!value_.is_object()) refuse("is no object");
    const auto found = value_.find(key);
    if (found == value_.end()) refuse(std::string("has no ") + key);
    return Field(*found, where_ + "." + key);
  }

  std::vector<Field> list() const {
    if (!value_.is_array()) refuse("is no list");
    std::vector<Field> fields;
    fields.reserve(value_.size());
    for (std::size_t i = 0; i < value_.size(); ++i)
      fields.emplace_back(value_[i], where_ + "[" + std::to_string(i) + "]");
    return fields;
  }

  std::int64_t integer(std::int64_t least, std::int64_t most) const {
    const bool fits = value_.is_number_unsigned() ? value_.get<std::uint64_t>() <= std::uint64_t{1} << 62
                                                  : value_.is_number_integer();
    if (!fits || value_.get<std::int64_t>() < least || value_.get<std::int64_t>() > most) {
      refuse("is not a whole number from " + std::to_string(least) + " to " + std::to_string(most));
    }
    return value_.get<std::int64_t>();
  }

  const std::string& text() const {
    if (!value_.is_string()) refuse("is no text");
    return value_.get_ref<const std::string&>();
  }

  io::Sha256Bytes sha256() const {
    const std::optional<io::Sha256Bytes> digest = io::sha256_from_hex(text());
    if (!digest) refuse("is no SHA-256");
    return *digest;
  }

  std::optional<double> number_or_null() const {
    if (value_.is_null()) return std::nullopt;
    if (!value_.is_number()) refuse("is no number");
    return value_.get<double>();
  }

  const json& value() const { return value_; }

 private:
  const json& value_;
  std::string where_;
};

constexpr std::int64_t kMostBytes = std::numeric_limits<std::int64_t>::max() / 2;

json hex_list(std::span<const io::Sha256Bytes> digests) {
  json list = json::array();
  for (const io::Sha256Bytes& digest : digests) list.push_back(io::to_hex(digest));
  return list;
}

json to_json(const FileRecord& file) {
  json object = {{"name", file.name}, {"bytes", file.bytes}};
  object[file.frame_sha256.empty() ? "sha256" : "frame_sha256"] =
      file.frame_sha256.empty() ? file.sha256 : file.frame_sha256;
  return object;
}

json to_json(const TensorRecord& tensor) {
  json object = {{"path", tensor.info.path}, {"dtype", core::name(tensor.info.dtype)}};
  object["shape"] = json::array();
  for (const std::int64_t extent : tensor.info.shape.extents()) object["shape"].push_back(extent);
  if (!tensor.info.digest.empty()) object["digest"] = tensor.info.digest;
  object["pieces"] = json::array();
  for (const PieceRecord& piece : tensor.pieces) {
    json entry = {{"file", piece.file},
                  {"begin", piece.range.begin},
                  {"end", piece.range.end},
                  {"offset", piece.offset},
                  {"chunks", hex_list(piece.digests.chunks)}};
    for (const PartialChunk& partial : piece.digests.partial) {
      entry["partial"].push_back({{"chunk", partial.chunk}, {"leaves", hex_list(partial.leaves)}});
    }
    object["pieces"].push_back(std::move(entry));
  }
  return object;
}

FileRecord file_from(const Field& field, bool part) {
  FileRecord file;
  file.name = field.at("name").text();
  file.bytes = static_cast<std::uint64_t>(field.at("bytes").integer(0, kMostBytes));
  const char* const digest = part ? "frame_sha256" : "sha256";
  (part ? file.frame_sha256 : file.sha256) = io::to_hex(field.at(digest).sha256());
  return file;
}

core::Shape shape_from(const Field& field) {
  std::vector<std::int64_t> extents;
  for (const Field& extent : field.list()) extents.push_back(extent.integer(0, kMostBytes));
  try {
    return core::Shape(extents);
  } catch (const core::Error& error) {
    field.refuse(std::string("is no shape: ") + error.what());
  }
}

/// A range must begin where a leaf does, and end where one begins or the tensor ends.
void check_range(const Field& field, Range range, std::int64_t elements) {
  if (range.begin > range.end || range.end > elements) field.refuse("is no range of the tensor's elements");
  if (range.begin % kLeafElements != 0 || (range.end % kLeafElements != 0 && range.end != elements)) {
    field.refuse("is not cut at multiples of " + std::to_string(kLeafElements) + " elements");
  }
}

PieceRecord piece_from(const Field& field, std::span<const FileRecord> files, const TensorInfo& tensor) {
  const std::int64_t elements = tensor.shape.elements();
  PieceRecord piece;
  piece.file = static_cast<std::size_t>(field.at("file").integer(0, static_cast<std::int64_t>(files.size()) - 1));
  if (files[piece.file].frame_sha256.empty()) field.refuse("lies in a file that is no part");
  piece.range = {field.at("begin").integer(0, kMostBytes), field.at("end").integer(0, kMostBytes)};
  check_range(field, piece.range, elements);
  const std::int64_t bytes = piece.range.elements() * (core::bits(tensor.dtype) / 8);
  const std::int64_t file_bytes = static_cast<std::int64_t>(files[piece.file].bytes);
  const std::int64_t offset = field.at("offset").integer(0, kMostBytes);
  if (bytes > file_bytes || offset > file_bytes - bytes) field.refuse("does not lie in its file");
  piece.offset = static_cast<std::uint64_t>(offset);
  if (piece.offset % kDataAlignment != 0) field.refuse("is not aligned in its file");
  const Range chunks = chunks_of(piece.range);
  for (const Field& chunk : field.at("chunks").list()) piece.digests.chunks.push_back(chunk.sha256());
  if (static_cast<std::int64_t>(piece.digests.chunks.size()) != chunks.elements()) {
    field.refuse("has " + std::to_string(piece.digests.chunks.size()) + " chunks, not " +
                 std::to_string(chunks.elements()));
  }
  return piece;
}

/// What a sidecar says besides: the leaves of chunks that the piece has only a part of, and of no others.
void read_partial(const Field& field, std::int64_t elements, PieceRecord& piece) {
  if (field.value().contains("partial")) {
    for (const Field& entry : field.at("partial").list()) {
      PartialChunk& partial = piece.digests.partial.emplace_back();
      partial.chunk = entry.at("chunk").integer(0, kMostBytes);
      for (const Field& leaf : entry.at("leaves").list()) partial.leaves.push_back(leaf.sha256());
    }
  }
  auto partial = piece.digests.partial.begin();
  const Range chunks = chunks_of(piece.range);
  for (std::int64_t chunk = chunks.begin; chunk < chunks.end; ++chunk) {
    if (has_whole_chunk(chunk, piece.range, elements)) continue;
    const auto leaves = static_cast<std::size_t>(core::reduction_blocks(in_chunk(chunk, piece.range).elements()));
    if (partial == piece.digests.partial.end() || partial->chunk != chunk || partial->leaves.size() != leaves) {
      field.refuse("does not have the leaves of chunk " + std::to_string(chunk));
    }
    ++partial;
  }
  if (partial != piece.digests.partial.end()) field.refuse("has leaves of a chunk that is whole");
}

TensorRecord tensor_from(const Field& field, std::span<const FileRecord> files, bool sidecar) {
  TensorRecord tensor;
  tensor.info.path = field.at("path").text();
  if (const std::string fault = path_fault(tensor.info.path); !fault.empty()) field.at("path").refuse(fault);
  const std::optional<core::Dtype> dtype = core::dtype_named(field.at("dtype").text());
  if (!dtype || core::bits(*dtype) < 8) field.at("dtype").refuse("is no dtype of a checkpoint");
  tensor.info.dtype = *dtype;
  tensor.info.shape = shape_from(field.at("shape"));
  if (!sidecar) tensor.info.digest = io::to_hex(field.at("digest").sha256());
  for (const Field& piece : field.at("pieces").list()) {
    tensor.pieces.push_back(piece_from(piece, files, tensor.info));
    if (sidecar) read_partial(piece, tensor.info.shape.elements(), tensor.pieces.back());
  }
  return tensor;
}

json parse_json(std::string_view text, const std::string& name) {
  json document = json::parse(text, nullptr, false);
  if (!document.is_object()) throw core::Error(name + " is not JSON");
  return document;
}

/// What keeps a tensor's pieces, in order, from making it once and whole; or empty.
std::string tiling_fault(const TensorRecord& tensor) {
  std::int64_t next = 0;
  const auto elements_text = [](std::int64_t begin, std::int64_t end) {
    return "elements [" + std::to_string(begin) + ", " + std::to_string(end) + ")";
  };
  for (const PieceRecord& piece : tensor.pieces) {
    if (piece.range.begin > next) return elements_text(next, piece.range.begin) + " are in no piece";
    if (piece.range.begin < next)
      return elements_text(piece.range.begin, std::min(next, piece.range.end)) + " are in two pieces";
    next = piece.range.end;
  }
  const std::int64_t elements = tensor.info.shape.elements();
  return next == elements ? "" : elements_text(next, elements) + " are in no piece";
}

bool by_path(const TensorRecord& a, const TensorRecord& b) {
  return a.info.path < b.info.path;
}

/// Ranges of bytes that pieces take of each file, in order.
std::vector<std::vector<Range>> taken_bytes(const Manifest& manifest) {
  std::vector<std::vector<Range>> taken(manifest.files.size());
  for (const TensorRecord& tensor : manifest.tensors) {
    for (const PieceRecord& piece : tensor.pieces) {
      const auto begin = static_cast<std::int64_t>(piece.offset);
      const std::int64_t bytes = piece.range.elements() * (core::bits(tensor.info.dtype) / 8);
      if (bytes > 0) taken[piece.file].push_back({begin, begin + bytes});
    }
  }
  for (std::vector<Range>& ranges : taken)
    std::ranges::sort(ranges, {}, [](const Range& range) { return range.begin; });
  return taken;
}

/// Digests that follow from others: of tensors cut at chunks only, and of the weights.
void check_digests(const Manifest& manifest, const std::string& name) {
  for (const TensorRecord& tensor : manifest.tensors) {
    const std::int64_t elements = tensor.info.shape.elements();
    std::vector<DigestedRange> ranges;
    bool whole = true;
    for (const PieceRecord& piece : tensor.pieces) {
      ranges.push_back({piece.range, &piece.digests});
      whole = whole && piece.range.begin % kChunkElements == 0;
    }
    if (whole && tensor_digest(ranges, elements) != tensor.info.digest) {
      throw core::Error(name + ": the digest of " + tensor.info.path + " is not that of its chunks");
    }
  }
  if (weights_digest(manifest.tensors) != manifest.weights_digest) {
    throw core::Error(name + ": weights_digest is not that of the tensors");
  }
}

}  // namespace

std::string part_name(std::int64_t rank) {
  return numbered("part.%05lld.h5", rank);
}

std::string sidecar_name(std::int64_t rank) {
  return numbered("part.%05lld.json", rank);
}

std::string folder_name(std::int64_t step, int repeat) {
  const std::string name = numbered("step-%08lld", step);
  return repeat < 2 ? name : name + "-" + std::to_string(repeat);
}

std::string dataset_name(std::string_view path, std::int64_t begin) {
  return "/" + std::string(path) + "@" + std::to_string(begin);
}

std::string path_fault(std::string_view path) {
  if (path.size() > kLongestPath) return "is longer than " + std::to_string(kLongestPath) + " characters";
  for (const char c : path) {
    if (c <= ' ' || c > '~' || c == '@') return "has a character other than printable ASCII, or '@'";
  }
  std::size_t parts = 0;
  for (std::size_t begin = 0; begin <= path.size(); ++parts) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    const std::string_view part = path.substr(begin, end - begin);
    if (part.empty() || part == "." || part == "..") return "has an empty part, \".\" or \"..\"";
    begin = end + 1;
  }
  if (parts < 2) return "has no group before its name";
  if (path.starts_with("metadata/")) return "is in the group of the metadata";
  return "";
}

std::string weights_digest(std::span<const TensorRecord> tensors) {
  std::string lines;
  for (const TensorRecord& tensor : tensors) {
    const TensorInfo& info = tensor.info;
    if (!info.path.starts_with(kParameters)) continue;
    lines += info.path + " " + std::string(core::name(info.dtype)) + " " + info.shape.text() + " " + info.digest + "\n";
  }
  return io::sha256(lines);
}

std::vector<Range> frame_of(const Manifest& manifest, std::size_t file) {
  std::vector<Range> frame;
  std::int64_t next = 0;
  const std::vector<std::vector<Range>> taken = taken_bytes(manifest);
  for (const Range& range : taken[file]) {
    if (range.begin > next) frame.push_back({next, range.begin});
    next = range.end;
  }
  const auto bytes = static_cast<std::int64_t>(manifest.files[file].bytes);
  if (bytes > next) frame.push_back({next, bytes});
  return frame;
}

Manifest joined(std::vector<PartRecord> parts) {
  Manifest manifest;
  manifest.files.emplace_back().name = kMasterName;
  std::map<std::string, TensorRecord> tensors;
  for (PartRecord& part : parts) {
    for (TensorRecord& tensor : part.tensors) {
      for (PieceRecord& piece : tensor.pieces) piece.file = manifest.files.size();
      const auto [found, is_new] = tensors.try_emplace(tensor.info.path, std::move(tensor));
      if (is_new) continue;
      TensorRecord& known = found->second;
      if (known.info.shape != tensor.info.shape || known.info.dtype != tensor.info.dtype) {
        throw core::Error("ranks do not agree on the shape and dtype of " + known.info.path);
      }
      std::ranges::move(tensor.pieces, std::back_inserter(known.pieces));
    }
    manifest.files.push_back(std::move(part.file));
  }
  std::set<std::string> groups;
  for (auto& [path, tensor] : tensors) {
    for (std::size_t slash = path.find('/'); slash != std::string::npos; slash = path.find('/', slash + 1))
      groups.insert(path.substr(0, slash));
    // An empty piece at a cut comes before the one that begins there.
    std::ranges::sort(tensor.pieces, {},
                      [](const PieceRecord& piece) { return std::pair(piece.range.begin, piece.range.end); });
    if (const std::string fault = tiling_fault(tensor); !fault.empty()) throw core::Error(path + ": " + fault);
    std::vector<DigestedRange> ranges;
    for (const PieceRecord& piece : tensor.pieces) ranges.push_back({piece.range, &piece.digests});
    tensor.info.digest = tensor_digest(ranges, tensor.info.shape.elements());
    for (PieceRecord& piece : tensor.pieces) piece.digests.partial.clear();
    manifest.tensors.push_back(std::move(tensor));
  }
  for (const TensorRecord& tensor : manifest.tensors) {
    if (groups.contains(tensor.info.path)) throw core::Error(tensor.info.path + " is a tensor and a group of others");
  }
  manifest.weights_digest = weights_digest(manifest.tensors);
  return manifest;
}

std::string to_text(const PartRecord& part) {
  json object = {{"save", part.sequence}};
  if (!part.failure.empty()) {
    object["failure"] = part.failure;
  } else {
    object["file"] = to_json(part.file);
    object["tensors"] = json::array();
    for (const TensorRecord& tensor : part.tensors) object["tensors"].push_back(to_json(tensor));
  }
  return object.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

PartRecord parse_part(std::string_view text, const std::string& name) {
  const json document = parse_json(text, name);
  const Field root(document, name + ":");
  PartRecord part;
  part.sequence = static_cast<std::uint64_t>(root.at("save").integer(1, kMostSteps));
  if (document.contains("failure")) {
    part.failure = root.at("failure").text();
    return part;
  }
  part.file = file_from(root.at("file"), true);
  for (const Field& tensor : root.at("tensors").list()) {
    part.tensors.push_back(tensor_from(tensor, std::span(&part.file, 1), true));
  }
  return part;
}

std::string to_text(const Manifest& manifest) {
  json object = {{"format", kFormat},
                 {"version", kFormatVersion},
                 {"step", manifest.step},
                 {"attempt", manifest.attempt},
                 {"sequence", manifest.sequence},
                 {"metric", manifest.metric ? json(*manifest.metric) : json()},
                 {"weights_digest", manifest.weights_digest},
                 {"metadata", json::parse(manifest.metadata)},
                 {"files", json::array()},
                 {"tensors", json::array()}};
  for (const FileRecord& file : manifest.files) object["files"].push_back(to_json(file));
  for (const TensorRecord& tensor : manifest.tensors) object["tensors"].push_back(to_json(tensor));
  const std::string rest = object.dump(1).substr(2) + "\n";  // without "{\n", which the first line has
  return std::string(kFirstLineBegin) + io::sha256(rest) + std::string(kFirstLineEnd) + rest;
}

Manifest parse_manifest(std::string_view text, const std::string& name) {
  const std::string_view first_line = text.substr(0, kFirstLineBytes);
  if (first_line.size() < kFirstLineBytes || !first_line.starts_with(kFirstLineBegin) ||
      !first_line.ends_with(kFirstLineEnd)) {
    throw core::Error(name + ": the first line is not that of a checkpoint's manifest");
  }
  const std::string_view stated = first_line.substr(kFirstLineBegin.size(), 64);
  if (io::sha256(text.substr(kFirstLineBytes)) != stated) {
    throw core::Error(name + " is damaged: its SHA-256 after the first line is not " + std::string(stated));
  }
  const json document = parse_json(text, name);
  const Field root(document, name + ":");
  if (root.at("format").text() != kFormat) root.at("format").refuse(std::string("is not \"") + kFormat + "\"");
  if (root.at("version").integer(0, kMostSteps) != kFormatVersion) {
    root.at("version").refuse("is " + root.at("version").value().dump() + "; this build reads " +
                              std::to_string(kFormatVersion));
  }
  Manifest manifest;
  manifest.step = root.at("step").integer(0, kMostSteps);
  manifest.attempt = root.at("attempt").text();
  manifest.sequence = static_cast<std::uint64_t>(root.at("sequence").integer(1, kMostSteps));
  manifest.metric = root.at("metric").number_or_null();
  manifest.weights_digest = root.at("weights_digest").text();
  if (!root.at("metadata").value().is_object()) root.at("metadata").refuse("is no object");
  manifest.metadata = root.at("metadata").value().dump();

  for (const Field& field : root.at("files").list()) {
    const std::size_t number = manifest.files.size();
    manifest.files.push_back(file_from(field, number > 0));
    const std::string expected = number == 0 ? kMasterName : part_name(static_cast<std::int64_t>(number) - 1);
    // So a manifest can name no file but the folder's own.
    if (manifest.files.back().name != expected) field.at("name").refuse("is not \"" + expected + "\"");
  }
  if (manifest.files.empty()) root.at("files").refuse("names none");
  for (const Field& field : root.at("tensors").list()) {
    TensorRecord tensor = tensor_from(field, manifest.files, false);
    if (!manifest.tensors.empty() && !by_path(manifest.tensors.back(), tensor))
      field.at("path").refuse("does not come after the one before it");
    if (const std::string fault = tiling_fault(tensor); !fault.empty()) field.refuse("is not whole: " + fault);
    manifest.tensors.push_back(std::move(tensor));
  }
  const std::vector<std::vector<Range>> taken = taken_bytes(manifest);
  for (std::size_t file = 0; file < taken.size(); ++file) {
    for (std::size_t i = 1; i < taken[file].size(); ++i) {
      if (taken[file][i].begin < taken[file][i - 1].end) {
        throw core::Error(name + ": pieces overlap in " + manifest.files[file].name + " at byte " +
                          std::to_string(taken[file][i].begin));
      }
    }
  }
  check_digests(manifest, name);
  return manifest;
}

}  // namespace braise::checkpoint
