// SPDX-License-Identifier: Apache-2.0
#include "runner/journal/archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "runner/journal/job_attempts.h"
#include "runner/journal/provenance.h"
#include "stages/api/fault.h"
#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"
#include "stages/shared/io/lock.h"

namespace braise::journal {
namespace fs = std::filesystem;
namespace {

constexpr std::size_t kPiece = std::size_t{1} << 20;
constexpr int kFileMode = 0644;
constexpr int kFolderMode = 0755;

/// Longer paths cannot be made below a folder of runs on every file system.
constexpr std::size_t kLongestName = 2048;

using Handle = std::unique_ptr<::archive, int (*)(::archive*)>;
using Entry = std::unique_ptr<::archive_entry, void (*)(::archive_entry*)>;

std::string reason(::archive* archive) {
  const char* const why = ::archive_error_string(archive);
  return why != nullptr ? why : "the archive library does not say why";
}

/// Whether a file is the bulk of a checkpoint: it lies beside the manifest that describes it.
bool holds_tensors(const fs::path& file) {
  return file.extension() == ".h5" && fs::exists(file.parent_path() / "manifest.json");
}

/// What is archived: the file or folder by the name that it gets, in order.
using Contents = std::map<std::string, fs::path>;

/// Adds a folder of a run and what is below it, but for entries of the names in `left_out` directly in it.
void add_folder(const fs::path& folder, const std::string& name, bool checkpoints, const std::set<fs::path>& left_out,
                Contents& contents) {
  contents[name] = folder;
  for (fs::recursive_directory_iterator entry(folder), end; entry != end; ++entry) {
    const fs::path path = entry->path().lexically_relative(folder);
    if (left_out.contains(path)) {
      entry.disable_recursion_pending();
      continue;
    }
    if (entry->is_symlink() || (!entry->is_directory() && !entry->is_regular_file())) {
      throw core::Error(entry->path().string() + " is neither a file nor a folder, which no run of Braise has");
    }
    if (!checkpoints && entry->is_regular_file() && holds_tensors(entry->path())) continue;
    contents[name + "/" + path.string()] = entry->path();
  }
}

/// Adds what another run told of itself, without its jobs: enough to follow where they were done.
void add_frame(const RunDirectory& run, const std::string& name, Contents& contents) {
  contents[name] = contents[name + "/jobs"] = run.path();
  for (const fs::path& file : {run.recipe_file(), run.resolved_file(), run.plan_file(), run.provenance_file()}) {
    contents[name + "/" + file.filename().string()] = file;
  }
  add_folder(run.journal_dir(), name + "/journal", false, {}, contents);
}

/// Adds what other runs told of the jobs that this one reuses from them. Returns the jobs of which that is gone.
std::vector<std::string> add_reused(const RunDirectory& run, bool checkpoints, Contents& contents) {
  const RunState state = replay(run);
  JobAttempts attempts(run, state);
  const std::string folder = run.id() + "/" + run.reused_dir().filename().string();
  std::vector<std::string> gone;
  for (const auto& [job, record] : state.jobs) {
    if (record.state != JobState::reused) continue;
    const std::vector<JobPlace> trail = attempts.trail(job);
    const JobPlace& origin = trail.back();
    if (!RunDirectory::is_run(origin.run)) {
      gone.push_back(job);
      continue;
    }
    const auto is_elsewhere = [&](const JobPlace& place) {
      return place.run != run.path() && place.run.parent_path() != run.reused_dir();
    };
    for (const JobPlace& place : trail) {
      if (!is_elsewhere(place)) continue;
      contents[folder] = run.path();
      add_frame(RunDirectory::open(place.run), folder + "/" + place.run.filename().string(), contents);
    }
    if (!is_elsewhere(origin)) continue;
    const std::string below = folder + "/" + origin.run.filename().string() + "/jobs/" + origin.job;
    contents[below] = contents[below + "/attempts"] = origin.run;
    for (const fs::path& attempt : attempts.of(job)) {
      // Its outputs are in this run too.
      add_folder(attempt, below + "/attempts/" + attempt.filename().string(), checkpoints, {"artifacts"}, contents);
    }
  }
  return gone;
}

class Writer {
 public:
  Writer(fs::path file, int fd) : file_(std::move(file)), archive_(::archive_write_new(), ::archive_write_free) {
    check(::archive_write_set_format_pax_restricted(archive_.get()));
    check(::archive_write_add_filter_zstd(archive_.get()));
    check(::archive_write_open_fd(archive_.get(), fd));
  }

  void folder(const std::string& name) {
    const Entry entry = header(name, AE_IFDIR, kFolderMode);
    check(::archive_write_header(archive_.get(), entry.get()));
  }

