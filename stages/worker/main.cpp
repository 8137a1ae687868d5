// SPDX-License-Identifier: Apache-2.0
// braise-worker: one rank of one job. Started by mpirun or srun, which a runner or a batch script calls. And, as
// `braise-worker tool ...`, the programs that read and write what jobs leave.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <string_view>

#include "kernels/core/error.h"
#include "stages/registry.h"
#include "stages/shared/io/clock.h"
#include "stages/tools/tools.h"
#include "stages/worker/attempt.h"
#include "stages/worker/session.h"
#include "stages/worker/signals.h"
#include "stages/worker/versions.h"

namespace {

constexpr int kBadInput = 2;
constexpr char kTimeForm[] = "2026-01-31T12:00:00.000000Z";

/// Refuses a job that another build was meant to do.
void check_job(const braise::stages::JobSpec& job, const std::string& path) {
  const auto refuse = [&](const std::string& why) { throw braise::core::Error(path + ": " + why); };
  const braise::stages::StageDescriptor* kind = braise::stages::find_kind(job.kind);
  if (kind == nullptr) refuse("this build has no stage kind '" + job.kind + "'");
  if (kind->version != job.kind_version) {
    refuse("the job was planned for version " + std::to_string(job.kind_version) + " of kind " + job.kind +
           ", this build has version " + std::to_string(kind->version) + "; plan the run again");
  }
  const auto& devices = kind->devices;
  if (std::find(devices.begin(), devices.end(), job.resources.device) == devices.end()) {
    refuse("kind " + job.kind + " does not run on device '" + job.resources.device + "'");
  }
}

}  // namespace

int main(int argc, char** argv) {
  using namespace braise;
  if (argc > 1 && std::string_view(argv[1]) == "tool") return tools::main(argc - 1, argv + 1);
  std::string job_file, attempt_dir, ends_at, scratch;
  try {
    worker::die_with_parent();
    worker::catch_requests();

    CLI::App app("One rank of one job of a Braise run. Started by `braise run`; see stages/README.md.",
                 "braise-worker");
    app.add_option("job", job_file, "<run>/jobs/<job>/job.yaml")->required();
    app.add_option("--attempt", attempt_dir, "<run>/jobs/<job>/attempts/<number>-<token>, an existing folder")
        ->required();
    app.add_option("--ends-at", ends_at, std::string("When the attempt's time is over, in UTC: ") + kTimeForm);
    app.add_option("--scratch", scratch, "Folder on each node for scratch; $NAME is a variable of its environment");
    app.set_version_flag("--version", worker::versions().dump());
    try {
      app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
      return app.exit(error) == 0 ? 0 : kBadInput;
    }

    const stages::JobSpec job = stages::read_job(job_file);
    check_job(job, job_file);
    worker::Attempt attempt = worker::attempt_at(job_file, attempt_dir, job.job);
    if (!ends_at.empty()) {
      attempt.ends_us = io::parse_utc(ends_at);
      if (*attempt.ends_us < 0) throw core::Error("--ends-at: '" + ends_at + "' is no time of the form " + kTimeForm);
    }
    if (!scratch.empty()) worker::use_node_scratch(attempt, scratch, job.job);
    return worker::run_rank(job, attempt);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "braise-worker: %s\n", error.what());
    return kBadInput;
  }
}
