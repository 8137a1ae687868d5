// SPDX-License-Identifier: Apache-2.0
#include "runner/recipe/site.h"

#include <cstdlib>

#include "runner/recipe/place.h"
#include "runner/recipe/schema.h"
#include "runner/recipe/source.h"
#include "runner/recipe/walk.h"
#include "schemas/schemas.h"
#include "stages/shared/yaml/parse.h"

namespace braise::recipe {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;

const Schema& site_schema() {
  static const Schema& schema = compile_schema(schemas::schema("site.schema.json"), "site.schema.json");
  return schema;
}

Site::Place place_of(const json& object, const Site::Place& otherwise) {
  const auto value = [&](const char* key, const std::string& general) {
    const std::string own = object.at(key);
    return own.empty() ? general : own;
  };
  return {value("account", otherwise.account),
          value("partition", otherwise.partition),
          value("qos", otherwise.qos),
          value("reservation", otherwise.reservation),
          value("constraint", otherwise.constraint),
          value("exclude", otherwise.exclude)};
}

Site site_of(json object, std::string source) {
  Site site;
  site.cpu = place_of(object, {});
  site.cuda = place_of(object.at("cuda"), site.cpu);
  site.gpus = object.at("gpus");
  site.memory = object.at("memory");
  site.mail_user = object.at("mail").at("user");
  site.mail_events = object.at("mail").at("events");
  site.scratch = object.at("scratch");
  site.preflight = object.at("preflight");
  site.exclude_failed = object.at("exclude_failed");
  site.environment = object.at("environment");
  site.setup = object.at("setup");
  site.teardown = object.at("teardown");
  site.sbatch = object.at("sbatch");
  site.srun = object.at("srun");
  site.launcher = object.at("mpi").at("launcher");
  site.mpi_kind = object.at("mpi").at("kind");
  site.container_image = object.at("container").at("image");
  site.container_runtime = object.at("container").at("runtime");
  site.container_bind = object.at("container").at("bind");
  site.source = std::move(source);
  site.resolved = std::move(object);
  return site;
}

}  // namespace

std::optional<Site> load_site(const fs::path& path, stages::Faults& faults) {
  const yaml::Mark whole{std::make_shared<const std::string>(path.string()), 0, 0};
  const SourceText source = read_source(path, kMaxSourceBytes);
  if (!source.text) {
    faults.push_back({whole, "", source.problem, source.remedy});
    return std::nullopt;
  }
  const std::size_t faults_before = faults.size();
  std::vector<yaml::ParseFault> parse_faults;
  const std::optional<yaml::Node> root = yaml::parse(*source.text, path.string(), parse_faults);
  for (yaml::ParseFault& fault : parse_faults) {
    faults.push_back({std::move(fault.at), "", std::move(fault.problem), std::move(fault.remedy)});
  }
  if (!root) return std::nullopt;
  Walker walker(nullptr, faults);
  walker.plain_text = true;
  json object = walker.walk(site_schema(), *root, Place());
  if (faults.size() > faults_before) return std::nullopt;
  return site_of(std::move(object), path.string());
}

fs::path user_site_file() {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value == nullptr ? "" : value);
  };
  const std::string configuration = variable("XDG_CONFIG_HOME"), home = variable("HOME");
  fs::path folder = configuration;
  if (configuration.empty() && !home.empty()) folder = fs::path(home) / ".config";
  if (folder.empty()) return {};
  std::error_code ignored;
  const fs::path file = folder / "braise" / "site.yaml";
  return fs::exists(file, ignored) ? file : fs::path();
}

Site default_site() {
  return site_of(complete_default(site_schema(), json{{"site", 1}}), "");
}

}  // namespace braise::recipe
