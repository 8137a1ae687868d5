// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/checkpoint/digest.h"

#include <algorithm>
#include <atomic>
#include <future>
#include <utility>

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

std::vector<RangeDigests> digests_of(std::span<const RangeContent> ranges, int threads) {
  std::vector<RangeDigests> digests(ranges.size());
  struct Task {
    std::size_t range;
    std::int64_t chunk;
    PartialChunk* partial;  // where its leaves are wanted
  };
  std::vector<Task> tasks;
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    const Range chunks = chunks_of(ranges[i].range);
    digests[i].chunks.resize(static_cast<std::size_t>(chunks.elements()));
    digests[i].partial.reserve(2);
    for (std::int64_t chunk = chunks.begin; chunk < chunks.end; ++chunk) {
      const bool whole = has_whole_chunk(chunk, ranges[i].range, ranges[i].elements);
      tasks.push_back({i, chunk, whole ? nullptr : &digests[i].partial.emplace_back(PartialChunk{chunk, {}})});
    }
  }
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    std::vector<std::byte> buffer;
    for (std::size_t t = next++; t < tasks.size(); t = next++) {
      const Task& task = tasks[t];
      const RangeContent& whole = ranges[task.range];
      const Range part = in_chunk(task.chunk, whole.range);
      const std::int64_t element_bytes = core::bits(whole.data.dtype()) / 8;
      std::vector<io::Sha256Bytes> leaves = leaves_of(
          whole.data.look_at((part.begin - whole.range.begin) * element_bytes, part.elements() * element_bytes, buffer),
          element_bytes);
      digests[task.range].chunks[static_cast<std::size_t>(task.chunk - chunks_of(whole.range).begin)] =
          digest_of(leaves);
      if (task.partial != nullptr) task.partial->leaves = std::move(leaves);
    }
  };
  std::vector<std::future<void>> others;
  for (int i = 1; i < threads; ++i) others.push_back(std::async(std::launch::async, work));
  work();
  for (std::future<void>& other : others) other.get();
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
