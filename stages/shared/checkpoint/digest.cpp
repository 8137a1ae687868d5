// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/checkpoint/digest.h"

#include <algorithm>

namespace braise::checkpoint {

Range chunks_of(Range range) {
  if (range.elements() == 0) return {};
  return {range.begin / kChunkElements, (range.end - 1) / kChunkElements + 1};
}

Range in_chunk(std::int64_t chunk, Range range) {
  return {std::max(range.begin, chunk * kChunkElements), std::min(range.end, (chunk + 1) * kChunkElements)};
}

bool has_whole_chunk(std::int64_t chunk, Range range, std::int64_t elements) {
  return in_chunk(chunk, range) == in_chunk(chunk, Range{0, elements});
}

std::vector<io::Sha256Bytes> leaves_of(std::span<const std::byte> data, std::int64_t element_bytes) {
  const auto leaf_bytes = static_cast<std::size_t>(kLeafElements * element_bytes);
  std::vector<io::Sha256Bytes> leaves;
  leaves.reserve(data.size() / leaf_bytes + 1);
  for (std::size_t begin = 0; begin < data.size(); begin += leaf_bytes) {
    leaves.push_back(io::sha256_bytes(data.subspan(begin, std::min(leaf_bytes, data.size() - begin))));
  }
  return leaves;
}

io::Sha256Bytes digest_of(std::span<const io::Sha256Bytes> digests) {
  return io::sha256_bytes(std::as_bytes(digests));
}

RangeDigests digests_of(std::span<const std::byte> data, Range range, std::int64_t elements,
                        std::int64_t element_bytes) {
  RangeDigests digests;
  const Range chunks = chunks_of(range);
  for (std::int64_t chunk = chunks.begin; chunk < chunks.end; ++chunk) {
    const Range part = in_chunk(chunk, range);
    std::vector<io::Sha256Bytes> leaves =
        leaves_of(data.subspan(static_cast<std::size_t>((part.begin - range.begin) * element_bytes),
                               static_cast<std::size_t>(part.elements() * element_bytes)),
                  element_bytes);
    digests.chunks.push_back(digest_of(leaves));
    if (!has_whole_chunk(chunk, range, elements)) digests.partial.push_back({chunk, std::move(leaves)});
  }
  return digests;
}

std::string tensor_digest(std::span<const DigestedRange> ranges, std::int64_t elements) {
  std::vector<io::Sha256Bytes> chunks;
  std::vector<io::Sha256Bytes> leaves;  // of the chunk that several ranges have parts of
  for (const DigestedRange& part : ranges) {
    const Range touched = chunks_of(part.range);
    auto partial = part.digests->partial.begin();
    for (std::int64_t chunk = touched.begin; chunk < touched.end; ++chunk) {
      if (has_whole_chunk(chunk, part.range, elements)) {
        chunks.push_back(part.digests->chunks[static_cast<std::size_t>(chunk - touched.begin)]);
        continue;
      }
      leaves.insert(leaves.end(), partial->leaves.begin(), partial->leaves.end());
      ++partial;
      if (in_chunk(chunk, part.range).end == in_chunk(chunk, Range{0, elements}).end) {
        chunks.push_back(digest_of(leaves));
        leaves.clear();
      }
    }
  }
  return io::to_hex(digest_of(chunks));
}

}  // namespace braise::checkpoint
