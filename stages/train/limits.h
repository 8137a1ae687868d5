// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

/// What bounds the memory of a step, known to those who hold it and to those who reckon with it.
namespace braise::train {

/// Units whose gradients are on their way to other ranks at once, at most.
inline constexpr std::size_t kUnitsOnTheWay = 2;

/// Chunks of the state on a disk that are in memory at once.
inline constexpr int kChunksInMemory = 4;

/// Elements of an array on a disk that are worked on at once: few of a small array, so that little of it is in memory,
/// and of a large one as many as a disk likes to read.
inline std::int64_t chunk_elements(std::int64_t elements) {
  constexpr std::int64_t kBlock = 4096;
  const std::int64_t part = (elements / (4 * kChunksInMemory) + kBlock - 1) / kBlock * kBlock;
  return std::clamp<std::int64_t>(part, 4 * kBlock, 128 * kBlock);
}

/// The memory of one array's chunks, as offload::ChunkLoop takes it.
inline std::int64_t chunk_memory_bytes(std::int64_t elements, std::int64_t element_bytes) {
  constexpr std::int64_t kBlock = 4096;
  const std::int64_t blocks = std::max<std::int64_t>(1, (elements + kBlock - 1) / kBlock);
  const std::int64_t chunk = std::min(chunk_elements(elements), blocks * kBlock);
  const std::int64_t chunks = std::clamp<std::int64_t>((elements + chunk - 1) / chunk, 1, kChunksInMemory);
  return std::max(chunk * element_bytes * chunks, std::int64_t{64} << 10);
}

}  // namespace braise::train
