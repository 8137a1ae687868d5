// SPDX-License-Identifier: Apache-2.0
#include "stages/worker/session.h"

#include <mpi.h>
#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "kernels/comm/communicator.h"
#include "kernels/core/error.h"
#include "kernels/linear/tier.h"
#include "stages/registry.h"
#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"
#include "stages/shared/io/host.h"
#include "stages/shared/io/processor.h"
#include "stages/worker/agreement.h"
#include "stages/worker/context.h"
#include "stages/worker/failure.h"
#include "stages/worker/heartbeat_thread.h"
#include "stages/worker/job_journal.h"
#include "stages/worker/outputs.h"
#include "stages/worker/rank_log.h"
#include "stages/worker/stage_table.h"
#include "stages/worker/tier.h"
#include "stages/worker/versions.h"

namespace braise::worker {
namespace {

constexpr int kThreadLevel = MPI_THREAD_MULTIPLE;

const char* name_of_level(int level) {
  switch (level) {
    case MPI_THREAD_SINGLE:
      return "MPI_THREAD_SINGLE";
    case MPI_THREAD_FUNNELED:
      return "MPI_THREAD_FUNNELED";
    case MPI_THREAD_SERIALIZED:
      return "MPI_THREAD_SERIALIZED";
    default:
      return "MPI_THREAD_MULTIPLE";
  }
}

/// One rank between MPI_Init and MPI_Finalize. Its parts are members so that a failure can be told wherever it happens.
class Session {
 public:
  Session(const stages::JobSpec& job, const Attempt& attempt, int rank, std::string host)
      : job_(job), attempt_(attempt), rank_(rank), host_(std::move(host)) {}

  void run(int provided_level);
  [[noreturn]] void fail();

 private:
  stages::Ending work();
  void finish(stages::Ending ending);

