// SPDX-License-Identifier: Apache-2.0
#include "runner/cli/common.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "runner/plan/inputs.h"

namespace braise::cli {

void print(const std::string& text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    core::fail_errno("cannot write to standard output");
  }
}

void print_faults(const stages::Faults& faults, bool json) {
  if (!json) {
    std::fputs(stages::to_string(faults).c_str(), stderr);
    return;
  }
  nlohmann::json list = nlohmann::json::array();
  for (const stages::Fault& fault : faults) {
    list.push_back({{"file", fault.at.file ? *fault.at.file : ""},
                    {"line", fault.at.line},
                    {"column", fault.at.column},
                    {"path", fault.path},
                    {"problem", fault.problem},
                    {"remedy", fault.remedy}});
  }
  print(nlohmann::json{{"faults", list}}.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

Planned plan_recipe(const RecipeArguments& arguments, bool json) {
  stages::Faults faults;
  std::optional<recipe::Document> document = recipe::load(arguments.recipe, arguments.overrides, faults);
  std::optional<plan::Made> made;
  if (document) made = plan::make_plan(*document, plan::file_system_inputs(), faults);
  if (!faults.empty() || !made) {
    print_faults(faults, json);
    throw UsageError("");
  }
  return {std::move(*document), std::move(*made)};
}

journal::RunDirectory find_run(const std::string& run, const std::filesystem::path& runs) {
  try {
    journal::sweep(runs);
    return journal::RunDirectory::find(runs, run);
  } catch (const core::Error& error) {
    throw UsageError(error.what());
  }
}

std::filesystem::path worker_program() {
  const std::filesystem::path worker = std::filesystem::read_symlink("/proc/self/exe").parent_path() / "braise-worker";
  if (!std::filesystem::exists(worker))
    throw core::Error("there is no program " + worker.string() + "; build braise-worker");
  return worker;
}

}  // namespace braise::cli
