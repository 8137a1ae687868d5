// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/checkpoint/saver.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>
#include <utility>

#include "kernels/comm/communicator.h"
#include "kernels/core/copy.h"
#include "stages/shared/checkpoint/manifest.h"
#include "stages/shared/checkpoint/part.h"
#include "stages/shared/io/file.h"

namespace braise::checkpoint {
namespace {
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kPoll{20};
constexpr std::chrono::seconds kLogEvery{10};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::int64_t bytes_of(std::span<const Piece> pieces) {
  std::int64_t bytes = 0;
  for (const Piece& piece : pieces) bytes += piece.data.bytes();
  return bytes;
}

std::int64_t aligned(std::int64_t bytes) {
  constexpr auto kAlignment = static_cast<std::int64_t>(kDataAlignment);
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

/// Refuses pieces that no checkpoint can hold; those without elements are left out, unless their tensor has none.
std::vector<Piece> checked(std::span<const Piece> given) {
  std::vector<Piece> pieces;
  std::set<std::pair<std::string, std::int64_t>> seen;
  for (const Piece& piece : given) {
    const auto refuse = [&](const std::string& what) { throw core::Error("a piece of " + piece.path + " " + what); };
    const std::int64_t elements = piece.shape.elements();
    if (piece.data.elements() == 0 && elements > 0) continue;
    if (const std::string fault = path_fault(piece.path); !fault.empty()) refuse("has a path that " + fault);
    if (core::bits(piece.data.dtype()) < 8) refuse("is " + std::string(core::name(piece.data.dtype())));
    const core::ConstTensorView& memory = piece.data.memory();
    if (memory && !memory.contiguous()) refuse("is not contiguous: " + memory.text());
    const std::int64_t end = piece.begin + piece.data.elements();
    if (piece.begin < 0 || end > elements || piece.begin % kLeafElements != 0 ||
        (end % kLeafElements != 0 && end != elements)) {
      refuse("of " + std::to_string(elements) + " elements is [" + std::to_string(piece.begin) + ", " +
             std::to_string(end) + "), which is not cut at multiples of " + std::to_string(kLeafElements));
    }
    if (!seen.insert({piece.path, piece.begin}).second) refuse("is given twice");
    pieces.push_back(piece);
  }
  return pieces;
}

void check_metadata(const nlohmann::json& metadata) {
  if (!metadata.is_object()) throw core::Error("a checkpoint's metadata is no object");
  for (const auto& [key, value] : metadata.items()) {
    if (key.empty() || key == "." || key == ".." || key.find('/') != std::string::npos) {
      throw core::Error("a checkpoint's metadata has the key \"" + key + "\", which can be no name in HDF5");
    }
  }
}

/// Removes a checkpoint of this attempt, manifest first: so what is left, wherever it stops, is none.
void remove_checkpoint(const fs::path& folder) {
  const fs::path manifest = folder / kManifestName;
  if (::unlink(manifest.c_str()) != 0 && errno != ENOENT) core::fail_errno("cannot remove " + manifest.string());
  io::sync_directory(folder);
  std::error_code error;
  fs::remove_all(folder, error);
  if (error) throw core::Error("cannot remove " + folder.string() + ": " + error.message());
}

/// One save on one rank.
struct Work {
  std::uint64_t sequence = 0;
  std::int64_t step = 0;
  fs::path folder;
  Clock::time_point begun;
  std::vector<Piece> pieces;
  core::Buffer snapshot;  // where the pieces lie, unless they are the caller's
  std::string metadata;   // rank 0's
  std::optional<double> metric;
};

/// A checkpoint that retention looks at.
struct Kept {
  std::int64_t step;
  std::optional<double> metric;
  fs::path folder;
};

}  // namespace

struct Saver::State {
  comm::Communicator& comm;
  core::Stream& stream;
  core::Arena& host;
  const SaverSettings settings;
  const fs::path parent;  // of checkpoints' folders
  const std::string token;