  stages::JobSpec job_;
  const Attempt& attempt_;
  const int rank_;
  const std::string host_;
  std::unique_ptr<comm::Communicator> comm_;
  std::optional<RankLog> log_;
  std::optional<HeartbeatThread> heartbeat_;
  std::optional<JobJournal> journal_;  ///< on rank 0
  stages::Outputs outputs_;
  bool first_on_node_ = false;
};

void Session::run(int provided_level) {
  log_.emplace(attempt_.dir / ("log." + std::to_string(rank_) + ".txt"));
  log_->info("job " + job_.job + ", attempt " + attempt_.dir.filename().string() + ", rank " + std::to_string(rank_) +
             " on host " + host_ + ", pid " + std::to_string(::getpid()));
  heartbeat_.emplace(attempt_.dir, rank_, host_);
  if (provided_level < kThreadLevel) {
    throw core::Error(std::string("MPI provides ") + name_of_level(provided_level) + ", but " +
                      name_of_level(kThreadLevel) + " is needed");
  }
  comm_ = comm::mpi();
  heartbeat_->operation("wait for the other ranks to start");
  const std::vector<RankFacts> ranks =
      agree(*comm_, job_, {host_, ::getpid(), io::sha256(stages::job_text(job_)), io::sha256(build_identity())});

  first_on_node_ = std::ranges::find(ranks, host_, &RankFacts::host) - ranks.begin() == rank_;

  // OpenMP's threads are oneDNN's too. As many as the job says, not as many as OpenMP finds fit.
  omp_set_dynamic(0);
  omp_set_num_threads(job_.resources.threads);

  core::pin_tier(choose_tier(job_, attempt_, rank_, [this](const std::string& text) { log_->info(text); }));
  const std::string tier(core::name(linear::settle_tier()));
  log_->info("instruction-set tier " + tier);
  const std::vector<std::string> tiers = comm_->all_gather(tier);
  const std::vector<std::string> processors = comm_->all_gather(io::processor_model());
  if (rank_ == 0) {
    journal_.emplace(attempt_, job_.job);
    nlohmann::json hosts = nlohmann::json::array(), pids = nlohmann::json::array();
    for (const RankFacts& facts : ranks) {
      hosts.push_back(facts.host);
      pids.push_back(facts.pid);
    }
    nlohmann::json started = {{"ranks", comm_->size()},
                              {"hosts", hosts},
                              {"pids", pids},
                              {"tiers", tiers},
                              {"threads", job_.resources.threads},
                              {"processors", processors},
                              {"versions", versions()}};
    // Of a job in Slurm, what its accounting knows it by.
    const char* const slurm_job = std::getenv("SLURM_JOB_ID");
    const char* const slurm_nodes = std::getenv("SLURM_JOB_NODELIST");
    if (slurm_job != nullptr && slurm_nodes != nullptr) started["slurm"] = {{"job", slurm_job}, {"nodes", slurm_nodes}};
    journal_->append("worker_started", std::move(started));
  }
  finish(work());
  comm_.reset();
}

stages::Ending Session::work() {
  io::create_directories_durably(attempt_.scratch_dir);
  put_in_places(job_.config, attempt_);
  WorkerContext context(job_, attempt_, *comm_, *heartbeat_, *log_);
  context.operation("begin " + job_.kind);
  const stages::Ending ending = find_work(job_.kind)(context, outputs_);

  // Nothing is complete before every rank has done its part.
  context.operation("wait for the other ranks to finish");
  const std::string mine(1, ending == stages::Ending::completed ? 'c' : 's');
  const std::vector<std::string> all = comm_->all_gather(mine);
  if (std::set<std::string>(all.begin(), all.end()).size() > 1) {
    throw core::Error("some ranks have completed the stage and some have stopped");
  }
  return ending;
}

void Session::finish(stages::Ending ending) {
  if (rank_ == 0) {
    heartbeat_->operation("record the end");
    if (ending == stages::Ending::completed) {
      seal_outputs(attempt_.dir, stages::find_kind(job_.kind)->outputs, outputs_);
      nlohmann::json outputs = nlohmann::json::object();
      for (const auto& [name, output] : outputs_) outputs[name] = output.to_json();
      journal_->append("stage_completed", {{"outputs", outputs}});
    } else {
      journal_->append("stage_stopped", nlohmann::json::object());
    }
  }
  if (attempt_.node_scratch ? first_on_node_ : rank_ == 0) {
    std::error_code left;
    std::filesystem::remove_all(attempt_.scratch_dir, left);
    if (left) log_->error("cannot remove " + attempt_.scratch_dir.string() + ": " + left.message());
  }
  heartbeat_->operation("wait for rank 0 to record the end");
  comm_->barrier();
  log_->info(ending == stages::Ending::completed ? "completed" : "stopped as asked");
}

/// Ends all ranks for the exception that is being handled. Tells of it in as many places as there are left to tell in.
void Session::fail() {
  const Failure failure = current_failure(rank_, host_);
  std::fprintf(stderr, "braise-worker: %s\n", failure.to_string().c_str());
  const auto tell = [](const char* where, const auto& action) {
    try {
      action();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "braise-worker: the failure could not be written to the %s: %s\n", where, error.what());
    }
  };
  tell("attempt's folder", [&] { record_failure(attempt_.dir, failure); });
  if (log_) tell("log", [&] { log_->error(failure.to_string()); });
  if (journal_) {
    tell("journal", [&] {
      journal_->append(
          "stage_failed",
          {{"rank", failure.rank}, {"host", failure.host}, {"place", failure.place}, {"message", failure.message}});
    });
  }
  MPI_Abort(MPI_COMM_WORLD, 1);
  std::_Exit(1);
}

}  // namespace

int run_rank(const stages::JobSpec& job, const Attempt& attempt) {
  const std::string host = io::node_name();
  int provided = MPI_THREAD_SINGLE;
  int rank = 0;
  // MPI ends the process by itself, with a message, where it cannot start.
  MPI_Init_thread(nullptr, nullptr, kThreadLevel, &provided);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  {
    Session session(job, attempt, rank, host);
    try {
      session.run(provided);
    } catch (...) {
      session.fail();
    }
  }
  MPI_Finalize();
  return 0;
}

}  // namespace braise::worker
