// SPDX-License-Identifier: Apache-2.0
#include "tests/mpi/mpirun.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <functional>
#include <stdexcept>
#include <thread>

#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"
#include "stages/shared/io/json_lines.h"

extern char** environ;

namespace braise::test {
namespace fs = std::filesystem;

std::vector<std::pair<std::string, std::string>> mpi_environment() {
  return {{"OMPI_ALLOW_RUN_AS_ROOT", "1"},
          {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"},
          {"ASAN_OPTIONS", "detect_leaks=0"}};  // Open MPI frees not all it took
}

std::vector<std::string> mpirun_command(int ranks, const fs::path& folder, const std::vector<std::string>& command) {
  std::vector<std::string> arguments = {"mpirun", "-n", std::to_string(ranks), "--oversubscribe", "--bind-to", "none"};
  for (const char* parameter : {"orte_tmpdir_base", "btl_vader_backing_directory"}) {
    arguments.insert(arguments.end(), {"--mca", parameter, folder});
  }
  arguments.insert(arguments.end(), command.begin(), command.end());
  return arguments;
}

HandMadeRun::HandMadeRun(const std::string& kind, int ranks, const nlohmann::json& config,
                         const std::vector<fs::path>& inputs) {
  job_.job = job_.stage = "job";
  job_.kind = kind;
  job_.kind_version = 1;
  job_.run_id = "hand-made";
  job_.braise_version = "0.1.0";
  job_.seed = 5;
  job_.config = config;
  job_.fingerprint = std::string(64, 'f');
  for (const fs::path& input : inputs) {
    const io::FileDigest digest = io::digest_file(input);
    job_.inputs.push_back({input, digest.bytes, digest.sha256});
  }
  fs::create_directories(folder_.path() / "journal");
  fs::create_directories(job_file().parent_path() / "attempts");
  set_ranks(ranks);
}

void HandMadeRun::set_ranks(int ranks) {
  job_.resources = {1, ranks, 1, "cpu", std::uint64_t{1} << 30, 0, 60, 0};
  write_job();
}

void HandMadeRun::write_job() const {
  io::write_file_durably(job_file(), stages::job_text(job_));
}

fs::path HandMadeRun::new_attempt() {
  ++attempts_;
  const std::string number = std::to_string(attempts_);
  const fs::path attempt =
      job_file().parent_path() / "attempts" / (number + "-" + std::string(6 - number.size(), '0') + number);
  fs::create_directories(attempt);
  return attempt;
}

nlohmann::json HandMadeRun::events_of(const fs::path& attempt) const {
  const fs::path journal = folder_.path() / "journal" / (job_.job + "-" + attempt.filename().string() + ".jsonl");
  return fs::exists(journal) ? nlohmann::json(io::read_json_lines(journal).objects) : nlohmann::json::array();
}

nlohmann::json HandMadeRun::end_of(const fs::path& attempt) const {
  const nlohmann::json events = events_of(attempt);
  return events.empty() ? nlohmann::json({{"event", "none"}}) : events.back();
}

std::vector<std::string> HandMadeRun::command(const fs::path& attempt) const {
  return mpirun_command(job_.resources.ranks(), folder_.path(),
                        {program("braise-worker"), job_file(), "--attempt", attempt});
}

Finished HandMadeRun::run(const fs::path& attempt) const {
  return run_program(command(attempt), mpi_environment());
}

Background::Background(const std::vector<std::string>& arguments) {
  const std::string out = outputs_.path() / "out", err = outputs_.path() / "err";
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, out.c_str(), O_WRONLY | O_CREAT, 0666);
  posix_spawn_file_actions_addopen(&actions, 2, err.c_str(), O_WRONLY | O_CREAT, 0666);
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  std::vector<std::string> variables;
  for (const auto& [name, value] : mpi_environment()) variables.push_back(name + "=" + value);
  for (char** entry = environ; *entry != nullptr; ++entry) variables.emplace_back(*entry);
  std::vector<char*> envp;
  for (std::string& variable : variables) envp.push_back(variable.data());
  envp.push_back(nullptr);
  const int failed = ::posix_spawnp(&pid_, argv[0], &actions, nullptr, argv.data(), envp.data());
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) throw std::runtime_error("cannot start " + arguments[0]);
}

Background::~Background() {
  if (pid_ == 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

void Background::signal(int number) const {
  ::kill(pid_, number);
}

Finished Background::wait() {
  int status = 0;
  ::waitpid(pid_, &status, 0);
  pid_ = 0;
  Finished finished;
  finished.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  finished.out = io::read_file(outputs_.path() / "out");
  finished.err = io::read_file(outputs_.path() / "err");
  return finished;
}

bool wait_until(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

bool is_running(pid_t pid) {
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  if (!std::getline(stat, text)) return false;
  return text.at(text.rfind(')') + 2) != 'Z';
}

}  // namespace braise::test
