// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/core/dtype.h"
#include "stages/shared/model/checkpointing.h"
#include "stages/shared/model/part.h"

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

/// Elements by which the memory that a unit is gathered to is larger where a part of it is read from a disk: so that
/// this part can begin at a page.
inline std::int64_t gathered_spare_elements(core::Dtype dtype) {
  return 4096 * 8 / core::bits(dtype);
}

/// Inputs of blocks that are kept at once: of every block that is computed again, in each of the micro-batches that a
/// stage has begun, where `stages` are left from it on.
inline std::int64_t kept_inputs(const model::Checkpointing& checkpointing, const model::Extent& blocks,
                                std::int64_t stages, std::int64_t micro_batches) {
  if (checkpointing.kind != model::Checkpointing::Kind::kEveryBlock) return 0;
  std::int64_t recomputed = 0;
  for (std::int64_t layer = blocks.begin; layer < blocks.end; ++layer) {
    recomputed += layer % checkpointing.every == 0 ? 1 : 0;
  }
  return recomputed * std::min(stages, micro_batches);
}

}  // namespace braise::train
