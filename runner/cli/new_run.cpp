// SPDX-License-Identifier: Apache-2.0
#include "runner/cli/new_run.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "runner/cli/repository.h"
#include "runner/journal/provenance.h"
#include "runner/launch/environment.h"
#include "runner/launch/machine.h"
#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"
#include "stages/shared/io/processor.h"
#include "stages/shared/yaml/parse.h"

namespace braise::cli {
namespace fs = std::filesystem;

std::vector<std::string> own_command() {
  std::vector<std::string> words;
  const std::string text = io::read_file("/proc/self/cmdline");
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\0', begin), text.size());
    words.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return words;
}

journal::Provenance own_provenance() {
  const launch::Machine machine = launch::this_machine();
  journal::Provenance provenance;
  provenance.command = own_command();
  provenance.cores = static_cast<int>(machine.cores.size());
  provenance.memory_bytes = machine.memory_bytes;
  provenance.kept_environment = launch::kept_environment();
  provenance.processor = io::processor_model();
  provenance.gpus = launch::gpu_models();
  return provenance;
}

journal::CreatedRun create_run(const fs::path& runs, const std::string& name, journal::RunFiles files,
                               const journal::Provenance& provenance) {
  fs::path there = fs::absolute(runs);
  while (!fs::exists(there)) there = there.parent_path();
  if (!fs::is_directory(there)) {
    throw UsageError(there.string() + " is no folder, so that runs cannot be in " + runs.string() +
                     "; choose another folder with --runs");
  }
  files.provenance = journal::provenance_text(provenance, files);
  return journal::RunDirectory::create(runs, name, files);
}

journal::CreatedRun create_run(const RecipeArguments& recipe, const Planned& planned, const fs::path& runs) {
  journal::Provenance provenance = own_provenance();
  for (const recipe::Source& source : planned.document.sources) {
    provenance.sources.push_back({source.path, io::sha256(source.text)});
  }
  provenance.overrides = recipe.overrides;
  provenance.environment = planned.made.first.environment;
  provenance.repository = repository_of(recipe.recipe, runs);
  return create_run(runs, planned.made.plan.recipe_name,
                    {planned.document.sources.front().text, yaml::to_text(planned.made.first.resolved),
                     planned.made.plan.to_json().dump(1) + "\n", ""},
                    provenance);
}

void refuse_edited(const journal::RunDirectory& run) {
  std::optional<std::string> edited;
  try {
    edited = journal::edited_files(run);
  } catch (const core::Error& error) {
    throw UsageError(error.what());
  }
  if (!edited) {
    std::fprintf(stderr, "%s was made by an earlier build, so whether its recipe and plan were edited cannot be told\n",
                 run.id().c_str());
  } else if (!edited->empty()) {
    throw UsageError("files of " + run.id() + " were changed after it was made:" + *edited +
                     "\nput them back as they were, or make a new run of the recipe with `braise run`");
  }
}

journal::RunLock take_run(const journal::RunDirectory& run) {
  try {
    return run.lock();
  } catch (const core::Error& error) {
    throw UsageError(error.what());
  }
}

TellsFolder::~TellsFolder() {
  std::printf("%s\n", path_.c_str());
  std::fflush(stdout);
}

}  // namespace braise::cli