  /// Returns its size; a further name of a file that is there already takes no room.
  std::uint64_t add(const fs::path& path, const std::string& name) {
    const io::FileDescriptor from(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
    if (!from) core::fail_errno("cannot open " + path.string());
    struct stat status {};
    if (::fstat(from.get(), &status) != 0) core::fail_errno("cannot look at " + path.string());
    const Entry entry = header(name, AE_IFREG, kFileMode);
    const auto [first, is_new] = names_.try_emplace({status.st_dev, status.st_ino}, name);
    if (!is_new) {
      ::archive_entry_set_hardlink(entry.get(), first->second.c_str());
      check(::archive_write_header(archive_.get(), entry.get()));
      return 0;
    }
    const auto size = static_cast<std::uint64_t>(status.st_size);
    ::archive_entry_set_size(entry.get(), status.st_size);
    check(::archive_write_header(archive_.get(), entry.get()));
    std::vector<std::byte> piece(kPiece);
    for (std::uint64_t at = 0; at < size;) {
      const std::size_t count = std::min<std::uint64_t>(piece.size(), size - at);
      io::read_at(from.get(), std::span(piece).first(count), at, path);
      if (::archive_write_data(archive_.get(), piece.data(), count) != static_cast<la_ssize_t>(count)) {
        fail();
      }
      at += count;
    }
    return size;
  }

  void close() { check(::archive_write_close(archive_.get())); }

 private:
  void check(int result) {
    if (result != ARCHIVE_OK) fail();
  }
  [[noreturn]] void fail() const {
    // The library says "Write error", and only its number tells of a full disk.
    const int code = ::archive_errno(archive_.get());
    throw core::Error("cannot write " + file_.string() + ": " + reason(archive_.get()) +
                      (code > 0 ? ": " + std::generic_category().message(code) : ""));
  }
  static Entry header(const std::string& name, unsigned type, int mode) {
    Entry entry(::archive_entry_new(), ::archive_entry_free);
    ::archive_entry_set_pathname(entry.get(), name.c_str());
    ::archive_entry_set_filetype(entry.get(), type);
    ::archive_entry_set_perm(entry.get(), static_cast<__LA_MODE_T>(mode));
    ::archive_entry_set_mtime(entry.get(), 0, 0);
    return entry;
  }

  fs::path file_;
  Handle archive_;
  std::map<std::pair<dev_t, ino_t>, std::string> names_;
};

/// Removes what it names when it goes, unless it has been kept.
class Unfinished {
 public:
  explicit Unfinished(fs::path path) : path_(std::move(path)) {}
  ~Unfinished() {
    std::error_code ignored;
    if (!kept_) fs::remove_all(path_, ignored);
  }
  Unfinished(const Unfinished&) = delete;
  Unfinished& operator=(const Unfinished&) = delete;
  const fs::path& path() const { return path_; }
  void keep() { kept_ = true; }

 private:
  fs::path path_;
  bool kept_ = false;
};

class Reader {
 public:
  explicit Reader(const fs::path& file) : file_(file), archive_(::archive_read_new(), ::archive_read_free) {
    ::archive_read_support_filter_zstd(archive_.get());
    ::archive_read_support_format_tar(archive_.get());
    // Else it does not look at what follows the last entry, and a file that ends too early there would pass.
    ::archive_read_set_format_option(archive_.get(), "tar", "read_concatenated_archives", "1");
    if (::archive_read_open_filename(archive_.get(), file.c_str(), kPiece) != ARCHIVE_OK) fail();
  }

  /// Goes through all entries, and has every one checked before `take` gets it with its path in the run's folder.
  void each(const std::function<void(::archive_entry* entry, const fs::path& below)>& take) {
    ::archive_entry* entry = nullptr;
    for (;;) {
      const int result = ::archive_read_next_header(archive_.get(), &entry);
      if (result == ARCHIVE_EOF) break;
      if (result != ARCHIVE_OK) fail();
      take(entry, checked(entry));
    }
    if (top_.empty()) throw BadArchive(file_.string() + " has nothing in it");
  }

  /// The name of the one folder that the archive has, of what has been gone through.
  const std::string& top() const { return top_; }

  /// Writes the data of the entry that is being gone through, no more than it says it has.
  void copy_data(::archive_entry* entry, const fs::path& place) {
    const io::FileDescriptor to(::open(place.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666));
    if (!to) core::fail_errno("cannot create " + place.string());
    std::vector<char> piece(kPiece);
    for (std::uint64_t left = declared_bytes(entry);;) {
      const la_ssize_t count = ::archive_read_data(archive_.get(), piece.data(), piece.size());
      if (count == 0) break;
      if (count < 0) fail();
      if (static_cast<std::uint64_t>(count) > left) refuse(::archive_entry_pathname(entry), "is longer than it says");
      left -= static_cast<std::uint64_t>(count);
      io::write_all(to.get(), {piece.data(), static_cast<std::size_t>(count)}, place);
    }
    if (::fsync(to.get()) != 0) core::fail_errno("cannot write " + place.string());
  }

