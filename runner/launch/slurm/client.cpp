// SPDX-License-Identifier: Apache-2.0
#include "runner/launch/slurm/client.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <sstream>
#include <thread>

#include "kernels/core/error.h"
#include "runner/launch/command.h"
#include "runner/launch/environment.h"
#include "stages/api/fault.h"

namespace braise::launch::slurm {
namespace fs = std::filesystem;
using namespace std::chrono_literals;
namespace {
using Clock = std::chrono::steady_clock;

/// Pauses between tries: from the first, doubling, to the last. A busy controller is not to be pressed.
constexpr auto kFirstPause = 500ms;
constexpr auto kLastPause = 30s;

/// Longer than any command of Slurm takes to give up by itself.
constexpr auto kCommandPatience = 120s;

/// How many ids a command line is given at most.
constexpr std::size_t kIdsAtOnce = 500;

std::vector<std::string> split(const std::string& text, char by) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, by);) parts.push_back(part);
  return parts;
}

std::string first_line(const std::string& text) {
  return stages::printable(text.substr(0, text.find('\n')), 400);
}

bool is_job_number(const std::string& text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
}

/// A job of an array or the array, by any of their ids.
std::string array_of(const std::string& id) {
  return id.substr(0, id.find('_'));
}

std::vector<std::vector<std::string>> in_portions(const std::vector<std::string>& ids) {
  std::vector<std::vector<std::string>> portions;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (i % kIdsAtOnce == 0) portions.emplace_back();
    portions.back().push_back(ids[i]);
  }
  return portions;
}

}  // namespace

bool QueueEntry::is_alive() const {
  constexpr std::array<const char*, 11> kAlive = {"PENDING",     "RUNNING",      "SUSPENDED", "COMPLETING",
                                                  "CONFIGURING", "REQUEUED",     "RESIZING",  "SIGNALING",
                                                  "STAGE_OUT",   "REQUEUE_HOLD", "STOPPED"};
  return std::find(kAlive.begin(), kAlive.end(), state) != kAlive.end();
}

bool is_refusal(const std::string& message) {
  constexpr const char* kRefusals[] = {"invalid",
                                       "not available",
                                       "denied",
                                       "not permitted",
                                       "unrecognized option",
                                       "violates",
                                       "can not be satisfied",
                                       "cannot be satisfied",
                                       "more processors requested",
                                       "dependency problem",
                                       "dos line breaks",
                                       "not supported",
                                       "duplicate job id",
                                       "already finished",
                                       "disabled",
                                       "unable to open",
                                       "must be"};
  std::string lower = message;
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  return std::any_of(std::begin(kRefusals), std::end(kRefusals),
                     [&](const char* words) { return lower.find(words) != std::string::npos; });
}

std::vector<QueueEntry> parse_accounting(const std::string& text) {
  std::vector<QueueEntry> entries;
  for (const std::string& line : split(text, '\n')) {
    const std::vector<std::string> fields = split(line + "|", '|');
    // "12.batch" is a step; "12_[3-5%2]" are the jobs of an array that have not begun.
    if (fields.size() < 4 || fields[0].find_first_not_of("0123456789_") != std::string::npos) continue;
    QueueEntry entry{fields[0], fields[1], fields[2], fields[3], ""};
    entry.state = entry.state.substr(0, entry.state.find(' '));  // "CANCELLED by 1000"
    if (entry.nodes == "None assigned") entry.nodes.clear();
    entries.push_back(std::move(entry));
  }
  return entries;
}

std::string Client::ask(const std::string& program, const std::vector<std::string>& arguments, const fs::path& folder,
                        const std::function<bool()>& done_already, const std::vector<std::string>& variables) const {
  const fs::path file = find_on_path(program);
  if (file.empty()) throw core::Error("there is no " + program + " on PATH; is this a machine of a Slurm cluster?");
  std::vector<std::string> environment = kept_environment();
  environment.insert(environment.end(), variables.begin(), variables.end());
  const Clock::time_point give_up = Clock::now() + patience;
  std::chrono::milliseconds pause = kFirstPause;
  for (bool again = false;; again = true) {
    if (again && done_already && done_already()) return "";
    const CommandResult result = run_command(file, arguments, environment, folder, kCommandPatience);
    // With --quiet, scancel ends badly and without a word where a job has ended meanwhile.
    if (result.status == 0 || (program == "scancel" && result.err.empty())) return result.out;
    const std::string why =
        program + ": " + (result.err.empty() ? "exit status " + std::to_string(result.status) : first_line(result.err));
    if (is_refusal(result.err) || Clock::now() + pause > give_up) throw core::Error(why);
    if (!again) on_wait(why);
    std::this_thread::sleep_for(pause);
    pause = std::min<std::chrono::milliseconds>(pause * 2, kLastPause);
  }
}

