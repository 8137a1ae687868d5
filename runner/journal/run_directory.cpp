// SPDX-License-Identifier: Apache-2.0
#include "runner/journal/run_directory.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>
#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>
#include <tuple>

#include "kernels/core/error.h"
#include "runner/journal/event.h"
#include "stages/api/fault.h"
#include "stages/shared/io/clock.h"
#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"

namespace braise::journal {
namespace fs = std::filesystem;
using namespace std::chrono_literals;
namespace {

constexpr std::size_t kMaxNamed = 10;  // runs that a message lists

/// A lock that is being looked at, or that sweep() holds, is free again in a moment: so long it is tried.
constexpr auto kLockPatience = 300ms;
/// A `.new-*` folder younger than this may belong to a command that has not locked it yet.
constexpr auto kNewPatience = 10s;

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown";
}

/// Sorts by time of creation: the one in the name; within a second, the file system's.
using Age = std::tuple<std::string, fs::file_time_type, std::string>;

Age age(const fs::path& run) {
  constexpr std::size_t kTail = sizeof "20260131-123456-3fa9bc" - 1;
  const std::string name = run.filename().string();
  std::error_code ignored;
  return {name.size() > kTail ? name.substr(name.size() - kTail, sizeof "20260131-123456" - 1) : "",
          fs::last_write_time(run / "provenance.json", ignored), name};
}

std::string quoted(const std::string& text) {
  return "'" + stages::printable(text, 200) + "'";
}

/// ": a, b, c" - the latest of the runs, to choose from.
std::string choice(const std::vector<RunDirectory>& runs) {
  std::string text;
  for (std::size_t i = 0; i < std::min(runs.size(), kMaxNamed); ++i) {
    text += (i == 0 ? ": " : ", ") + stages::printable(runs[runs.size() - 1 - i].id(), 200);
  }
  return text + (runs.size() > kMaxNamed ? " ..." : "");
}

std::optional<Holder> read_holder(const fs::path& lock_file) {
  const nlohmann::json json = nlohmann::json::parse(io::read_file(lock_file), nullptr, false);
  try {
    return Holder{json.at("writer"), json.at("pid"), json.at("host"), json.at("since")};
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;  // not written yet
  }
}

/// Whether the holder that a lock file names is a living process: the text outlasts the one who wrote it.
bool is_alive(const Holder& holder) {
  return holder.host != host_name() || ::kill(static_cast<pid_t>(holder.pid), 0) == 0 || errno == EPERM;
}

bool is_empty_or_missing(const fs::path& folder) {
  std::error_code ignored;
  const fs::directory_iterator entries(folder, ignored);
  return ignored || entries == fs::directory_iterator();
}

}  // namespace

CreatedRun RunDirectory::create(const fs::path& runs_dir, const std::string& name, const RunFiles& files) {
  assert(!name.empty() && name.find('/') == std::string::npos && name.front() != '.');
  io::create_directories_durably(runs_dir);
  const fs::path folder = fs::canonical(runs_dir);
  for (;;) {
    const std::string id = name + "-" + io::compact_utc(io::utc_us()) + "-" + io::random_hex(6);
    const fs::path made = folder / (kNewPrefix + id);
    if (::mkdir(made.c_str(), 0777) != 0) core::fail_errno("cannot create folder " + made.string());
    try {
      RunLock lock = RunDirectory(made).lock();
      for (const char* part : {"journal", "jobs", "scratch"}) io::create_directories_durably(made / part);
      const RunDirectory run(made);
      io::write_file_durably(run.recipe_file(), files.recipe);
      io::write_file_durably(run.resolved_file(), files.resolved);
      io::write_file_durably(run.plan_file(), files.plan);
      io::write_file_durably(run.provenance_file(), files.provenance);
      const fs::path path = folder / id;
      if (::rename(made.c_str(), path.c_str()) == 0) {
        io::sync_directory(folder);
        return {RunDirectory(path), std::move(lock)};
      }
      if (errno != EEXIST && errno != ENOTEMPTY) core::fail_errno("cannot create run directory " + path.string());
    } catch (const core::Error&) {
      std::error_code ignored;
      fs::remove_all(made, ignored);
      throw;
    }
    fs::remove_all(made);
  }
}

bool RunDirectory::is_run(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path / "plan.json", ignored) && fs::is_regular_file(path / "provenance.json", ignored) &&
         fs::is_directory(path / "journal", ignored);
}

RunDirectory RunDirectory::open(const fs::path& path) {
  std::error_code error;
  const fs::path canonical = fs::canonical(path, error);
  if (error) throw core::Error(quoted(path.string()) + " is not a run directory: " + error.message());
  if (!is_run(canonical)) {
    throw core::Error(quoted(path.string()) +
                      " is not a run directory: it lacks plan.json, provenance.json or journal/");
  }
  return RunDirectory(canonical);
}

std::vector<RunDirectory> RunDirectory::list(const fs::path& runs_dir) {
  std::vector<std::pair<Age, RunDirectory>> found;
  std::error_code error;
  const fs::path folder = fs::canonical(runs_dir, error);
  if (error) return {};
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with('.') || entry.is_symlink() || !is_run(entry.path())) continue;
    found.emplace_back(age(entry.path()), RunDirectory(entry.path()));
  }
  if (error) throw core::Error("cannot read folder " + quoted(runs_dir.string()) + ": " + error.message());
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<RunDirectory> runs;
  for (auto& [unused, run] : found) runs.push_back(std::move(run));
  return runs;
}

