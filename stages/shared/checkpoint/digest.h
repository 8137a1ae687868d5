// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/core/reduce.h"
#include "stages/shared/checkpoint/piece.h"
#include "stages/shared/io/digest.h"

namespace braise::checkpoint {

/// A tensor's digest is a tree of SHA-256 over its bytes in row-major order, so that ranks which hold parts of it make
/// it together, and a part of it can be checked alone. A leaf is the digest of core::kReductionBlock elements (the last
/// may be short); a chunk's digest that of its 64 leaves' digests, one after the other as bytes; the tensor's that of
/// its chunks' digests. Where shards may be cut, leaves begin; chunks are what is read and checked at once.
inline constexpr std::int64_t kLeafElements = core::kReductionBlock;
inline constexpr std::int64_t kChunkElements = 64 * kLeafElements;

/// The leaves of a chunk that a range has only a part of.
struct PartialChunk {
  std::int64_t chunk = 0;
  std::vector<io::Sha256Bytes> leaves;  ///< those in the range
};

/// The digests of one range of a tensor.
struct RangeDigests {
  /// One for each chunk the range has something of: of the leaves in the range, in order.
  std::vector<io::Sha256Bytes> chunks;
  std::vector<PartialChunk> partial;  ///< at most the first and the last
};

/// Chunks that a range has something of: [begin, end).
Range chunks_of(Range range);

/// The part of a chunk that lies in a range of a tensor.
Range in_chunk(std::int64_t chunk, Range range);

/// Whether a range has all of a chunk, in a tensor of that many elements.
bool has_whole_chunk(std::int64_t chunk, Range range, std::int64_t elements);

/// The digests of the leaves of elements that begin where a leaf does.
std::vector<io::Sha256Bytes> leaves_of(std::span<const std::byte> data, std::int64_t element_bytes);

/// The digest of digests.
io::Sha256Bytes digest_of(std::span<const io::Sha256Bytes> digests);

/// A range of a tensor.
struct RangeContent {
  Content data;
  Range range;                ///< begins where a leaf does
  std::int64_t elements = 0;  ///< of the tensor
};

/// The digests of each range, made by that many threads. Errors: core::Error where a range cannot be read.
std::vector<RangeDigests> digests_of(std::span<const RangeContent> ranges, int threads);

/// One range of a tensor and what it adds to the tensor's digest.
struct DigestedRange {
  Range range;
  const RangeDigests* digests;
};

/// The digest of a tensor, from ranges that make it whole, in order.
std::string tensor_digest(std::span<const DigestedRange> ranges, std::int64_t elements);

}  // namespace braise::checkpoint
