// SPDX-License-Identifier: Apache-2.0
#include "runner/report/status.h"

#include <catch2/catch.hpp>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/runner/report/training_lines.h"
#include "tests/support/commands.h"
#include "tests/support/support.h"

namespace braise::report {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;

/// A run with one training job, whose one attempt told the given lines.
struct Run {
  test::TemporaryFolder folder;
  journal::RunDirectory run = journal::RunDirectory::create(folder.path(), "small", {"", "", "{}", "{}"}).run;
  RunStatus status;
  fs::path attempt;

  Run(journal::JobState state, const std::string& run_state, const std::vector<json>& lines) {
    plan::Job job;
    job.spec.job = job.spec.stage = "pretrain";
    job.spec.kind = "train";
    job.parameters = json::object();
    status.plan.jobs.push_back(job);
    status.id = "small";
    status.state = run_state;
    status.counts = {{"job", 1}};
    const bool interrupted = state == journal::JobState::running && run_state != "running";
    status.states["pretrain"] = interrupted ? "interrupted" : journal::to_string(state);
    journal::JobRecord& record = status.journal.jobs["pretrain"];
    record.state = state;
    record.attempts.emplace_back();
    record.attempts.back().name = {"pretrain", 1, "aaaaaa"};
    attempt = run.path() / record.attempts.back().name.path();
    fs::create_directories(attempt);
    std::ofstream file(attempt / "metrics.jsonl");
    for (const json& line : lines) file << line.dump() << "\n";
    file << "{\"step\":9999,";
  }
  std::string row() const {
    const std::string text = status_text(status, run);
    const std::size_t begin = text.find("  pretrain");
    return text.substr(begin, text.find('\n', begin) - begin);
  }
};

TEST_CASE("the status of a running training is what it last told") {
  const Run run(journal::JobState::running, "running", {begin_line(), validation_line(1199), step_line(1200)});
  CHECK(run.row() ==
        "  pretrain  train  running  1         -     step 1200/2000, loss 1.842 (smoothed 1.871), validation 1.900, lr "
        "8.30e-04, grad norm 0.61, 41.2 k tokens/s, MFU 38 %, 812 MiB peak, 1 min 12 s left");
  const json status = status_json(run.status, run.run);
  CHECK(status.at("jobs").at(0).at("metrics").at("loss") == 1.8421);
  CHECK(status.at("jobs").at(0).at("metrics").at("validation_loss") == 1.9);
}

TEST_CASE("a training that runs no more is shown with its last step and loss, and without speed and time left") {
  const Run interrupted(journal::JobState::running, "interrupted", {begin_line(), step_line(812)});
  CHECK(interrupted.row() ==
        "  pretrain  train  interrupted  1         -     step 812/2000, loss 1.842 (smoothed 1.871), 812 MiB peak");
  CHECK(status_json(interrupted.status, interrupted.run).at("jobs").at(0).at("metrics").at("step") == 812);
  Run failed(journal::JobState::failed, "failed", {begin_line(), step_line(812)});
  failed.status.journal.jobs["pretrain"].reason = "disk full";
  CHECK(
      failed.row() ==
      "  pretrain  train  failed  1         -     disk full; step 812/2000, loss 1.842 (smoothed 1.871), 812 MiB peak");
  const Run completed(journal::JobState::completed, "completed",
                      {begin_line(), step_line(2000), validation_line(2000), end_line(2000)});
  CHECK(completed.row() ==
        "  pretrain  train  completed  1         -     step 2000/2000, loss 1.842 (smoothed 1.871), validation 1.900, "
        "812 MiB peak; validation loss 1.900, expected at most 2.000: met");
}

TEST_CASE("of a resumed training that has told of no step yet, the step it goes on from is shown") {
  json begin = begin_line();
  begin["step"] = begin["resume_step"] = 600;
  CHECK(Run(journal::JobState::stopped, "stopped", {begin}).row() ==
        "  pretrain  train  stopped  1         -     step 600/2000");
}

TEST_CASE("the last lines of a long training are found, whatever lines are cut by where reading begins") {
  std::vector<json> lines = {begin_line()};
  for (std::int64_t step = 1; step <= 2000; ++step) lines.push_back(step_line(step));
  const Run run(journal::JobState::running, "running", lines);
  REQUIRE(fs::file_size(run.attempt / "metrics.jsonl") > 200'000);
  CHECK(latest_metrics(run.attempt).at("step") == 2000);
  CHECK(latest_metrics(run.folder.path()).is_null());
}

TEST_CASE("what Slurm's accounting says of a job that squeue has forgotten is told") {
  Run run(journal::JobState::running, "interrupted", {begin_line(), step_line(812)});
  run.status.journal.jobs["pretrain"].slurm_job = "12";
  test::Commands commands;
  SECTION("there is none") {
    commands.add("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1\n");
    add_accounting(run.status);
    CHECK(run.status.queue.empty());
    CHECK(run.status.journal.warnings.empty());
  }
  SECTION("it has the job") {
    commands.add("sacct", "echo '12|NODE_FAIL|None|n1'\n");
    add_accounting(run.status);
    CHECK(run.row() ==
          "  pretrain  train  interrupted  1         -     Slurm job 12: NODE_FAIL on n1; step 812/2000, loss 1.842 "
          "(smoothed 1.871), 812 MiB peak");
    CHECK(status_json(run.status, run.run).at("jobs").at(0).at("slurm").at("state") == "NODE_FAIL");
  }
  SECTION("it is asked for nothing that the journal tells") {
    run.status.states["pretrain"] = "stopped";
    commands.add("sacct", "echo '12|NODE_FAIL|None|n1'\n");
    add_accounting(run.status);
    CHECK(run.status.queue.empty());
  }
}

TEST_CASE("stages that do not train are shown as ever") {
  CHECK(Run(journal::JobState::stopped, "stopped", {{{"step", 3}, {"steps", 8}}}).row() ==
        "  pretrain  train  stopped  1         -");
}

}  // namespace
}  // namespace braise::report