RunDirectory RunDirectory::find(const fs::path& runs_dir, const std::string& text) {
  if (text.find('/') != std::string::npos) return open(text);
  const std::vector<RunDirectory> runs = list(runs_dir);
  std::vector<RunDirectory> meant;
  for (const RunDirectory& run : runs) {
    if (run.id() == text) return run;
    if (!text.empty() && run.id().starts_with(text)) meant.push_back(run);
  }
  if (text == "latest" && !runs.empty()) return runs.back();
  if (meant.size() == 1) return meant.front();
  if (meant.size() > 1) {
    throw core::Error(quoted(text) + " could be any of " + std::to_string(meant.size()) + " runs" + choice(meant));
  }
  std::error_code ignored;
  if (!text.empty() && fs::is_directory(text, ignored)) return open(text);
  if (runs.empty()) throw core::Error("there are no runs in " + quoted(runs_dir.string()));
  throw core::Error("there is no run " + quoted(text) + " in " + quoted(runs_dir.string()) + "; there are" +
                    choice(runs).substr(1));
}

RunLock RunDirectory::lock() const {
  const auto give_up = std::chrono::steady_clock::now() + kLockPatience;
  for (;;) {
    if (std::optional<io::FileLock> lock = io::FileLock::try_take(lock_file())) {
      const std::int64_t now = io::utc_us();
      Holder holder{"runner-" + io::compact_utc(now) + "-" + io::random_hex(6), ::getpid(), host_name(),
                    io::format_utc(now)};
      const io::FileDescriptor file(::open(lock_file().c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC));
      if (!file) core::fail_errno("cannot open " + lock_file().string());
      io::write_all(
          file.get(),
          nlohmann::json{{"writer", holder.writer}, {"pid", holder.pid}, {"host", holder.host}, {"since", holder.since}}
                  .dump() +
              "\n",
          lock_file());
      return RunLock(std::move(*lock), std::move(holder));
    }
    if (std::chrono::steady_clock::now() > give_up) break;
    std::this_thread::sleep_for(5ms);
  }
  const std::optional<Holder> holder = read_holder(lock_file());
  throw core::Error(
      "the run " + quoted(id()) + " is being run" +
      (holder ? " by process " + std::to_string(holder->pid) + " on " + holder->host + " since " + holder->since
              : std::string(" by another process")) +
      "; `braise cancel` ends it");
}

std::optional<Holder> RunDirectory::holder() const {
  const auto give_up = std::chrono::steady_clock::now() + kLockPatience;
  while (io::FileLock::is_held(lock_file())) {
    std::optional<Holder> holder = read_holder(lock_file());
    if (holder && is_alive(*holder)) return holder;
    if (std::chrono::steady_clock::now() > give_up) break;
    std::this_thread::sleep_for(5ms);
  }
  return std::nullopt;
}

const char* to_string(StopMode mode) {
  return mode == StopMode::stop ? "stop" : "kill";
}

bool request_stop(const RunDirectory& run, StopMode mode) {
  const std::optional<Holder> holder = run.holder();
  if (!holder) return false;
  write_stop_request(run, holder->writer, mode);
  return true;
}

void write_stop_request(const RunDirectory& run, const std::string& writer, StopMode mode) {
  Writer request(run.journal_dir(), "cancel-" + io::compact_utc(io::utc_us()) + "-" + io::random_hex(6));
  request.append({{"event", "stop_requested"}, {"mode", to_string(mode)}, {"runner", writer}});
}

void sweep(const fs::path& runs_dir) {
  std::error_code error;
  const auto sweep_new = [&error](const fs::path& folder) {
    const auto changed = fs::last_write_time(folder, error);
    if (error || changed + kNewPatience > fs::file_time_type::clock::now()) return;
    if (const auto lock = io::FileLock::try_take(folder / "lock")) fs::remove_all(folder, error);
  };
  const auto sweep_scratch = [&error](const fs::path& run) {
    const fs::path scratch = run / "scratch";
    if (fs::is_symlink(scratch, error) || is_empty_or_missing(scratch) || !RunDirectory::is_run(run)) return;
    if (fs::exists(run / "slurm", error)) return;  // jobs on other machines work there without holding the run
    const auto lock = io::FileLock::try_take(run / "lock");
    if (!lock) return;
    for (const fs::directory_entry& entry : fs::directory_iterator(scratch, error)) {
      std::error_code ignored;
      fs::remove_all(entry.path(), ignored);
    }
  };
  for (fs::directory_iterator entry(runs_dir, error), end; !error && entry != end; entry.increment(error)) {
    std::error_code ignored;
    if (entry->is_symlink(ignored) || !entry->is_directory(ignored)) continue;
    const std::string name = entry->path().filename().string();
    try {
      if (name.starts_with(kNewPrefix)) {
        sweep_new(entry->path());
      } else if (!name.starts_with('.')) {
        sweep_scratch(entry->path());
      }
    } catch (const std::exception&) {
      // A folder that cannot be locked or read belongs to someone else.
    }
  }
}

}  // namespace braise::journal