  static std::uint64_t declared_bytes(::archive_entry* entry) {
    return static_cast<std::uint64_t>(std::max<la_int64_t>(::archive_entry_size(entry), 0));
  }

 private:
  [[noreturn]] void fail() const { throw BadArchive("cannot read " + file_.string() + ": " + reason(archive_.get())); }
  [[noreturn]] void refuse(const char* name, const std::string& why) const {
    throw BadArchive(file_.string() + " is not unpacked: its entry '" +
                     stages::printable(name == nullptr ? "" : name, 200) + "' " + why +
                     ", which no archive of a run has");
  }

  /// The path within the run's folder; empty for that folder itself.
  fs::path path_of(const char* raw) {
    const std::string name = raw == nullptr ? "" : raw;
    const fs::path path(name);
    if (name.empty() || path.is_absolute()) refuse(raw, "has no path relative to it");
    if (name.size() > kLongestName) refuse(raw, "has too long a name");
    fs::path below;
    bool is_first = true;
    for (const fs::path& part : path) {
      if (part == ".." || part == ".") refuse(raw, "leads out of it");
      if (part.empty()) continue;  // after a folder's last slash
      if (!is_first) {
        below /= part;
        continue;
      }
      is_first = false;
      if (top_.empty() && part.string().front() == '.') refuse(raw, "is hidden");
      if (top_.empty()) top_ = part;
      if (part != top_) refuse(raw, "is not in the folder '" + stages::printable(top_, 200) + "' like the others");
    }
    return below;
  }

  fs::path checked(::archive_entry* entry) {
    const char* const raw = ::archive_entry_pathname(entry);
    const fs::path below = path_of(raw);
    const char* const link = ::archive_entry_hardlink(entry);
    const auto type = ::archive_entry_filetype(entry);
    if (::archive_entry_symlink(entry) != nullptr || (link == nullptr && type != AE_IFREG && type != AE_IFDIR)) {
      refuse(raw, "is neither a file nor a folder");
    }
    if (link == nullptr && type == AE_IFDIR) {
      if (files_.contains(below)) refuse(raw, "is there twice");
      return below;
    }
    if (below.empty()) refuse(raw, "is a file beside others");
    if (below == "lock") refuse(raw, "is what a runner holds");
    for (fs::path above = below.parent_path(); !above.empty(); above = above.parent_path()) {
      if (files_.contains(above)) refuse(raw, "is below a file");
    }
    if (link != nullptr) {
      const fs::path target = path_of(link);
      if (target == below || !files_.contains(target)) refuse(raw, "is a link to what is no file of it");
    }
    if (!files_.insert(below).second) refuse(raw, "is there twice");
    return below;
  }

