// SPDX-License-Identifier: Apache-2.0
#include "runner/launch/slurm/submission.h"

#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "runner/launch/slurm/script.h"
#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"
#include "stages/shared/yaml/parse.h"

namespace braise::launch::slurm {
namespace fs = std::filesystem;
using nlohmann::json;

std::string Submission::comment(const std::string& group) const {
  return comment_of(run_.id(), number_, group);
}

void Submission::write_site(const recipe::Site& site) const {
  io::create_directories_durably(folder());
  io::write_file_durably(folder() / "site.yaml", yaml::to_text(site.resolved));
}

void Submission::write_group(const Group& group, const recipe::Site& site, const std::string& recipe,
                             const fs::path& program) const {
  json jobs = json::object();
  for (const auto& [index, job] : group.jobs) jobs[std::to_string(index)] = job;
  io::write_file_durably(folder() / (group.name + ".json"), json{{"jobs", jobs}}.dump() + "\n");
  io::write_file_durably(script(group.name),
                         script_text(group, site, {program, run_.path(), recipe, comment(group.name), number_}));
}

recipe::Site Submission::read_site() const {
  stages::Faults faults;
  std::optional<recipe::Site> site = recipe::load_site(folder() / "site.yaml", faults);
  if (!site) throw core::Error(stages::to_string(faults));
  return std::move(*site);
}

std::map<int, std::string> Submission::read_jobs(const std::string& group) const {
  std::map<int, std::string> jobs;
  const fs::path file = folder() / (group + ".json");
  try {
    const json parsed = json::parse(io::read_file(file));
    for (const auto& [index, job] : parsed.at("jobs").items()) jobs[std::stoi(index)] = job.get<std::string>();
  } catch (const std::logic_error& error) {
    throw core::Error(file.string() + " is damaged: " + error.what());
  } catch (const json::exception& error) {
    throw core::Error(file.string() + " is damaged: " + error.what());
  }
  return jobs;
}

std::string Submission::settle_id(const std::string& group, const std::string& id) const {
  const fs::path file = folder() / (group + ".id");
  const fs::path mine = file.string() + "." + io::random_hex(6);
  io::write_file_durably(mine, id + "\n");
  const int linked = ::link(mine.c_str(), file.c_str());
  const int fault = errno;
  std::error_code ignored;
  fs::remove(mine, ignored);
  if (linked == 0) {
    io::sync_directory(folder());
    return id;
  }
  if (fault != EEXIST) {
    errno = fault;
    core::fail_errno("cannot create " + file.string());
  }
  const std::string text = io::read_file(file);
  return text.substr(0, text.find('\n'));
}

}  // namespace braise::launch::slurm
