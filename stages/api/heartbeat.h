// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace braise::stages {

/// What a rank last told of itself in its file heartbeat.<rank> in the attempt's folder. The file is a single JSON
/// object, padded to a fixed length and rewritten in place every second by a thread of its own.
struct Heartbeat {
  int rank = 0;
  std::string host;
  std::int64_t pid = 0;
  std::int64_t beat_us = 0;       ///< when the file was written
  std::int64_t operation_us = 0;  ///< when the last operation was noted
  std::string operation;          ///< "write shard 3"
};

std::string to_text(const Heartbeat& heartbeat);

/// The heartbeats in an attempt's folder, by rank; a file that cannot be read or parsed is left out.
std::vector<Heartbeat> read_heartbeats(const std::filesystem::path& attempt_dir);

/// Names the ranks that hold the job up; empty where none is hung. First those whose heartbeat itself is older than
/// `timeout_us` (stopped, or their node is gone); else those that have noted no operation for that long and are not
/// waiting for others (operations that begin with "wait"); else, where every rank has been waiting for that long, all
/// of them.
std::vector<Heartbeat> hung_ranks(const std::vector<Heartbeat>& heartbeats, std::int64_t now_us,
                                  std::int64_t timeout_us);

/// "rank 3 (host n2, pid 4711) has not moved for 34 s; last operation: write shard 3".
std::string describe_hung(const Heartbeat& heartbeat, std::int64_t now_us);

}  // namespace braise::stages