  // Of the calling thread.
  std::uint64_t sequence = 0;
  std::map<std::int64_t, int> times_saved;  // by step
  std::int64_t last_step = 0;
  fs::path last_folder;

  // Set where a save cannot come to anything: the thread stops as soon as it may.
  std::atomic<bool> give_up{false};

  std::mutex mutex;
  std::condition_variable changed;
  // Under the mutex.
  std::optional<Work> handed_over;
  bool busy = false;
  bool part_written = false;
  bool ended = false;
  std::optional<std::string> failure;  // of the last save; empty where it was given up for another rank's
  bool whole = false;                  // the last save's manifest is on the disk
  std::vector<Saved> saved;

  std::vector<Kept> kept;  // of rank 0's thread
  std::thread thread;

  State(comm::Communicator& comm_, core::Stream& stream_, core::Arena& host_, SaverSettings settings_)
      : comm(comm_),
        stream(stream_),
        host(host_),
        settings(std::move(settings_)),
        parent(settings.attempt_dir / kFolderName),
        token(settings.attempt_dir.filename()) {
    // Signals are for the threads that wait for them.
    sigset_t all, before;
    sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    thread = std::thread([this] { run(); });
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  ~State() {
    {
      const std::lock_guard lock(mutex);
      ended = true;
      give_up = true;
    }
    changed.notify_all();
    thread.join();
  }

  void log(const std::string& message) const {
    if (settings.log) settings.log(message);
  }

  fs::path sidecar(const Work& work, int rank) const { return work.folder / sidecar_name(rank); }

  void run() {
    for (;;) {
      std::optional<Work> work;
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return ended || handed_over; });
        if (ended) return;
        work = std::exchange(handed_over, std::nullopt);
      }
      std::optional<std::string> fault;
      try {
        write(*work);
      } catch (const std::exception& error) {
        fault = give_up ? "" : error.what();
        leave_failure(*work, *fault);
      }
      work.reset();  // and with it the snapshot
      {
        const std::lock_guard lock(mutex);
        busy = false;
        failure = std::move(fault);
      }
      changed.notify_all();
    }
  }

  /// Tells rank 0 that it need not wait. Where even that cannot be written, it learns at the next call.
  void leave_failure(const Work& work, const std::string& fault) const {
    if (comm.rank() == 0 || fault.empty()) return;
    PartRecord record;
    record.sequence = work.sequence;
    record.failure = fault;
    try {
      io::write_file_durably(sidecar(work, comm.rank()), to_text(record));
    } catch (const core::Error&) {
    }
  }

  void write(Work& work) {
    PartRecord part = write_part(work.folder, comm.rank(), work.pieces, give_up);
    part.sequence = work.sequence;
    work.pieces.clear();
    work.snapshot.reset();
    {
      const std::lock_guard lock(mutex);
      part_written = true;
    }
    changed.notify_all();
    if (comm.rank() != 0) {
      io::write_file_durably(sidecar(work, comm.rank()), to_text(part));
      return;
    }
    std::vector<PartRecord> parts = all_parts(work, std::move(part));
    io::sync_directory(parent);
    io::sync_directory(settings.attempt_dir);
    if (settings.before_manifest) settings.before_manifest();
    Manifest head;
    head.step = work.step;
    head.attempt = token;
    head.sequence = work.sequence;
    head.metric = work.metric;
    head.metadata = work.metadata;
    Saved done = finish_checkpoint(work.folder, std::move(parts), head);
    done.seconds = seconds_since(work.begun);
    {
      const std::lock_guard lock(mutex);
      whole = true;
      saved.push_back(std::move(done));
    }
    // The manifest has all that they say.
    for (int rank = 1; rank < comm.size(); ++rank) ::unlink(sidecar(work, rank).c_str());
    kept.push_back({work.step, work.metric, work.folder});
    retain();
  }