std::string Client::submit(const fs::path& folder, const fs::path& script, const std::string& comment,
                           const std::string& dependency, const std::string& output) const {
  std::vector<std::string> arguments = {"--parsable"};
  if (!dependency.empty()) {
    arguments.push_back("--dependency=" + dependency);
    arguments.emplace_back("--kill-on-invalid-dep=yes");
  }
  if (!output.empty()) arguments.push_back("--output=" + output);
  arguments.push_back(script.string());
  std::string found;
  const std::string answer = ask("sbatch", arguments, folder, [&] {
    // The answer may have got lost, and the job may be there.
    for (const QueueEntry& entry : queue(comment)) {
      if (entry.comment == comment) found = array_of(entry.id);
    }
    return !found.empty();
  });
  if (!found.empty()) return found;
  const std::string number = split(split(answer + "\n", '\n').front() + ";", ';').front();  // "12;cluster"
  if (!is_job_number(number)) throw core::Error("sbatch answered \"" + first_line(answer) + "\", not a job's number");
  return number;
}

std::vector<QueueEntry> Client::queue(const std::string& prefix) const {
  const std::string text = ask("squeue", {"--noheader", "--array", "--states=all",
                                          "--user=" + std::to_string(::getuid()), "--format=%i|%T|%r|%N|%k"});
  std::vector<QueueEntry> entries;
  for (const std::string& line : split(text, '\n')) {
    const std::vector<std::string> fields = split(line + "|", '|');
    if (fields.size() < 5) continue;
    QueueEntry entry{fields[0], fields[1], fields[2], fields[3], fields[4]};
    if (entry.comment.starts_with(prefix)) entries.push_back(std::move(entry));
  }
  return entries;
}

std::vector<QueueEntry> Client::accounting(const std::vector<std::string>& ids) const {
  std::vector<QueueEntry> entries;
  if (find_on_path("sacct").empty()) return entries;
  for (const std::vector<std::string>& portion : in_portions(ids)) {
    std::string list;
    for (const std::string& id : portion) list += (list.empty() ? "" : ",") + id;
    try {
      const std::string text = ask("sacct", {"--parsable2", "--noheader", "--allocations",
                                             "--format=JobID,State,Reason,NodeList", "--jobs=" + list});
      for (QueueEntry& entry : parse_accounting(text)) entries.push_back(std::move(entry));
    } catch (const core::Error& error) {
      // Most clusters without slurmdbd say that accounting is disabled.
      if (is_refusal(error.what())) return entries;
      throw;
    }
  }
  return entries;
}

void Client::cancel(const std::vector<std::string>& ids, bool pending_only) const {
  for (const std::vector<std::string>& portion : in_portions(ids)) {
    std::vector<std::string> arguments = {"--quiet"};
    if (pending_only) arguments.emplace_back("--state=PENDING");
    arguments.insert(arguments.end(), portion.begin(), portion.end());
    ask("scancel", arguments);
  }
}

void Client::signal(const std::vector<std::string>& ids, const std::string& signal) const {
  for (const std::vector<std::string>& portion : in_portions(ids)) {
    std::vector<std::string> arguments = {"--quiet", "--batch", "--signal=" + signal};
    arguments.insert(arguments.end(), portion.begin(), portion.end());
    ask("scancel", arguments);
  }
}

void Client::requeue(const std::string& id) const {
  ask("scontrol", {"requeue", id});
}

void Client::exclude(const std::string& id, const std::string& nodes) const {
  ask("scontrol", {"update", "JobId=" + id, "ExcNodeList=" + nodes});
}

std::vector<std::string> Client::node_names(const std::string& list) const {
  if (list.empty()) return {};
  return split(ask("scontrol", {"show", "hostnames", list}), '\n');
}

std::optional<std::int64_t> Client::ends_us(const std::string& id) const {
  // Seconds since 1970, rather than local time without its zone.
  const std::string answer =
      ask("squeue", {"--noheader", "--jobs=" + id, "--format=%e"}, {}, {}, {"SLURM_TIME_FORMAT=%s"});
  std::int64_t seconds = 0;
  const auto [end, fault] = std::from_chars(answer.data(), answer.data() + answer.size(), seconds);
  if (fault != std::errc() || seconds <= 0) return std::nullopt;  // "N/A"
  return seconds * 1'000'000;
}

int Client::max_array_size() const {
  std::istringstream lines(ask("scontrol", {"show", "config"}));
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("MaxArraySize")) continue;
    const std::size_t equals = line.find('=');
    int size = 0;
    const std::string digits = equals == std::string::npos ? "" : line.substr(line.find_first_not_of(" =", equals));
    if (std::from_chars(digits.data(), digits.data() + digits.size(), size).ec == std::errc() && size > 0) return size;
  }
  return 1000;  // a cluster that does not tell has arrays of the usual size
}

}  // namespace braise::launch::slurm
