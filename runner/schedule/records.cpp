// SPDX-License-Identifier: Apache-2.0
#include "runner/schedule/records.h"

#include <filesystem>

#include "stages/registry.h"
#include "stages/shared/io/file.h"

namespace braise::schedule {
using nlohmann::json;
namespace {

json to_json(const std::map<std::string, stages::Output>& outputs) {
  json object = json::object();
  for (const auto& [name, output] : outputs) object[name] = output.to_json();
  return object;
}

json number(const std::optional<int>& value) {
  return value ? json(*value) : json(nullptr);
}

}  // namespace

json event_of(const char* what, const journal::AttemptName& attempt) {
  return {{"event", what}, {"job", attempt.job}, {"attempt", attempt.number}, {"token", attempt.token}};
}

void record_started(journal::Writer& writer, const journal::AttemptName& attempt, const stages::JobSpec& spec,
                    const json& cores) {
  json event = event_of("attempt_started", attempt);
  event["fingerprint"] = spec.fingerprint;
  event["ranks"] = spec.resources.ranks();
  event["threads"] = spec.resources.threads;
  event["cores"] = cores;
  writer.append(std::move(event));
}

void record_ended(journal::Writer& writer, const journal::AttemptName& attempt, const launch::Ending& ending,
                  const Verdict& verdict) {
  json event = event_of("attempt_ended", attempt);
  event["outcome"] = journal::to_string(verdict.state);
  event["exit_code"] = number(ending.exit_code);
  event["signal"] = number(ending.signal);
  event["reason"] = verdict.reason;
  writer.append(std::move(event));
}

void record_completed(journal::Writer& writer, const journal::AttemptName& attempt, const std::string& fingerprint,
                      const plan::Completed& completed) {
  json event = event_of("job_completed", attempt);
  event["fingerprint"] = fingerprint;
  event["outputs"] = to_json(completed.outputs);
  writer.append(std::move(event));
}

void record_reused(journal::Writer& writer, const journal::AttemptName& attempt, const std::string& fingerprint,
                   const plan::Completed& completed, const journal::FinishedJob& from) {
  json event = event_of("job_reused", attempt);
  event["fingerprint"] = fingerprint;
  event["outputs"] = to_json(completed.outputs);
  event["from_run"] = from.run;
  event["from_job"] = from.job;
  writer.append(std::move(event));
}

bool is_reusable(const std::string& kind) {
  const stages::StageDescriptor* descriptor = stages::find_kind(kind);
  return descriptor != nullptr && descriptor->reusable;
}

void write_job_file(const journal::RunDirectory& run, const stages::JobSpec& spec) {
  const std::filesystem::path file = run.job_file(spec.job);
  const std::string text = stages::job_text(spec);
  io::create_directories_durably(file.parent_path());
  if (!std::filesystem::exists(file) || io::read_file(file) != text) io::write_file_durably(file, text);
}

}  // namespace braise::schedule
