// SPDX-License-Identifier: Apache-2.0
#include "runner/plan/bind.h"

#include <cassert>

#include "stages/shared/io/digest.h"

namespace braise::plan {
namespace {

void replace_all(std::string& text, const std::string& from, const std::string& to) {
  for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
}

}  // namespace

stages::JobSpec bind(const Job& job, const std::function<const Completed&(const std::string& job)>& completed) {
  stages::JobSpec spec = job.spec;
  // What gives the job its identity: names of places are left out, digests of what is there are put in. How the job is
  // spread (nodes, workers, threads) is no part of it: results do not depend on that.
  nlohmann::json identity = job.spec.config;
  for (const std::string& pointer : job.input_pointers) identity[nlohmann::json::json_pointer(pointer)] = nullptr;
  for (const Link& link : job.links) {
    const nlohmann::json::json_pointer pointer(link.pointer);
    const Completed& source = completed(link.job);
    const auto output = source.outputs.find(link.output);
    assert(output != source.outputs.end() && !output->second.files.empty());
    auto& bound = spec.config[pointer].get_ref<std::string&>();
    replace_all(bound, link.text, "${run.dir}/" + source.attempt_dir + "/" + output->second.files.front().path);
    auto& identified = identity[pointer].get_ref<std::string&>();
    replace_all(identified, link.text, "sha256:" + output->second.digest());
  }
  nlohmann::json inputs = nlohmann::json::array();
  for (const stages::InputFile& input : spec.inputs) inputs.push_back(input.sha256);
  spec.fingerprint = io::sha256(nlohmann::json{
      {"kind", spec.kind},
      {"kind_version", spec.kind_version},
      {"config", identity},
      {"device", spec.resources.device},
      {"seed", spec.seed},
      {"inputs", inputs}}.dump());
  return spec;
}

}  // namespace braise::plan
