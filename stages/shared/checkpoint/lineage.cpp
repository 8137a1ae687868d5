// SPDX-License-Identifier: Apache-2.0
// Which checkpoint of a lineage of attempts is loaded, and how one is made to stay.
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <tuple>

#include "kernels/comm/communicator.h"
#include "kernels/core/error.h"
#include "stages/shared/checkpoint/checkpoint.h"
#include "stages/shared/checkpoint/manifest.h"
#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"

namespace braise::checkpoint {
namespace {
namespace fs = std::filesystem;

struct FolderName {
  std::int64_t step = 0;
  int repeat = 1;
};

/// What a folder's name says, if it is a checkpoint's.
std::optional<FolderName> parse_folder_name(const std::string& name) {
  constexpr std::string_view kPrefix = "step-";
  if (!name.starts_with(kPrefix)) return std::nullopt;
  FolderName parsed;
  const char* const end = name.data() + name.size();
  const char* next = std::from_chars(name.data() + kPrefix.size(), end, parsed.step).ptr;
  if (next != end && *next == '-') next = std::from_chars(next + 1, end, parsed.repeat).ptr;
  // Only the one way in which they are written.
  if (next != end || parsed.step < 0 || folder_name(parsed.step, parsed.repeat) != name) return std::nullopt;
  return parsed;
}

/// What is wrong with a candidate, or empty; `load` has its part where nothing is.
std::string try_candidate(const Candidate& candidate, bool check_frames, std::optional<Checkpoint>& checkpoint,
                          const std::function<void(const Checkpoint&)>& load) {
  try {
    checkpoint.emplace(candidate.folder);
    const fs::path attempt = candidate.folder.parent_path().parent_path().filename();
    if (checkpoint->attempt() != attempt || checkpoint->step() != candidate.step) {
      return candidate.folder.string() + " holds the checkpoint of step " + std::to_string(checkpoint->step()) +
             " of attempt " + checkpoint->attempt() + ": it was moved there";
    }
    if (check_frames) checkpoint->verify_frames();
    load(*checkpoint);
    return "";
  } catch (const core::Error& error) {
    return error.what();
  }
}

}  // namespace

std::vector<Candidate> find_checkpoints(std::span<const fs::path> attempt_dirs) {
  struct Found {
    Candidate candidate;
    std::size_t age;  // of the attempt, 0 the latest
    int repeat;
  };
  std::vector<Found> found;
  for (std::size_t age = 0; age < attempt_dirs.size(); ++age) {
    std::error_code error;
    for (fs::directory_iterator entry(attempt_dirs[age] / kFolderName, error), end; !error && entry != end;
         entry.increment(error)) {
      const std::optional<FolderName> name = parse_folder_name(entry->path().filename());
      if (!name || !fs::exists(entry->path() / kManifestName)) continue;
      found.push_back({{entry->path(), name->step}, age, name->repeat});
    }
    if (error && error != std::errc::no_such_file_or_directory) {
      throw core::Error("cannot list " + (attempt_dirs[age] / kFolderName).string() + ": " + error.message());
    }
  }
  std::ranges::sort(found, {}, [](const Found& one) { return std::tuple(-one.candidate.step, one.age, -one.repeat); });
  std::vector<Candidate> candidates;
  for (Found& one : found) candidates.push_back(std::move(one.candidate));
  return candidates;
}

std::optional<Checkpoint> load_newest(comm::Communicator& comm, std::span<const fs::path> attempt_dirs,
                                      const std::function<void(const Checkpoint&)>& load,
                                      const std::function<void(std::string_view)>& log) {
  // Rank 0's list is everyone's: folders of a network file system need not look the same everywhere at once.
  nlohmann::json list = nlohmann::json::array();
  if (comm.rank() == 0) {
    for (const Candidate& candidate : find_checkpoints(attempt_dirs))
      list.push_back({candidate.folder.string(), candidate.step});
  }
  list = nlohmann::json::parse(comm.broadcast(list.dump(), 0));
  std::string passed_over;
  for (const nlohmann::json& entry : list) {
    const Candidate candidate{entry.at(0).get<std::string>(), entry.at(1).get<std::int64_t>()};
    std::optional<Checkpoint> checkpoint;
    const std::string fault = try_candidate(candidate, comm.rank() == 0, checkpoint, load);
    std::string faults;
    const std::vector<std::string> all = comm.all_gather(fault);
    for (std::size_t rank = 0; rank < all.size(); ++rank) {
      if (all[rank].empty()) continue;
      faults += "; " + (all.size() > 1 ? "rank " + std::to_string(rank) + ": " : std::string()) + all[rank];
    }
    if (faults.empty()) return checkpoint;
    const std::string line = "the checkpoint of step " + std::to_string(candidate.step) + " in " +
                             candidate.folder.string() + " is passed over" + faults;
    log(line);
    passed_over += "\n" + line;
  }
  if (!passed_over.empty()) throw core::Error("no checkpoint can be loaded:" + passed_over);
  return std::nullopt;
}

std::vector<LinkedFile> link_checkpoint(const Checkpoint& checkpoint, const fs::path& folder) {
  io::create_directories_durably(folder.parent_path());
  if (!fs::create_directory(folder)) throw core::Error(folder.string() + " is there already");
  std::vector<LinkedFile> linked;
  for (const FileInfo& file : checkpoint.files()) {
    // All else must be on the disk before the manifest, the last, says that it is.
    if (file.name == kManifestName) io::sync_directory(folder);
    if (::link((checkpoint.folder() / file.name).c_str(), (folder / file.name).c_str()) != 0) {
      core::fail_errno("cannot link " + (checkpoint.folder() / file.name).string() + " into " + folder.string());
    }
    const io::FileDigest digest = io::digest_file(folder / file.name);
    linked.push_back({file.name, digest.bytes, digest.sha256});
  }
  io::sync_directory(folder);
  io::sync_directory(folder.parent_path());
  std::ranges::rotate(linked, linked.end() - 1);
  return linked;
}

}  // namespace braise::checkpoint
