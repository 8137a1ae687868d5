// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "stages/shared/checkpoint/checkpoint.h"
#include "stages/shared/checkpoint/digest.h"
#include "stages/shared/checkpoint/piece.h"

namespace braise::checkpoint {

/// Version of the layout that schemas/checkpoint.schema.json describes.
inline constexpr int kFormatVersion = 1;

inline constexpr char kManifestName[] = "manifest.json";
inline constexpr char kMasterName[] = "checkpoint.h5";
inline constexpr char kFolderName[] = "checkpoints";  ///< in an attempt's folder
inline constexpr char kParameters[] = "parameters/";  ///< where the weights are
inline constexpr std::uint64_t kDataAlignment = 64;   ///< of every piece in its file

std::string part_name(std::int64_t rank);     ///< "part.00003.h5"
std::string sidecar_name(std::int64_t rank);  ///< "part.00003.json"

/// "step-00000100"; of a step's `repeat`-th folder, from 2: "step-00000100-2".
std::string folder_name(std::int64_t step, int repeat);

/// The dataset of a piece in its part: "/parameters/model.norm.weight@8192".
std::string dataset_name(std::string_view path, std::int64_t begin);

/// One rank's piece of a tensor, as it lies in a file.
struct PieceRecord {
  std::size_t file = 0;  ///< its number in Manifest::files
  Range range;
  std::uint64_t offset = 0;  ///< of its first byte
  RangeDigests digests;
};

struct TensorRecord {
  TensorInfo info;
  std::vector<PieceRecord> pieces;
};

struct FileRecord {
  std::string name;
  std::uint64_t bytes = 0;
  std::string sha256;        ///< of the master only: of parts, other digests vouch for every byte
  std::string frame_sha256;  ///< of a part: of all its bytes that are of no piece, one after the other
};

/// What a rank leaves beside its part (part.<rank>.json), until the manifest has taken it over.
struct PartRecord {
  std::uint64_t sequence = 0;  ///< the attempt's how many-th save it belongs to, from 1
  std::string failure;         ///< why there is no part, else empty
  FileRecord file;
  std::vector<TensorRecord> tensors;  ///< with this rank's pieces only; digest empty
};

/// What manifest.json says.
struct Manifest {
  std::int64_t step = 0;
  std::string attempt;
  std::uint64_t sequence = 0;
  std::optional<double> metric;
  std::string weights_digest;
  std::vector<FileRecord> files;      ///< the master, then the parts by rank
  std::vector<TensorRecord> tensors;  ///< in the order of their paths; pieces in the order of their ranges
  std::string metadata;               ///< JSON
};

/// What is wrong with the path of a tensor, or empty.
std::string path_fault(std::string_view path);

/// The manifest of parts that ranks left: files (but for the master's, which is made from it), tensors, digests.
/// Errors: core::Error where the pieces do not make every tensor once and whole.
Manifest joined(std::vector<PartRecord> parts);

/// One digest for all tensors under "parameters/", from their digests.
std::string weights_digest(std::span<const TensorRecord> tensors);

/// The bytes of a file that are of no piece, as ranges of bytes.
std::vector<Range> frame_of(const Manifest& manifest, std::size_t file);

/// JSON of the two, and back. `name` stands in messages. A manifest's first line holds the digest of all that follows.
/// Errors of the latter: core::Error with the name and what is wrong. Whatever they return is sound: sizes, names,
/// ranges and counts agree, and offsets lie in files of the size that the text gives.
std::string to_text(const PartRecord& part);
std::string to_text(const Manifest& manifest);
PartRecord parse_part(std::string_view text, const std::string& name);
Manifest parse_manifest(std::string_view text, const std::string& name);

}  // namespace braise::checkpoint
