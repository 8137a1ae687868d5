// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace braise::stages {

/// What a job may use. The keys and their meaning: schemas/resources.schema.json.
struct Resources {
  int nodes = 0;
  int workers_per_node = 0;
  int threads = 0;
  std::string device;  ///< "cpu" or "cuda": never "auto" once resolved
  std::uint64_t device_memory_bytes = 0;  ///< 0: as much as there is
  std::uint64_t host_memory_bytes = 0;
  double time_limit_s = 0;    ///< 0: none
  double hang_timeout_s = 0;  ///< 0: never
  int retries = 0;

  int ranks() const { return nodes * workers_per_node; }
  static Resources from_json(const nlohmann::json& json);
  nlohmann::json to_json() const;
};

/// A file from outside the run that a job reads.
struct InputFile {
  std::string path;  ///< absolute
  std::uint64_t bytes = 0;
  std::string sha256;
};

/// A file (or, with its parts, a set of files) that a job leaves.
struct OutputFile {
  std::string path;  ///< relative to the attempt's folder
  std::uint64_t bytes = 0;
  std::string sha256;
};

/// A finished output: its main file first, then every part that belongs to it.
struct Output {
  std::vector<OutputFile> files;

  /// One digest for the whole: of the sorted lines "<sha256> <path>".
  std::string digest() const;
  static Output from_json(const nlohmann::json& json);
  nlohmann::json to_json() const;
};

/// Everything one rank of a job needs to know: what jobs/<job>/job.yaml holds. Schema: schemas/job.schema.json.
/// Strings in `config` may begin with "${run.dir}" or "${run.scratch}": the worker puts its own place there, so that a
/// run directory can be moved. A `${stages...}` reference no longer occurs.
struct JobSpec {
  std::string job;    ///< name, unique in the run: "pretrain", or "pretrain.3" in a sweep
  std::string stage;  ///< the recipe's stage
  std::string kind;
  int kind_version = 0;
  std::string run_id;
  std::string braise_version;
  std::int64_t seed = 0;
  Resources resources;
  nlohmann::json config;  ///< the kind's own keys, every default filled in
  std::vector<InputFile> inputs;
  std::string fingerprint;  ///< equal fingerprints give equal outputs; see runner/plan/bind.h

  static JobSpec from_json(const nlohmann::json& json);
  nlohmann::json to_json() const;
};

/// Reads and checks a job.yaml. Errors: core::Error naming the file and what is wrong.
JobSpec read_job(const std::filesystem::path& path);

/// The text of a job.yaml.
std::string job_text(const JobSpec& job);

}  // namespace braise::stages
