// SPDX-License-Identifier: Apache-2.0
#include "runner/launch/slurm/allocation.h"

#include <catch2/catch.hpp>
#include <thread>

#include "kernels/core/error.h"
#include "stages/shared/io/file.h"
#include "tests/support/commands.h"

namespace braise::launch::slurm {
namespace {
namespace fs = std::filesystem;
using Catch::Contains;

/// An attempt that is launched by an srun or mpirun which only tells what it was given.
struct Trial {
  test::TemporaryFolder folder;
  test::Commands commands;
  recipe::Site site = recipe::default_site();

  explicit Trial(const std::string& kinds_of_mpi) {
    const std::string tell = "printf '%s ' \"$0\" \"$@\" >" + told().string() + "; env >" + told().string() + ".env\n";
    commands.add("srun", "if [[ $1 == --mpi=list ]]; then echo '" + kinds_of_mpi + "' >&2; exit; fi\n" + tell);
    commands.add("mpirun", tell);
  }

  fs::path told() const { return folder.path() / "told"; }

  std::string launch() {
    Order order;
    order.name = "r/a/1-abcdef";
    order.attempt_dir = folder.path() / "attempt";
    order.scratch_dir = folder.path() / "scratch";
    order.command = {"/bin/braise-worker", "job.yaml"};
    order.ranks = 6;
    order.threads = 4;
    fs::create_directories(order.attempt_dir);
    AllocationLauncher launcher(site, 2, "/runs/r");
    const std::unique_ptr<Launched> launched = launcher.start(order);
    std::optional<Ending> ending;
    while (!(ending = launched->poll())) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    CHECK(ending->exit_code == 0);
    const std::string words = io::read_file(told());
    return words.substr(words.rfind('/', words.find(' ')) + 1);
  }
};

TEST_CASE("ranks are started by srun where it offers the site's kind of MPI") {
  Trial trial("MPI plugin types are...\n\tnone\n\tpmi2\n\tpmix");
  trial.site.srun = {"--cpu-bind=cores"};
  CHECK(trial.launch() ==
        "srun --mpi=pmix --kill-on-bad-exit=1 --quit-on-interrupt --nodes=2 --ntasks=6 --ntasks-per-node=3 "
        "--cpus-per-task=4 --export=ALL --job-name=braise --cpu-bind=cores /bin/braise-worker job.yaml ");
}

TEST_CASE("ranks are started by mpirun where srun does not offer it") {
  Trial trial("MPI plugin types are...\n\tnone\n\tpmi2");
  trial.site.environment = {{"UCX_TLS", "rc"}};
  const std::string words = trial.launch();
  CHECK_THAT(words, Catch::StartsWith("mpirun -n 6 --map-by ppr:3:node:PE=4 -x "));
  CHECK_THAT(words, Contains(" -x UCX_TLS ") && Contains(" /bin/braise-worker job.yaml "));
  CHECK_THAT(io::read_file(trial.told().string() + ".env"), Contains("\nUCX_TLS=rc\n"));
}

TEST_CASE("workers run in the site's container, with the run's folder bound") {
  Trial trial("pmix");
  trial.site.container_image = "/images/braise.sif";
  trial.site.container_runtime = "singularity";
  trial.site.container_bind = {"/data", "/opt:/opt:ro"};
  CHECK_THAT(trial.launch(), Contains(" --job-name=braise singularity exec --bind /runs/r,/data,/opt:/opt:ro "
                                      "/images/braise.sif /bin/braise-worker job.yaml "));
}

}  // namespace
}  // namespace braise::launch::slurm
