// SPDX-License-Identifier: Apache-2.0
#include "runner/report/differences.h"

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <vector>

#include "kernels/core/error.h"
#include "runner/journal/run_files.h"
#include "stages/api/build.h"
#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"
#include "stages/shared/yaml/parse.h"

namespace braise::report {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;

/// A value longer than this is shown by its beginning and its digest.
constexpr std::size_t kShown = 120;

std::string shown(const json* value) {
  if (value == nullptr) return "absent";
  const std::string text = value->dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() <= kShown) return text;
  std::size_t end = kShown / 2;
  while ((static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;  // not within a character
  return text.substr(0, end) + "... (" + std::to_string(text.size()) + " bytes, SHA-256 " +
         io::sha256(text).substr(0, 12) + "...)";
}

/// Adds a line for each value that differs; null: absent.
void add_differences(const std::string& path, const json* a, const json* b, std::string& lines) {
  if (a != nullptr && b != nullptr) {
    if (*a == *b && a->type() == b->type()) return;
    const auto below = [&](const auto& key, const std::string& name) {
      const auto of = [&](const json& side) { return side.contains(key) ? &side.at(key) : nullptr; };
      add_differences(path + (path.empty() ? "" : ".") + name, of(*a), of(*b), lines);
    };
    if (a->is_object() && b->is_object()) {
      std::set<std::string> keys;
      for (const json* const side : {a, b}) {
        for (const auto& [key, value] : side->items()) keys.insert(key);
      }
      for (const std::string& key : keys) below(key, key);
      return;
    }
    if (a->is_array() && b->is_array() && a->size() == b->size()) {
      for (std::size_t i = 0; i < a->size(); ++i) {
        add_differences(path + "." + std::to_string(i), &a->at(i), &b->at(i), lines);
      }
      return;
    }
  }
  lines += "  " + path + ": " + shown(a) + " -> " + shown(b) + "\n";
}

std::string differences(const json& a, const json& b) {
  std::string lines;
  add_differences("", &a, &b, lines);
  return lines;
}

json read_resolved(const journal::RunDirectory& run) {
  std::vector<yaml::ParseFault> faults;
  const std::optional<yaml::Node> node = yaml::parse(io::read_file(run.resolved_file()), run.resolved_file(), faults);
  if (!node) {
    throw core::Error(run.resolved_file().string() +
                      " cannot be read: " + (faults.empty() ? "it is empty" : faults.front().problem));
  }
  return node->to_json();
}

/// The jobs of a plan: their workers, and the digests of the files they read from outside.
json jobs_of(const journal::RunDirectory& run) {
  json jobs = json::object();
  for (const plan::Job& job : journal::read_plan(run).jobs) {
    json inputs = json::object();
    for (const stages::InputFile& input : job.spec.inputs) inputs[input.path] = input.sha256;
    jobs[job.spec.job] = {{"workers", job.spec.resources.ranks()}, {"inputs", inputs}};
  }
  return jobs;
}

/// What there is of something, over ranks and attempts: itself where it is one.
json kinds_of(const std::set<json>& values) {
  return values.size() == 1 ? *values.begin() : json(values);
}

json workers_of(const std::vector<fs::path>& attempts) {
  std::map<std::string, std::set<json>> told;
  for (const fs::path& attempt : attempts) {
    const json event = journal::started_workers(attempt).event;
    if (event.is_null()) continue;
    for (const char* const key : {"tiers", "processors"}) {
      for (const json& of_rank : event.value(key, json::array())) told[key].insert(of_rank);
    }
    if (event.contains("versions")) told["versions"].insert(event.at("versions"));
  }
  json workers = json::object();
  for (const auto& [key, values] : told) workers[key] = kinds_of(values);
  return workers;
}

}  // namespace

std::string different_recipe(const journal::RunDirectory& a, const journal::RunDirectory& b) {
  return differences(read_resolved(a), read_resolved(b)) + differences({{"jobs", jobs_of(a)}}, {{"jobs", jobs_of(b)}});
}

std::string different_provenance(const journal::RunDirectory& a, const journal::RunDirectory& b) {
  const auto facts = [](const journal::RunDirectory& run) {
    json told = journal::read_provenance(run);
    for (const char* const key : {"created", "command", "working_directory", "files", "rerun_of"}) told.erase(key);
    return told;
  };
  return differences(facts(a), facts(b));
}

std::string different_build(const journal::RunDirectory& run) {
  return differences(journal::read_provenance(run).value("build", json::object()), stages::build_facts());
}

std::string different_workers(const std::string& job_a, PastRun& a, const std::string& job_b, PastRun& b) {
  const json of_a = workers_of(a.attempts(job_a)), of_b = workers_of(b.attempts(job_b));
  if (of_a.empty() || of_b.empty()) return "";
  const std::string name = "workers of " + job_a + (job_a == job_b ? "" : " and " + job_b);
  std::string lines;
  add_differences(name, &of_a, &of_b, lines);
  return lines;
}

}  // namespace braise::report