  /// Rank 0's part and, as soon as they are there, those of the others.
  std::vector<PartRecord> all_parts(const Work& work, PartRecord first) const {
    std::vector<std::optional<PartRecord>> found(static_cast<std::size_t>(comm.size()));
    found[0] = std::move(first);
    const Clock::time_point begun = Clock::now();
    Clock::time_point next_log = begun + kLogEvery;
    for (;;) {
      std::string missing;
      for (int rank = 1; rank < comm.size(); ++rank) {
        std::optional<PartRecord>& part = found[static_cast<std::size_t>(rank)];
        if (!part) part = left_part(work, rank);
        if (!part) missing += (missing.empty() ? "" : ", ") + std::to_string(rank);
      }
      if (missing.empty()) break;
      if (::access(work.folder.c_str(), F_OK) != 0) core::fail_errno("cannot look at " + work.folder.string());
      if (give_up) throw core::Error("saving was given up");
      const std::string what = "the checkpoint of step " + std::to_string(work.step) + " in " + work.folder.string() +
                               " waits for the parts of ranks " + missing;
      if (seconds_since(begun) > settings.part_timeout_s) {
        throw core::Error(what + ", " + std::to_string(std::lround(settings.part_timeout_s)) +
                          " s after rank 0's was written");
      }
      if (Clock::now() > next_log) {
        log(what);
        next_log += kLogEvery;
      }
      std::this_thread::sleep_for(kPoll);
    }
    std::vector<PartRecord> parts;
    for (std::optional<PartRecord>& part : found) parts.push_back(std::move(*part));
    return parts;
  }

  std::optional<PartRecord> left_part(const Work& work, int rank) const {
    const fs::path path = sidecar(work, rank);
    if (::access(path.c_str(), F_OK) != 0) return std::nullopt;
    PartRecord part = parse_part(io::read_file(path), path.string());
    if (!part.failure.empty()) throw core::Error("rank " + std::to_string(rank) + ": " + part.failure);
    if (part.sequence != work.sequence) throw core::Error(path.string() + " is of another save");
    return part;
  }

  /// Removes the checkpoints that no rule keeps.
  void retain() {
    const Retention& rules = settings.retention;
    const auto last = static_cast<std::size_t>(std::max(rules.last, 1));
    std::set<fs::path> stay;
    for (std::size_t i = 0; i < kept.size(); ++i) {
      if (i + last >= kept.size() || (rules.every > 0 && kept[i].step % rules.every == 0)) stay.insert(kept[i].folder);
    }
    std::vector<const Kept*> ranked;
    for (const Kept& one : kept) {
      if (one.metric) ranked.push_back(&one);
    }
    std::ranges::stable_sort(ranked, [&](const Kept* a, const Kept* b) {
      return rules.better == Retention::Better::kLower ? *a->metric < *b->metric : *a->metric > *b->metric;
    });
    for (std::size_t i = 0; i < std::min(ranked.size(), static_cast<std::size_t>(std::max(rules.best, 0))); ++i)
      stay.insert(ranked[i]->folder);
    std::erase_if(kept, [&](const Kept& one) {
      if (stay.contains(one.folder)) return false;
      try {
        remove_checkpoint(one.folder);
      } catch (const core::Error& error) {
        // It costs room on the disk and nothing else.
        log(std::string("an old checkpoint stays: ") + error.what());
      }
      return true;
    });
  }

  enum class Status : char { kIdle = 'i', kBusy = 'b', kFailed = 'f' };
  Status status() {
    const std::lock_guard lock(mutex);
    return failure ? Status::kFailed : busy ? Status::kBusy : Status::kIdle;
  }

  /// Returns once no rank is at work. Collective. Errors: SaveFailure where the last save failed on any.
  void settle() {
    Clock::time_point next_log = Clock::now() + kLogEvery;
    for (;;) {
      std::string all;
      for (const std::string& one : comm.all_gather(std::string(1, static_cast<char>(status())))) all += one;
      const auto any = [&](Status status) { return all.find(static_cast<char>(status)) != std::string::npos; };
      if (any(Status::kFailed)) fail_everywhere();
      if (!any(Status::kBusy)) return;
      {
        std::unique_lock lock(mutex);
        changed.wait_for(lock, kPoll, [&] { return !busy; });
      }
      if (Clock::now() > next_log) {
        log("the checkpoint of step " + std::to_string(last_step) + " is still being written, and training waits");
        next_log += kLogEvery;
      }
    }
  }

