// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <nlohmann/json.hpp>

#include "runner/cli/commands.h"
#include "runner/report/format.h"
#include "runner/report/reference.h"
#include "schemas/schemas.h"
#include "stages/api/build.h"
#include "stages/api/fault.h"
#include "stages/registry.h"

namespace braise::cli {

int schema(const std::string& name, bool reference) {
  if (reference) {
    print(report::reference_page());
    return kSuccess;
  }
  std::vector<std::string> names;
  for (const std::string& file : schemas::names()) names.push_back(file.substr(0, file.rfind(".schema.json")));
  if (name.empty()) {
    for (const std::string& known : names) print(known + "\n");
    return kSuccess;
  }
  const char* text = schemas::text(name + ".schema.json");
  if (text == nullptr) {
    const std::string near = stages::nearest(name, names);
    throw UsageError("there is no schema `" + stages::printable(name) + "`; " +
                     (near.empty() ? "`braise schema` lists them" : "did you mean `" + near + "`?"));
  }
  print(text);
  return kSuccess;
}

int kinds(bool json) {
  if (json) {
    nlohmann::json list = nlohmann::json::array();
    for (const stages::StageDescriptor* kind : stages::registry()) {
      nlohmann::json outputs = nlohmann::json::object();
      for (const stages::OutputDeclaration& output : kind->outputs) outputs[output.name] = output.description;
      list.push_back({{"kind", kind->kind},
                      {"version", kind->version},
                      {"summary", kind->summary},
                      {"reusable", kind->reusable},
                      {"devices", kind->devices},
                      {"outputs", outputs}});
    }
    print(list.dump(2) + "\n");
    return kSuccess;
  }
  report::Table table({"kind", "devices", "outputs", "what it does"});
  for (const stages::StageDescriptor* kind : stages::registry()) {
    std::string devices, outputs;
    for (const std::string& device : kind->devices) devices += (devices.empty() ? "" : ", ") + device;
    for (const stages::OutputDeclaration& output : kind->outputs)
      outputs += (outputs.empty() ? "" : ", ") + output.name;
    table.add({kind->kind, devices, outputs, kind->summary});
  }
  print(table.text() + "\n`braise schema stage.<kind>` prints a kind's keys; recipes/REFERENCE.md explains them.\n");
  return kSuccess;
}

int version(bool json) {
  const nlohmann::json& facts = stages::build_facts();
  if (json) {
    print(facts.dump(2) + "\n");
    return kSuccess;
  }
  const auto text = [&](const char* key) { return facts.at(key).get<std::string>(); };
  std::string line = "braise " + text("version") + " (commit " + text("commit") + ", " + text("build_type") + ", " +
                     text("compiler") + ", " + text("machine") + ", " + (facts.at("cuda") ? "CUDA" : "CPU only");
  if (!text("sanitizers").empty()) line += ", sanitizers " + text("sanitizers");
  print(line + ")\n");
  return kSuccess;
}

}  // namespace braise::cli
