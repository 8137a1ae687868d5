// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/core/arena.h"
#include "kernels/core/device.h"
#include "kernels/core/error.h"
#include "stages/shared/checkpoint/piece.h"

namespace braise::comm {
class Communicator;
}

namespace braise::checkpoint {

/// Which checkpoints stay. One stays if any rule keeps it; the newest always does.
struct Retention {
  enum class Better : std::uint8_t { kLower, kHigher };
  int last = 1;  ///< the newest so many, at least 1
  int best = 0;  ///< so many of the best by metric; of equal ones the older is better
  Better better = Better::kLower;
  std::int64_t every = 0;  ///< steps that are multiples of it; 0: none
};

struct SaverSettings {
  std::filesystem::path attempt_dir;  ///< checkpoints lie in its folder "checkpoints"; its name is the attempt's token
  Retention retention;
  double part_timeout_s = 600;  ///< how long rank 0 waits for the other ranks' parts after its own
  /// Told what happens in the background (a snapshot without room, waiting for a rank): one sentence, any thread.
  std::function<void(std::string_view)> log;
  /// Called by rank 0's thread in the background before the manifest is written: what must be on the disk before a
  /// checkpoint counts. What it throws makes the save fail.
  std::function<void()> before_manifest = {};
};

/// A checkpoint could not be written. Thrown on every rank alike; the caller may go on training: checkpoints that stood
/// before still stand, and nothing is left of this one.
class SaveFailure : public core::Error {
 public:
  using core::Error::Error;
};

/// What a call of Saver::save cost this rank.
struct SaveCost {
  double blocked_s = 0;    ///< in the call
  double waited_s = 0;     ///< of that, for the save before
  std::int64_t bytes = 0;  ///< of this rank's pieces
  bool streamed = false;   ///< there was no room for a snapshot
};

/// A checkpoint that is whole and on the disk.
struct Saved {
  std::int64_t step = 0;
  std::filesystem::path folder;
  std::int64_t bytes = 0;  ///< of all its files
  double seconds = 0;      ///< from the call of save to the end
  std::string weights_digest;
};

/// Writes the checkpoints of one training: one object on each rank, for the whole attempt. While a checkpoint is being
/// written by a thread in the background, training goes on: save() takes no longer than a copy of the pieces, unless
/// the save before is still at work or the host's budget has no room for the copy, when the pieces are written
/// from where they are while the caller waits. README.md has the files and the order in which they are written.
class Saver {
 public:
  /// `stream` copies the pieces, `host` (an arena in core::Space::kHost) holds the snapshot, under
  /// core::Category::kCheckpoint. All must outlive it. Not collective.
  Saver(comm::Communicator& comm, core::Stream& stream, core::Arena& host, SaverSettings settings);

  /// Gives up a checkpoint that is still being written: call wait() first to have it.
  ~Saver();

  /// Begins the checkpoint of `step`. The pieces of all ranks together make every tensor once and whole. Their memory
  /// may change as soon as the call returns. `metadata` and `metric` are rank 0's (what other ranks give is ignored);
  /// schemas/checkpoint.schema.json says what `metadata` holds. A step that was saved before (training went back) gets
  /// another folder, and counts as newer. Collective, and what happens in the background is not.
  /// Errors: SaveFailure where the save before failed (then this one is not begun: call again), or where the disk has
  /// too little room left for all ranks' files, naming the folder, the bytes needed and free.
  SaveCost save(std::int64_t step, std::span<const Piece> pieces, const nlohmann::json& metadata,
                std::optional<double> metric = std::nullopt);

  /// Returns when every checkpoint begun is whole and on the disk, and old ones are removed. Collective.
  /// Errors: SaveFailure where one is not.
  void wait();

  /// Those that became whole since the last call, oldest first. Rank 0 only: others know of none. Not collective.
  std::vector<Saved> take_saved();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Writes a checkpoint here and now, from one process that has all pieces (in the machine's memory), into a folder that
/// must not exist. `attempt` stands for whoever wrote it. Errors: core::Error; the folder is then not there.
Saved write_checkpoint(const std::filesystem::path& folder, const std::string& attempt, std::int64_t step,
                       std::span<const Piece> pieces, const nlohmann::json& metadata);

}  // namespace braise::checkpoint