  /// Once one rank has failed: all stop, what they made is removed, and all throw the same. Collective.
  [[noreturn]] void fail_everywhere() {
    give_up = true;
    std::string mine;
    bool is_whole = false;
    {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return !busy; });
      mine = std::exchange(failure, std::nullopt).value_or("");
      is_whole = whole;
    }
    give_up = false;
    const std::vector<std::string> faults = comm.all_gather(mine);
    std::string message;
    for (std::size_t rank = 0; rank < faults.size(); ++rank) {
      if (faults[rank].empty()) continue;
      message += (message.empty() ? "" : "; ") +
                 (faults.size() > 1 ? "rank " + std::to_string(rank) + ": " : std::string()) + faults[rank];
    }
    if (comm.rank() == 0 && !is_whole) discard(last_folder);
    throw SaveFailure("the checkpoint of step " + std::to_string(last_step) + " was not written: " + message);
  }

  /// Removes what is left of a save that failed, if the folder can be reached at all.
  void discard(const fs::path& folder) const {
    if (::access(folder.c_str(), F_OK) != 0) return;
    try {
      remove_checkpoint(folder);
    } catch (const core::Error& error) {
      log(std::string("what is left of a checkpoint stays: ") + error.what());
    }
  }

  /// Makes the folder of a save where there is room for it. Rank 0's; what is wrong, or empty.
  std::string prepare(const fs::path& folder, std::int64_t step, std::uint64_t bytes) const {
    try {
      for (const fs::path& path : {parent, folder}) {
        if (::mkdir(path.c_str(), 0777) != 0 && errno != EEXIST) {
          core::fail_errno("cannot create folder " + path.string());
        }
      }
      struct statvfs disk {};
      if (::statvfs(folder.c_str(), &disk) != 0) core::fail_errno("cannot look at the disk of " + folder.string());
      const std::uint64_t free = std::uint64_t{disk.f_bavail} * disk.f_frsize;
      if (bytes <= free) return "";
      ::rmdir(folder.c_str());
      return "the checkpoint of step " + std::to_string(step) + " needs " + std::to_string(bytes) + " bytes in " +
             parent.string() + ", where " + std::to_string(free) +
             " are free; make room on that disk, or keep fewer checkpoints";
    } catch (const core::Error& error) {
      return "the checkpoint of step " + std::to_string(step) + " was not written: " + error.what();
    }
  }

  /// The pieces copied into one buffer; where the budget or the machine has no room, nothing.
  std::optional<core::Buffer> snapshot_of(std::vector<Piece>& pieces, std::int64_t step) {
    std::int64_t bytes = 0;
    for (const Piece& piece : pieces) bytes += aligned(piece.data.bytes());
    std::optional<core::Buffer> buffer;
    try {
      buffer = host.allocate(bytes, core::Category::kCheckpoint, "snapshot");
    } catch (const core::Error& error) {
      log("there is no room for a copy of what the checkpoint of step " + std::to_string(step) +
          " holds, so training waits while it is written: " + error.what());
      return std::nullopt;
    }
    std::int64_t offset = 0;
    for (Piece& piece : pieces) {
      const core::ConstTensorView& memory = piece.data.memory();
      const core::Shape shape = memory ? memory.shape() : core::Shape{piece.data.elements()};
      const core::TensorView copy = buffer->view(piece.data.dtype(), shape, offset);
      if (memory) {
        core::copy(stream, copy, memory);
      } else {
        piece.data.read(0, {static_cast<std::byte*>(copy.raw()), static_cast<std::size_t>(copy.bytes())});
      }
      piece.data = copy;
      offset += aligned(piece.data.bytes());
    }
    stream.synchronize();
    return buffer;
  }
};

Saver::Saver(comm::Communicator& comm, core::Stream& stream, core::Arena& host, SaverSettings settings)
    : state_(std::make_unique<State>(comm, stream, host, std::move(settings))) {}

