// SPDX-License-Identifier: Apache-2.0
#include "runner/launch/slurm/script.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "stages/api/fault.h"

namespace braise::launch::slurm {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;

bool is_plain(unsigned char c) {
  return c >= 0x20 && c != 0x7f;
}

/// "1-02:00:00"; Slurm counts whole minutes, and rounds up.
std::string time_text(double seconds) {
  const auto minutes = static_cast<std::int64_t>(std::ceil(seconds / 60));
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%lld-%02lld:%02lld:00", static_cast<long long>(minutes / 1440),
                static_cast<long long>(minutes / 60 % 24), static_cast<long long>(minutes % 60));
  return text.data();
}

/// "0-3,7%2".
std::string array_text(const Group& group) {
  std::string text;
  for (auto job = group.jobs.begin(); job != group.jobs.end();) {
    int last = job->first;
    auto next = std::next(job);
    while (next != group.jobs.end() && next->first == last + 1) last = (next++)->first;
    text += (text.empty() ? "" : ",") + std::to_string(job->first);
    if (last > job->first) text += "-" + std::to_string(last);
    job = next;
  }
  return text + (group.slurm.max_running > 0 ? "%" + std::to_string(group.slurm.max_running) : "");
}

/// The main memory of a node's workers in MiB: on a CPU that of their device too.
std::uint64_t node_memory_mib(const stages::Resources& resources) {
  const std::uint64_t device = resources.device == "cpu" ? resources.device_memory_bytes : 0;
  const std::uint64_t node =
      static_cast<std::uint64_t>(resources.workers_per_node) * (resources.host_memory_bytes + device);
  return (node + kMiB - 1) / kMiB;
}

/// Relative to the run's folder, where jobs are submitted from.
std::string output_pattern(const Group& group, int submission) {
  return "slurm/" + std::to_string(submission) + (group.array ? "/%x_%A_%a.txt" : "/%x_%j.txt");
}

class Options {
 public:
  void add(const std::string& option) {
    const bool blank = option.find(' ') != std::string::npos;
    text_ += "#SBATCH " + (blank ? "\"" + option + "\"" : option) + "\n";
  }
  void add(const char* name, const std::string& value) {
    if (!value.empty()) add("--" + std::string(name) + "=" + value);
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

}  // namespace

std::string quote(const std::string& text) {
  const bool plain =
      std::all_of(text.begin(), text.end(), [](char c) { return is_plain(static_cast<unsigned char>(c)); });
  std::string quoted = plain ? "'" : "$'";
  for (const char c : text) {
    if (plain) {
      quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
    } else if (c == '\'' || c == '\\') {
      quoted += std::string("\\") + c;
    } else if (is_plain(static_cast<unsigned char>(c))) {
      quoted += c;
    } else {
      std::array<char, 8> octal{};
      std::snprintf(octal.data(), octal.size(), "\\%03o", static_cast<unsigned>(static_cast<unsigned char>(c)));
      quoted += octal.data();
    }
  }
  return quoted + "'";
}

std::string comment_prefix(const std::string& run_id) {
  std::string run = run_id;
  for (char& c : run) {
    const bool safe =
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
    if (!safe) c = '_';
  }
  return kCommentStart + run + ":";
}

std::string comment_of(const std::string& run_id, int submission, const std::string& group) {
  return comment_prefix(run_id) + std::to_string(submission) + ":" + group;
}

std::string output_option(const Group& group, const std::filesystem::path& run_dir, int submission) {
  const std::string folder = run_dir.string();
  const bool escapes = folder.find('\\') != std::string::npos;
  if (!escapes && folder.find('%') == std::string::npos) return "";
  std::string path;
  for (const char c : folder) path += (escapes ? c == '\\' : c == '%') ? std::string(2, c) : std::string(1, c);
  return path + "/" +
         (escapes ? "slurm/" + std::to_string(submission) + "/" + group.name + ".txt"
                  : output_pattern(group, submission));
}

std::string script_text(const Group& group, const recipe::Site& site, const ScriptFacts& facts) {
  const stages::Resources& resources = group.resources;
  const recipe::Site::Place& place = site.place(resources.device);
  const std::string number = std::to_string(facts.submission);
  Options options;
  options.add("job-name", facts.recipe + "." + group.name);
  options.add("comment", facts.comment);
  options.add("output", output_pattern(group, facts.submission));
  options.add("open-mode", "append");
  if (group.array) options.add("array", array_text(group));
  options.add("nodes", std::to_string(resources.nodes));
  options.add("ntasks-per-node", std::to_string(resources.workers_per_node));
  options.add("cpus-per-task", std::to_string(resources.threads));
  if (site.memory) options.add("mem", std::to_string(node_memory_mib(resources)) + "M");
  if (resources.device == "cuda" && site.gpus != "none") {
    const std::string count = std::to_string(resources.workers_per_node);
    options.add(site.gpus.c_str(), site.gpus == "gres" ? "gpu:" + count : count);
  }
  if (group.slurm.time_s > 0) {
    options.add("time", time_text(group.slurm.time_s));
    const double grace = std::min(group.slurm.grace_s, group.slurm.time_s / 2);
    options.add("signal", "B:USR1@" + std::to_string(static_cast<int>(std::ceil(grace))));
  } else {
    options.add("signal", "B:USR1@" + std::to_string(static_cast<int>(std::ceil(group.slurm.grace_s))));
  }
  options.add("--requeue");
  if (group.slurm.exclusive) options.add("--exclusive");
  options.add("account", place.account);
  options.add("partition", place.partition);
  options.add("qos", place.qos);
  options.add("reservation", place.reservation);
  options.add("constraint", place.constraint);
  options.add("exclude", place.exclude);
  options.add("mail-type", site.mail_events);
  options.add("mail-user", site.mail_user);
  for (const std::string& option : site.sbatch) options.add(option);

  std::string text = "#!/bin/bash\n" + options.text() + "\n";
  text += "# Stage jobs of " + stages::printable(facts.run_dir.string(), 400) + ":\n";
  constexpr std::size_t kShown = 10;
  std::size_t shown = 0;
  for (const auto& [index, job] : group.jobs) {
    if (shown++ == kShown) {
      text += "#   and " + std::to_string(group.jobs.size() - kShown) + " more\n";
      break;
    }
    text += "#   " + (group.array ? std::to_string(index) + ": " : "") + job + "\n";
  }
  for (const std::string& line : site.setup) text += line + "\n";
  return text + "exec " + quote(facts.program.string()) + " supervise " + quote(facts.run_dir.string()) + " " + number +
         " " + quote(group.name) + "\n";
}

}  // namespace braise::launch::slurm
