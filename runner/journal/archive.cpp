// SPDX-License-Identifier: Apache-2.0
#include "runner/journal/archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "kernels/core/error.h"
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

using Handle = std::unique_ptr<::archive, int (*)(::archive*)>;
using Entry = std::unique_ptr<::archive_entry, void (*)(::archive_entry*)>;

[[noreturn]] void fail(::archive* archive, const std::string& what, const fs::path& file) {
  const char* const why = ::archive_error_string(archive);
  throw core::Error(what + " " + file.string() + ": " +
                    (why != nullptr ? why : "the archive library does not say why"));
}

/// Whether a file is the bulk of a checkpoint: it lies beside the manifest that describes it.
bool holds_tensors(const fs::path& file) {
  return file.extension() == ".h5" && fs::exists(file.parent_path() / "manifest.json");
}

/// What of a run is archived, relative to it, sorted.
std::vector<fs::path> contents(const fs::path& run, bool checkpoints) {
  std::vector<fs::path> paths;
  for (fs::recursive_directory_iterator entry(run), end; entry != end; ++entry) {
    const fs::path path = entry->path().lexically_relative(run);
    if (path == "lock") continue;
    if (path == "scratch") {
      entry.disable_recursion_pending();
    } else if (entry->is_symlink() || (!entry->is_directory() && !entry->is_regular_file())) {
      throw core::Error(entry->path().string() + " is neither a file nor a folder, which no run of Braise has");
    } else if (!checkpoints && entry->is_regular_file() && holds_tensors(entry->path())) {
      continue;
    }
    paths.push_back(path);
  }
  std::sort(paths.begin(), paths.end());
  return paths;
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
        fail(archive_.get(), "cannot write", file_);
      }
      at += count;
    }
    return size;
  }

  void close() { check(::archive_write_close(archive_.get())); }

 private:
  void check(int result) {
    if (result != ARCHIVE_OK) fail(archive_.get(), "cannot write", file_);
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
    if (::archive_read_open_filename(archive_.get(), file.c_str(), kPiece) != ARCHIVE_OK) {
      fail(archive_.get(), "cannot read", file_);
    }
  }

  /// Unpacks everything below `folder`; returns the name of the one folder that the archive has.
  std::string unpack(const fs::path& folder) {
    ::archive_entry* entry = nullptr;
    for (;;) {
      const int result = ::archive_read_next_header(archive_.get(), &entry);
      if (result == ARCHIVE_EOF) break;
      if (result != ARCHIVE_OK) fail(archive_.get(), "cannot read", file_);
      one(entry, folder);
    }
    if (top_.empty()) throw core::Error(file_.string() + " has nothing in it");
    return top_;
  }

 private:
  [[noreturn]] void refuse(const std::string& name, const std::string& why) const {
    throw core::Error(file_.string() + " is not unpacked: its entry '" + stages::printable(name, 200) + "' " + why +
                      ", which no archive of a run has");
  }

  /// The path within the run's folder; empty for that folder itself.
  fs::path checked(const char* raw) {
    const std::string name = raw == nullptr ? "" : raw;
    const fs::path path(name);
    if (name.empty() || path.is_absolute()) refuse(name, "has no path relative to it");
    fs::path below;
    bool is_first = true;
    for (const fs::path& part : path) {
      if (part == ".." || part == ".") refuse(name, "leads out of it");
      if (part.empty()) continue;  // after a folder's last slash
      if (!is_first) {
        below /= part;
        continue;
      }
      is_first = false;
      if (top_.empty() && part.string().front() == '.') refuse(name, "is hidden");
      if (top_.empty()) top_ = part;
      if (part != top_) refuse(name, "is not in the folder '" + stages::printable(top_, 200) + "' like the others");
    }
    return below;
  }

  void one(::archive_entry* entry, const fs::path& folder) {
    const char* const raw = ::archive_entry_pathname(entry);
    const fs::path below = checked(raw);
    const fs::path place = folder / below;
    const char* const link = ::archive_entry_hardlink(entry);
    if (::archive_entry_symlink(entry) != nullptr || (link == nullptr && ::archive_entry_filetype(entry) != AE_IFREG &&
                                                      ::archive_entry_filetype(entry) != AE_IFDIR)) {
      refuse(raw, "is neither a file nor a folder");
    }
    if (link == nullptr && ::archive_entry_filetype(entry) == AE_IFDIR) {
      fs::create_directories(place);
      return;
    }
    if (below.empty()) refuse(raw, "is a file beside others");
    fs::create_directories(place.parent_path());
    if (!files_.insert(below).second) refuse(raw, "is there twice");
    if (link != nullptr) {
      const fs::path target = checked(link);
      if (target == below || !files_.contains(target)) refuse(raw, "is a link to what is no file of it");
      fs::create_hard_link(folder / target, place);
      return;
    }
    const io::FileDescriptor to(::open(place.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666));
    if (!to) core::fail_errno("cannot create " + place.string());
    std::vector<char> piece(kPiece);
    for (;;) {
      const la_ssize_t count = ::archive_read_data(archive_.get(), piece.data(), piece.size());
      if (count == 0) break;
      if (count < 0) fail(archive_.get(), "cannot read", file_);
      io::write_all(to.get(), {piece.data(), static_cast<std::size_t>(count)}, place);
    }
    if (::fsync(to.get()) != 0) core::fail_errno("cannot write " + place.string());
  }

  fs::path file_;
  Handle archive_;
  std::string top_;
  std::set<fs::path> files_;
};

}  // namespace

Archived write_archive(const RunDirectory& run, const fs::path& target, bool checkpoints) {
  const fs::path file = fs::absolute(target);
  if (fs::exists(file)) throw core::Error(file.string() + " is there already");
  Unfinished unfinished(file.string() + ".part");
  const io::FileDescriptor fd(::open(unfinished.path().c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!fd) core::fail_errno("cannot create " + unfinished.path().string());
  Archived archived;
  Writer writer(file, fd.get());
  writer.folder(run.id());
  for (const fs::path& path : contents(run.path(), checkpoints)) {
    const std::string name = run.id() + "/" + path.string();
    if (fs::is_directory(run.path() / path)) {
      writer.folder(name);
    } else {
      archived.bytes += writer.add(run.path() / path, name);
      ++archived.files;
    }
  }
  writer.close();
  io::publish_file(unfinished.path(), file);
  unfinished.keep();
  return archived;
}

RunDirectory unpack_archive(const fs::path& file, const fs::path& runs_dir) {
  Reader reader(file);
  io::create_directories_durably(runs_dir);
  const fs::path folder = fs::canonical(runs_dir);
  Unfinished made(folder / (kNewPrefix + io::random_hex(12)));
  if (::mkdir(made.path().c_str(), 0777) != 0) core::fail_errno("cannot create folder " + made.path().string());
  // Held, so that no other command takes it for what a killed one left.
  const std::optional<io::FileLock> lock = io::FileLock::try_take(made.path() / "lock");
  if (!lock) throw core::Error("cannot lock " + made.path().string());
  const std::string id = reader.unpack(made.path());
  RunDirectory::open(made.path());
  for (fs::recursive_directory_iterator entry(made.path()), end; entry != end; ++entry) {
    if (entry->is_directory()) io::sync_directory(entry->path());
  }
  const fs::path path = folder / id;
  if (fs::exists(path)) throw core::Error("there is already a run " + stages::printable(path.string(), 300));
  if (::rename(made.path().c_str(), path.c_str()) != 0)
    core::fail_errno("cannot create run directory " + path.string());
  made.keep();
  io::sync_directory(folder);
  return RunDirectory::open(path);
}

}  // namespace braise::journal