Saver::~Saver() = default;

SaveCost Saver::save(std::int64_t step, std::span<const Piece> pieces, const nlohmann::json& metadata,
                     std::optional<double> metric) {
  State& state = *state_;
  Work work;
  work.begun = Clock::now();
  work.step = step;
  work.pieces = checked(pieces);
  if (step < 0) throw core::Error("there is no step " + std::to_string(step));
  if (state.comm.rank() == 0) {
    check_metadata(metadata);
    work.metadata = metadata.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    if (metric && std::isfinite(*metric)) work.metric = metric;
  }

  state.settle();
  SaveCost cost;
  cost.waited_s = seconds_since(work.begun);
  cost.bytes = bytes_of(work.pieces);

  work.sequence = ++state.sequence;
  work.folder = state.parent / folder_name(step, ++state.times_saved[step]);
  state.last_step = step;
  state.last_folder = work.folder;
  const std::uint64_t need[] = {part_bytes(work.pieces), work.pieces.size()};
  std::uint64_t bytes = 0, count = 0;
  for (const std::string& one : state.comm.all_gather(std::string(reinterpret_cast<const char*>(need), sizeof need))) {
    std::uint64_t theirs[2] = {};
    std::memcpy(theirs, one.data(), std::min(one.size(), sizeof theirs));
    bytes += theirs[0];
    count += theirs[1];
  }
  bytes += master_bytes(count, work.metadata.size());
  const std::string fault =
      state.comm.broadcast(state.comm.rank() == 0 ? state.prepare(work.folder, step, bytes) : std::string(), 0);
  if (!fault.empty()) throw SaveFailure(fault);

  if (std::optional<core::Buffer> snapshot = state.snapshot_of(work.pieces, step)) {
    work.snapshot = std::move(*snapshot);
  } else {
    cost.streamed = true;
    for (const Piece& piece : work.pieces) {
      const core::ConstTensorView& memory = piece.data.memory();
      if (memory && memory.device() != core::kCpu) {
        throw core::Error("a checkpoint of tensors on " + memory.device().text() +
                          " needs room for a copy of them in the host's memory budget");
      }
    }
  }
  {
    const std::lock_guard lock(state.mutex);
    state.handed_over = std::move(work);
    state.busy = true;
    state.part_written = false;
    state.whole = false;
  }
  state.changed.notify_all();
  if (cost.streamed) {
    std::unique_lock lock(state.mutex);
    while (!state.changed.wait_for(lock, kLogEvery, [&] { return state.part_written || !state.busy; })) {
      lock.unlock();
      state.log("the checkpoint of step " + std::to_string(step) + " is still being written, and training waits");
      lock.lock();
    }
  }
  cost.blocked_s = seconds_since(work.begun);
  return cost;
}

Saved write_checkpoint(const fs::path& folder, const std::string& attempt, std::int64_t step,
                       std::span<const Piece> pieces, const nlohmann::json& metadata) {
  check_metadata(metadata);
  const std::vector<Piece> sound = checked(pieces);
  if (fs::exists(folder)) throw core::Error(folder.string() + " is there already");
  io::create_directories_durably(folder);
  const Clock::time_point begun = Clock::now();
  try {
    const std::atomic<bool> never{false};
    std::vector<PartRecord> parts;
    parts.push_back(write_part(folder, 0, sound, never));
    Manifest head;
    head.step = step;
    head.attempt = attempt;
    head.sequence = 1;
    head.metadata = metadata.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    Saved saved = finish_checkpoint(folder, std::move(parts), head);
    saved.seconds = seconds_since(begun);
    return saved;
  } catch (const core::Error&) {
    remove_checkpoint(folder);
    throw;
  }
}

void Saver::wait() {
  state_->settle();
}

std::vector<Saved> Saver::take_saved() {
  const std::lock_guard lock(state_->mutex);
  return std::exchange(state_->saved, {});
}

}  // namespace braise::checkpoint
