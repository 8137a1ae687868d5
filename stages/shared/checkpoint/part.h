// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "stages/shared/checkpoint/manifest.h"
#include "stages/shared/checkpoint/piece.h"
#include "stages/shared/checkpoint/saver.h"

namespace braise::checkpoint {

/// Writes a rank's part (HDF5, a one-dimensional dataset for each piece) into a checkpoint's folder, durably and under
/// a temporary name until it is whole. Digests are made meanwhile, by threads of its own. Gives up once `give_up` is
/// set. Errors: core::Error; no file is left.
PartRecord write_part(const std::filesystem::path& folder, std::int64_t rank, std::span<const Piece> pieces,
                      const std::atomic<bool>& give_up);

/// Makes a checkpoint of parts that lie in its folder: writes the master file, which shows whole tensors through
/// virtual datasets, and the metadata, for strangers to read, and last the manifest. Durable. `head` has all but files,
/// tensors and digests. Errors: core::Error, also where the parts do not make every tensor once and whole.
Saved finish_checkpoint(const std::filesystem::path& folder, std::vector<PartRecord> parts, const Manifest& head);

/// What the files of pieces will take, and the master for so many tensors: an upper bound.
std::uint64_t part_bytes(std::span<const Piece> pieces);
std::uint64_t master_bytes(std::uint64_t pieces, std::uint64_t metadata_bytes);

}  // namespace braise::checkpoint
