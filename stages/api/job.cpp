// SPDX-License-Identifier: Apache-2.0
#include "stages/api/job.h"

#include <algorithm>

#include "kernels/core/error.h"
#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"
#include "stages/shared/yaml/parse.h"

namespace braise::stages {
namespace {

constexpr int kJobFormat = 1;

}  // namespace

Resources Resources::from_json(const nlohmann::json& json) {
  Resources resources;
  resources.nodes = json.at("nodes");
  resources.workers_per_node = json.at("workers_per_node");
  resources.threads = json.at("threads");
  resources.device = json.at("device");
  resources.device_memory_bytes = json.at("device_memory");
  resources.host_memory_bytes = json.at("host_memory");
  resources.time_limit_s = json.at("time_limit");
  resources.hang_timeout_s = json.at("hang_timeout");
  resources.retries = json.at("retries");
  return resources;
}

nlohmann::json Resources::to_json() const {
  return {{"nodes", nodes},
          {"workers_per_node", workers_per_node},
          {"threads", threads},
          {"device", device},
          {"device_memory", device_memory_bytes},
          {"host_memory", host_memory_bytes},
          {"time_limit", time_limit_s},
          {"hang_timeout", hang_timeout_s},
          {"retries", retries}};
}

std::string Output::digest() const {
  std::vector<std::string> lines;
  for (const OutputFile& file : files) lines.push_back(file.sha256 + " " + file.path + "\n");
  std::sort(lines.begin(), lines.end());
  io::Sha256 digest;
  for (const std::string& line : lines) digest.update(line);
  return digest.finish();
}

Output Output::from_json(const nlohmann::json& json) {
  Output output;
  for (const nlohmann::json& file : json.at("files")) {
    output.files.push_back({file.at("path"), file.at("bytes"), file.at("sha256")});
  }
  return output;
}

nlohmann::json Output::to_json() const {
  nlohmann::json list = nlohmann::json::array();
  for (const OutputFile& file : files) {
    list.push_back({{"path", file.path}, {"bytes", file.bytes}, {"sha256", file.sha256}});
  }
  return {{"files", list}};
}

JobSpec JobSpec::from_json(const nlohmann::json& json) {
  JobSpec job;
  job.job = json.at("name");
  job.stage = json.at("stage");
  job.kind = json.at("kind");
  job.kind_version = json.at("kind_version");
  job.run_id = json.at("run");
  job.braise_version = json.at("braise");
  job.seed = json.at("seed");
  job.resources = Resources::from_json(json.at("resources"));
  job.config = json.at("config");
  for (const nlohmann::json& input : json.at("inputs")) {
    job.inputs.push_back({input.at("path"), input.at("bytes"), input.at("sha256")});
  }
  job.fingerprint = json.at("fingerprint");
  return job;
}

nlohmann::json JobSpec::to_json() const {
  nlohmann::json list = nlohmann::json::array();
  for (const InputFile& input : inputs) {
    list.push_back({{"path", input.path}, {"bytes", input.bytes}, {"sha256", input.sha256}});
  }
  return {{"job", kJobFormat},
          {"name", job},
          {"stage", stage},
          {"kind", kind},
          {"kind_version", kind_version},
          {"run", run_id},
          {"braise", braise_version},
          {"seed", seed},
          {"resources", resources.to_json()},
          {"config", config},
          {"inputs", std::move(list)},
          {"fingerprint", fingerprint}};
}

JobSpec read_job(const std::filesystem::path& path) {
  std::vector<yaml::ParseFault> faults;
  const std::optional<yaml::Node> root = yaml::parse(io::read_file(path), path.string(), faults);
  if (!root) throw core::Error(path.string() + " is not a job file: " + faults.front().problem);
  try {
    const nlohmann::json json = root->to_json();
    if (json.at("job") != kJobFormat) {
      throw core::Error(path.string() + ": job format " + json.at("job").dump() + " is not the one this build reads (" +
                        std::to_string(kJobFormat) + ")");
    }
    return JobSpec::from_json(json);
  } catch (const nlohmann::json::exception& error) {
    throw core::Error(path.string() + " is not a job file: " + error.what());
  }
}

std::string job_text(const JobSpec& job) {
  return yaml::to_text(job.to_json());
}

}  // namespace braise::stages
