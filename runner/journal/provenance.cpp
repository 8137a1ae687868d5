// SPDX-License-Identifier: Apache-2.0
#include "runner/journal/provenance.h"

#include <sys/utsname.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "stages/api/build.h"
#include "stages/shared/io/clock.h"
#include "stages/shared/io/digest.h"

namespace braise::journal {
using nlohmann::json;

std::string provenance_text(const Provenance& provenance) {
  utsname system{};
  if (::uname(&system) != 0) core::fail_errno("uname failed");
  json recipe = json::array();
  for (const recipe::Source& source : provenance.sources) {
    recipe.push_back({{"path", source.path}, {"sha256", io::sha256(source.text)}});
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
               {"overrides", {{"set", provenance.overrides.set}, {"vars", vars}}},
               {"environment", provenance.environment},
               {"kept_environment", kept}};
  if (provenance.repository) {
    text["repository"] = {{"root", provenance.repository->root},
                          {"commit", provenance.repository->commit},
                          {"diff", provenance.repository->diff},
                          {"diff_is_cut", provenance.repository->diff_is_cut}};
  }
  if (!provenance.rerun_of.empty()) text["rerun_of"] = provenance.rerun_of;
  // File names may hold any bytes: what is not UTF-8 is replaced.
  return text.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace braise::journal
