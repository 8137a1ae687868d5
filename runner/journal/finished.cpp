// SPDX-License-Identifier: Apache-2.0
#include "runner/journal/finished.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <vector>

#include "kernels/core/error.h"
#include "stages/api/fault.h"
#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"

namespace braise::journal {
namespace fs = std::filesystem;
using nlohmann::json;
namespace {

/// Whether a relative name stays below the folder it starts from.
bool stays_below(const fs::path& path) {
  return !path.empty() && path.is_relative() && std::find(path.begin(), path.end(), "..") == path.end();
}

/// A file's digest; empty where `cancelled` became true.
std::string digest(const fs::path& path, const std::atomic<bool>& cancelled) {
  const io::FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) core::fail_errno("cannot open " + path.string());
  io::Sha256 sum;
  std::vector<char> buffer(1 << 18);
  while (!cancelled) {
    const ssize_t got = ::read(file.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) core::fail_errno("cannot read " + path.string());
    if (got == 0) return sum.finish();
    sum.update(buffer.data(), static_cast<std::size_t>(got));
  }
  return "";
}

void link_or_copy(const fs::path& from, const fs::path& to) {
  if (::link(from.c_str(), to.c_str()) == 0) return;
  if (errno != EXDEV && errno != EPERM && errno != EMLINK && errno != EOPNOTSUPP) {
    core::fail_errno("cannot link " + from.string());
  }
  std::error_code error;
  fs::copy_file(from, to, error);
  if (error) throw core::Error("cannot copy " + from.string() + ": " + error.message());
  const io::FileDescriptor file(::open(to.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file || ::fsync(file.get()) != 0) core::fail_errno("cannot sync " + to.string());
}

}  // namespace

std::string missing_output(const fs::path& attempt_dir, const std::map<std::string, stages::Output>& outputs) {
  for (const auto& [unused, output] : outputs) {
    for (const stages::OutputFile& file : output.files) {
      if (!stays_below(file.path)) return stages::printable(file.path);
      struct stat status {};
      const fs::path path = attempt_dir / file.path;
      if (::stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode) ||
          static_cast<std::uint64_t>(status.st_size) != file.bytes) {
        return file.path;
      }
    }
  }
  return "";
}

fs::path FinishedIndex::entry(const std::string& fingerprint) const {
  return runs_dir_ / kFolder / fingerprint.substr(0, 2) / fingerprint;
}

void FinishedIndex::add(const std::string& fingerprint, const FinishedJob& job) const {
  json outputs = json::object();
  for (const auto& [name, output] : job.completed.outputs) outputs[name] = output.to_json();
  const fs::path path = entry(fingerprint);
  io::create_directories_durably(path.parent_path());
  io::write_file_durably(
      path, json{{"run", job.run}, {"job", job.job}, {"attempt_dir", job.completed.attempt_dir}, {"outputs", outputs}}
                    .dump() +
                "\n");
}

std::optional<FinishedJob> FinishedIndex::find(const std::string& fingerprint) const {
  const fs::path path = entry(fingerprint);
  if (!fs::exists(path)) return std::nullopt;
  try {
    const json text = json::parse(io::read_file(path));
    FinishedJob job{text.at("run"), text.at("job"), {text.at("attempt_dir"), {}}};
    for (const auto& [name, output] : text.at("outputs").items()) {
      job.completed.outputs[name] = stages::Output::from_json(output);
    }
    if (!stays_below(job.run) || !stays_below(job.completed.attempt_dir)) return std::nullopt;
    const fs::path folder = runs_dir_ / job.run / job.completed.attempt_dir;
    if (!missing_output(folder, job.completed.outputs).empty()) return std::nullopt;
    return job;
  } catch (const json::exception&) {
    return std::nullopt;
  } catch (const core::Error&) {
    return std::nullopt;
  }
}

void FinishedIndex::remove(const std::string& fingerprint) const {
  std::error_code ignored;
  fs::remove(entry(fingerprint), ignored);
}

bool FinishedIndex::reuse(const FinishedJob& job, const fs::path& attempt_dir,
                          const std::atomic<bool>& cancelled) const {
  const fs::path source = runs_dir_ / job.run / job.completed.attempt_dir;
  if (const std::string missing = missing_output(source, job.completed.outputs); !missing.empty()) {
    throw core::Error((source / missing).string() + " is not as it was when its job finished");
  }
  std::set<fs::path> folders = {attempt_dir};
  for (const auto& [unused, output] : job.completed.outputs) {
    for (const stages::OutputFile& file : output.files) {
      const fs::path target = attempt_dir / file.path;
      if (fs::exists(target)) continue;  // a part that two outputs share
      io::create_directories_durably(target.parent_path());
      folders.insert(target.parent_path());
      link_or_copy(source / file.path, target);
      // What is digested is what is kept: the link, not the name it was made from.
      const std::string found = digest(target, cancelled);
      if (found.empty()) return false;
      if (found != file.sha256)
        throw core::Error((source / file.path).string() + " has changed since its job finished");
      if (::chmod(target.c_str(), 0444) != 0) core::fail_errno("cannot make " + target.string() + " read-only");
    }
  }
  for (const fs::path& folder : folders) io::sync_directory(folder);
  return true;
}

}  // namespace braise::journal
