// SPDX-License-Identifier: Apache-2.0
#include "runner/journal/provenance.h"

#include <sys/utsname.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "runner/journal/run_files.h"
#include "stages/api/build.h"
#include "stages/shared/io/clock.h"
#include "stages/shared/io/digest.h"

namespace braise::journal {
using nlohmann::json;
namespace {

json to_json(const Repository& repository) {
  json untracked = json::object();
  for (const auto& [name, file] : repository.untracked) {
    untracked[name] = {{"bytes", file.bytes}};
    if (!file.sha256.empty()) untracked[name]["sha256"] = file.sha256;
  }
  return {{"root", repository.root}, {"commit", repository.commit},
          {"diff", repository.diff}, {"diff_is_cut", repository.diff_is_cut},
          {"untracked", untracked},  {"untracked_is_cut", repository.untracked_is_cut}};
}

Repository repository_from_json(const json& told) {
  Repository repository;
  repository.root = told.at("root");
  repository.commit = told.at("commit");
  repository.diff = told.at("diff");
  repository.diff_is_cut = told.at("diff_is_cut");
  for (const auto& [name, file] : told.at("untracked").items()) {
    repository.untracked[name] = {file.at("bytes"), file.value("sha256", "")};
  }
  repository.untracked_is_cut = told.at("untracked_is_cut");
  return repository;
}

[[noreturn]] void fail_unreadable(const RunDirectory& run, const json::exception& error) {
  throw core::Error(run.provenance_file().string() + " is not what a run has of that name: " + error.what());
}

}  // namespace

std::string provenance_text(const Provenance& provenance, const RunFiles& files) {
  utsname system{};
  if (::uname(&system) != 0) core::fail_errno("uname failed");
  json recipe = json::array();
  for (const SourceFile& source : provenance.sources) {
    recipe.push_back({{"path", source.path}, {"sha256", source.sha256}});
  }
  json vars = json::array();
  for (const std::filesystem::path& file : provenance.overrides.vars_files) vars.push_back(file.string());
  json kept = json::object();
  for (const std::string& variable : provenance.kept_environment) {
    const std::size_t equals = variable.find('=');
    kept[variable.substr(0, equals)] = variable.substr(equals + 1);
  }
  json text = {{"provenance", 1},
               {"created", io::format_utc(io::utc_us())},
               {"command", provenance.command},
               {"working_directory", std::filesystem::current_path().string()},
               {"build", stages::build_facts()},
               {"host",
                {{"name", system.nodename},
                 {"system", system.sysname},
                 {"kernel", system.release},
                 {"machine", system.machine},
                 {"processor", provenance.processor},
                 {"cores", provenance.cores},
                 {"memory_bytes", provenance.memory_bytes}}},
               {"recipe", recipe},
               {"files",
                {{"recipe.yaml", io::sha256(files.recipe)},
                 {"resolved.yaml", io::sha256(files.resolved)},
                 {"plan.json", io::sha256(files.plan)}}},
               {"overrides", {{"set", provenance.overrides.set}, {"vars", vars}}},
               {"environment", provenance.environment},
               {"kept_environment", kept}};
  if (!provenance.gpus.empty()) text["host"]["gpus"] = provenance.gpus;
  if (provenance.repository) text["repository"] = to_json(*provenance.repository);
  if (!provenance.rerun_of.empty()) text["rerun_of"] = provenance.rerun_of;
  // File names may hold any bytes: what is not UTF-8 is replaced.
  return text.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

void take_origin(Provenance& provenance, const RunDirectory& run) try {
  const json told = read_provenance(run);
  provenance.sources.clear();
  for (const json& source : told.at("recipe")) provenance.sources.push_back({source.at("path"), source.at("sha256")});
  const json& overrides = told.at("overrides");
  provenance.overrides.set = overrides.at("set");
  provenance.overrides.vars_files.clear();
  for (const std::string file : overrides.at("vars")) provenance.overrides.vars_files.emplace_back(file);
  provenance.environment = told.at("environment");
  provenance.repository.reset();
  if (told.contains("repository")) provenance.repository = repository_from_json(told.at("repository"));
} catch (const json::exception& error) {
  fail_unreadable(run, error);
}

std::optional<std::string> edited_files(const RunDirectory& run) try {
  const json told = read_provenance(run);
  if (!told.contains("files")) return std::nullopt;
  std::string lines;
  for (const std::filesystem::path& file : {run.recipe_file(), run.resolved_file(), run.plan_file()}) {
    const std::string before = told.at("files").at(file.filename());
    const std::string now = std::filesystem::is_regular_file(file) ? io::digest_file(file).sha256 : "";
    if (now == before) continue;
    lines += "\n  " + file.string() + (now.empty() ? " is not there" : " has SHA-256 " + now) + "; it had " + before;
  }
  return lines;
} catch (const json::exception& error) {
  fail_unreadable(run, error);
}

}  // namespace braise::journal