  fs::path file_;
  Handle archive_;
  std::string top_;
  std::set<fs::path> files_;
};

/// Reads the whole archive, with every check. Errors: BadArchive; core::Error where `folder`, or the nearest above it
/// that is there, has no room for it.
void look_through(const fs::path& file, const fs::path& folder) {
  fs::path there = fs::absolute(folder);
  while (!fs::exists(there)) there = there.parent_path();
  struct statvfs disk {};
  if (::statvfs(there.c_str(), &disk) != 0) core::fail_errno("cannot look at " + there.string());
  const std::uint64_t block = std::max<std::uint64_t>(disk.f_frsize, 1);
  const std::uint64_t free_blocks = disk.f_bavail;
  const std::uint64_t free_entries = disk.f_files > 0 ? disk.f_favail : std::numeric_limits<std::uint64_t>::max();
  std::uint64_t blocks = 0, entries = 0;
  Reader reader(file);
  bool has_plan = false;
  // An entry says what it holds before its data come, so a bomb is not unpacked even in memory.
  reader.each([&](::archive_entry* entry, const fs::path& below) {
    has_plan = has_plan || below == "plan.json";
    ++entries;
    blocks += 1 + (::archive_entry_hardlink(entry) != nullptr ? 0 : Reader::declared_bytes(entry) / block);
    if (blocks > free_blocks || entries > free_entries) {
      throw core::Error(there.string() + " has no room for what " + file.string() + " holds: " +
                        (blocks > free_blocks
                             ? "at least " + std::to_string(blocks) + " blocks of " + std::to_string(block) +
                                   " bytes, and there are " + std::to_string(free_blocks)
                             : "at least " + std::to_string(entries) + " files and folders, and " +
                                   std::to_string(free_entries) + " can be made"));
    }
  });
  if (!has_plan) throw BadArchive(file.string() + " has no run in it: it lacks plan.json");
}

/// Returns the name of the one folder that the archive has.
std::string write_below(const fs::path& file, const fs::path& folder) {
  Reader reader(file);
  reader.each([&](::archive_entry* entry, const fs::path& below) {
    const fs::path place = folder / below;
    const char* const link = ::archive_entry_hardlink(entry);
    if (link == nullptr && ::archive_entry_filetype(entry) == AE_IFDIR) {
      fs::create_directories(place);
      return;
    }
    fs::create_directories(place.parent_path());
    if (link != nullptr) {
      fs::create_hard_link(folder / fs::path(link).lexically_relative(reader.top()), place);
    } else {
      reader.copy_data(entry, place);
    }
  });
  return reader.top();
}

/// A file of `made` that `there` has not, or not so; empty: none.
fs::path first_difference(const fs::path& made, const fs::path& there) {
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(made)) {
    const fs::path path = entry.path().lexically_relative(made);
    if (!entry.is_regular_file() || path == "lock") continue;
    const fs::path other = there / path;
    if (!fs::is_regular_file(fs::symlink_status(other)) || fs::file_size(other) != entry.file_size() ||
        io::digest_file(other).sha256 != io::digest_file(entry.path()).sha256) {
      return path;
    }
  }
  return {};
}

}  // namespace

Archived write_archive(const RunDirectory& run, const fs::path& target, bool checkpoints) {
  const fs::path file = fs::absolute(target);
  if (fs::exists(file)) throw core::Error(file.string() + " is there already");
  Unfinished unfinished(file.string() + ".part");
  const io::FileDescriptor fd(::open(unfinished.path().c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!fd) core::fail_errno("cannot create " + unfinished.path().string());
  Archived archived;
  Writer writer(file, fd.get());
  Contents contents;
  add_folder(run.path(), run.id(), checkpoints, {"lock", "scratch"}, contents);
  contents[run.id() + "/" + run.scratch_dir().filename().string()] = run.path();
  archived.gone = add_reused(run, checkpoints, contents);
  for (const auto& [name, path] : contents) {
    if (fs::is_directory(path)) {
      writer.folder(name);
    } else {
      archived.bytes += writer.add(path, name);
      ++archived.files;
    }
  }
  writer.close();
  io::publish_file(unfinished.path(), file);
  unfinished.keep();
  return archived;
}

Unpacked unpack_archive(const fs::path& file, const fs::path& runs_dir) {
  look_through(file, runs_dir);
  io::create_directories_durably(runs_dir);
  const fs::path folder = fs::canonical(runs_dir);
  Unfinished made(folder / (kNewPrefix + io::random_hex(12)));
  if (::mkdir(made.path().c_str(), 0777) != 0) core::fail_errno("cannot create folder " + made.path().string());
  // Held, so that no other command takes it for what a killed one left.
  const std::optional<io::FileLock> lock = io::FileLock::try_take(made.path() / "lock");
  if (!lock) throw core::Error("cannot lock " + made.path().string());
  const std::string id = write_below(file, made.path());
  if (!RunDirectory::is_run(made.path())) {
    throw BadArchive(file.string() + " has no run in it: it lacks plan.json, provenance.json or journal/");
  }
  if (const auto edited = edited_files(RunDirectory::open(made.path())); edited && !edited->empty()) {
    throw BadArchive(file.string() + " holds a run whose files were changed after it was made:" + *edited);
  }
  for (fs::recursive_directory_iterator entry(made.path()), end; entry != end; ++entry) {
    if (entry->is_directory()) io::sync_directory(entry->path());
  }
  const fs::path path = folder / id;
  if (RunDirectory::is_run(path)) {
    const fs::path other = first_difference(made.path(), path);
    if (other.empty()) return {RunDirectory::open(path), false};
    throw BadArchive("there is already a run " + stages::printable(path.string(), 300) +
                     ", which is not what the archive holds: " + stages::printable(other.string(), 300) +
                     " differs; unpack to another folder, or remove that run with `braise clean`");
  }
  if (fs::exists(path)) throw BadArchive("there is already " + stages::printable(path.string(), 300));
  if (::rename(made.path().c_str(), path.c_str()) != 0)
    core::fail_errno("cannot create run directory " + path.string());
  made.keep();
  io::sync_directory(folder);
  return {RunDirectory::open(path), true};
}

}  // namespace braise::journal
