// SPDX-License-Identifier: Apache-2.0
#include "runner/launch/local.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cassert>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <sstream>
#include <thread>

#include "kernels/core/error.h"
#include "runner/launch/processes.h"
#include "stages/shared/io/file.h"

namespace braise::launch {
namespace fs = std::filesystem;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
namespace {

/// What of this process's environment an attempt sees; all else stays out, so that a run does not depend on the shell
/// it was started from. The *_OPTIONS steer sanitizers in test builds.
constexpr const char* kKept[] = {
    "PATH",         "HOME",         "USER",         "LOGNAME",         "LANG",
    "LC_ALL",       "LC_CTYPE",     "TZ",           "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES",
    "ASAN_OPTIONS", "LSAN_OPTIONS", "TSAN_OPTIONS", "UBSAN_OPTIONS"};

/// How often processes that were sent SIGKILL are looked at until they are gone, and how long at most: one that hangs
/// in the kernel cannot be waited for.
constexpr auto kLeftoverInterval = 10ms;
constexpr auto kLeftoverPatience = 10s;

fs::path find_on_path(const std::string& program) {
  const char* path = std::getenv("PATH");
  std::istringstream folders(path == nullptr ? "" : path);
  for (std::string folder; std::getline(folders, folder, ':');) {
    const fs::path candidate = fs::path(folder) / program;
    if (!folder.empty() && ::access(candidate.c_str(), X_OK) == 0) return fs::absolute(candidate);
  }
  throw core::Error("there is no " + program + " on PATH; Braise needs Open MPI to run jobs");
}

/// Where Open MPI keeps its files: beside the worker's scratch, which the worker itself may empty while MPI is still
/// up.
fs::path mpi_folder(const Order& order) {
  return order.scratch_dir.string() + ".mpi";
}

std::vector<std::string> environment(const Order& order) {
  std::vector<std::string> variables;
  for (const char* name : kKept) {
    if (const char* value = std::getenv(name)) variables.push_back(std::string(name) + "=" + value);
  }
  const auto set = [&variables](const std::string& name, const std::string& value) {
    variables.push_back(name + "=" + value);
  };
  set(kMarkVariable, order.name);
  const std::string folder = mpi_folder(order).string();
  set("TMPDIR", folder);
  for (const char* parameter : {"orte_tmpdir_base", "btl_vader_backing_directory", "osc_sm_backing_directory",
                                "osc_rdma_backing_directory", "shmem_mmap_backing_file_base_dir"}) {
    set(std::string("OMPI_MCA_") + parameter, folder);
  }
  if (::geteuid() == 0) {
    set("OMPI_ALLOW_RUN_AS_ROOT", "1");
    set("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
  }
  return variables;
}

/// "rank 0=localhost slot=4,5" for each rank: hardware threads by hwloc's logical number. Unlike --cpu-set or an
/// inherited affinity, a rank file works together with several threads a rank, and binds exactly what it names.
std::string rank_file(const Order& order) {
  std::string text;
  for (int rank = 0; rank < order.ranks; ++rank) {
    std::string slots;
    for (int thread = 0; thread < order.threads; ++thread) {
      for (const int slot : order.cores[static_cast<std::size_t>(rank * order.threads + thread)].threads) {
        slots += (slots.empty() ? "" : ",") + std::to_string(slot);
      }
    }
    text += "rank " + std::to_string(rank) + "=localhost slot=" + slots + "\n";
  }
  return text;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (std::string& text : texts) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

/// What the forked child does: calls nothing but what is safe between fork and exec. Gives errno to `report` on
/// failure.
[[noreturn]] void become(const char* program, char* const* arguments, char* const* variables, int input, int output,
                         int report, pid_t parent) {
  ::setsid();
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(127);  // it died before the line above
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  for (int signal = 1; signal < NSIG; ++signal) ::signal(signal, SIG_DFL);
  if (::dup2(input, 0) >= 0 && ::dup2(output, 1) >= 0 && ::dup2(output, 2) >= 0) {
    ::execve(program, arguments, variables);
  }
  const int fault = errno;
  [[maybe_unused]] const ssize_t put = ::write(report, &fault, sizeof fault);
  ::_exit(127);
}

class LocalAttempt : public Launched {
 public:
  LocalAttempt(const Order& order, const fs::path& mpirun)
      : mark_(order.name), folders_({order.scratch_dir, mpi_folder(order)}) {
    assert(order.cores.empty() || order.cores.size() == static_cast<std::size_t>(order.ranks * order.threads));
    for (const fs::path& folder : folders_) {
      std::error_code error;
      fs::create_directories(folder, error);
      if (error) throw core::Error("cannot create folder " + folder.string() + ": " + error.message());
    }
    std::vector<std::string> arguments = {"mpirun", "-n", std::to_string(order.ranks)};
    if (order.cores.empty()) {
      arguments.insert(arguments.end(), {"--oversubscribe", "--bind-to", "none"});
    } else {
      const fs::path file = mpi_folder(order) / "ranks";
      io::write_file_durably(file, rank_file(order));
      arguments.insert(arguments.end(), {"--use-hwthread-cpus", "--rankfile", file.string()});
    }
    arguments.insert(arguments.end(), order.command.begin(), order.command.end());
    try {
      start(mpirun, std::move(arguments), environment(order), order.attempt_dir / "mpirun.txt");
    } catch (const core::Error&) {
      remove_scratch();
      throw;
    }
  }

  ~LocalAttempt() override {
    if (ended_) return;
    kill();
    while (!poll()) std::this_thread::sleep_for(kLeftoverInterval);
  }

  int event_fd() const override { return events_.get(); }

  std::optional<Ending> poll() override {
    assert(!ended_);
    drain_timer();
    if (!status_ && !reap()) return std::nullopt;
    // Where mpirun ended well it has seen every rank end; otherwise ranks may have outlived it.
    const bool orderly = status_->si_code == CLD_EXITED && status_->si_status == 0;
    if (!orderly && kill_marked(mark_) > 0) {
      gave_up_ = Clock::now() > give_up_;
      set_timer(kLeftoverInterval);
      if (!gave_up_) return std::nullopt;
    }
    remove_scratch();
    ended_ = true;
    return ending();
  }

  void ask_stop() override { send(SIGUSR2); }

  void kill() override {
    killed_ = true;
    send(SIGKILL);
    kill_marked(mark_);
  }

 private:
  void start(const fs::path& mpirun, std::vector<std::string> arguments, std::vector<std::string> variables,
             const fs::path& output) {
    const io::FileDescriptor null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    const io::FileDescriptor out(::open(output.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
    if (!null || !out) core::fail_errno("cannot open " + output.string());
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) core::fail_errno("cannot make a pipe");
    const io::FileDescriptor report(ends[0]);
    io::FileDescriptor reporter(ends[1]);
    const std::vector<char*> argv = pointers(arguments), envp = pointers(variables);
    const pid_t parent = ::getpid();
    pid_ = ::fork();
    if (pid_ < 0) core::fail_errno("cannot start a process");
    if (pid_ == 0) become(mpirun.c_str(), argv.data(), envp.data(), null.get(), out.get(), reporter.get(), parent);
    reporter.reset();
    int fault = 0;
    ssize_t got = 0;
    do {
      got = ::read(report.get(), &fault, sizeof fault);
    } while (got < 0 && errno == EINTR);
    if (got != 0) {
      ::waitpid(pid_, nullptr, 0);
      errno = fault;
      core::fail_errno("cannot run " + mpirun.string());
    }
    watch();
  }

  void watch() {
    process_ = io::FileDescriptor(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
    timer_ = io::FileDescriptor(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
    events_ = io::FileDescriptor(::epoll_create1(EPOLL_CLOEXEC));
    epoll_event interest{};
    interest.events = EPOLLIN;
    if (!process_ || !timer_ || !events_ || ::epoll_ctl(events_.get(), EPOLL_CTL_ADD, process_.get(), &interest) != 0 ||
        ::epoll_ctl(events_.get(), EPOLL_CTL_ADD, timer_.get(), &interest) != 0) {
      const int fault = errno;
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
      kill_marked(mark_);
      errno = fault;
      core::fail_errno("cannot watch a process");
    }
  }

  bool reap() {
    siginfo_t status{};
    if (::waitid(P_PID, static_cast<id_t>(pid_), &status, WEXITED | WNOHANG) != 0 || status.si_pid != pid_)
      return false;
    status_ = status;
    give_up_ = Clock::now() + kLeftoverPatience;
    // A dead process's handle stays readable for ever.
    ::epoll_ctl(events_.get(), EPOLL_CTL_DEL, process_.get(), nullptr);
    return true;
  }

  Ending ending() const {
    Ending ending;
    ending.killed = killed_;
    if (status_->si_code == CLD_EXITED) {
      const int code = status_->si_status;
      ending.exit_code = code;
      ending.explanation = "mpirun ended with exit status " + std::to_string(code);
      if (code > 128) ending.explanation += " (a rank was ended by signal " + std::to_string(code - 128) + ")";
    } else {
      ending.signal = status_->si_status;
      ending.explanation = "mpirun was ended by signal " + std::to_string(status_->si_status);
    }
    if (gave_up_) ending.explanation += "; processes of it could not be ended";
    return ending;
  }

  void send(int signal) {
    if (!status_) ::syscall(SYS_pidfd_send_signal, process_.get(), signal, nullptr, 0);
  }

  void set_timer(std::chrono::nanoseconds delay) {
    itimerspec time{};
    time.it_value.tv_nsec = delay.count();
    ::timerfd_settime(timer_.get(), 0, &time, nullptr);
  }

  void drain_timer() {
    std::uint64_t count = 0;
    [[maybe_unused]] const ssize_t got = ::read(timer_.get(), &count, sizeof count);
  }

  void remove_scratch() {
    std::error_code ignored;  // what cannot be removed now is left to the next sweep
    for (const fs::path& folder : folders_) fs::remove_all(folder, ignored);
  }

  std::string mark_;
  std::vector<fs::path> folders_;  ///< removed at the end
  pid_t pid_ = -1;
  io::FileDescriptor process_, timer_, events_;
  std::optional<siginfo_t> status_;  ///< of mpirun, once it has ended
  Clock::time_point give_up_;
  bool gave_up_ = false;
  bool killed_ = false;
  bool ended_ = false;
};

}  // namespace

LocalLauncher::LocalLauncher() : mpirun_(find_on_path("mpirun")) {}

std::unique_ptr<Launched> LocalLauncher::start(const Order& order) {
  return std::make_unique<LocalAttempt>(order, mpirun_);
}

}  // namespace braise::launch
