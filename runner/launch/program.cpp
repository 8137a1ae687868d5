// SPDX-License-Identifier: Apache-2.0
#include "runner/launch/program.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cassert>
#include <cerrno>
#include <chrono>
#include <thread>

#include "kernels/core/error.h"
#include "runner/launch/processes.h"
#include "stages/shared/io/file.h"

namespace braise::launch {
namespace fs = std::filesystem;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
namespace {

/// How often processes that were sent SIGKILL are looked at until they are gone, and how long at most: one that hangs
/// in the kernel cannot be waited for.
constexpr auto kLeftoverInterval = 10ms;
constexpr auto kLeftoverPatience = 10s;

/// How long a program that was told to end its ranks may take before it is ended itself.
constexpr auto kKillPatience = 5s;

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

class ProgramAttempt : public Launched {
 public:
  explicit ProgramAttempt(Program program) : program_(std::move(program)) {
    try {
      for (const fs::path& folder : program_.folders) io::create_directories_durably(folder);
      start();
    } catch (const core::Error&) {
      remove_folders();
      throw;
    }
  }

  ~ProgramAttempt() override {
    if (ended_) return;
    kill();
    while (!poll()) std::this_thread::sleep_for(kLeftoverInterval);
  }

  int event_fd() const override { return events_.get(); }

  std::optional<Ending> poll() override {
    assert(!ended_);
    drain_timer();
    if (!status_ && kill_by_force_ && Clock::now() >= *kill_by_force_) send(SIGKILL);
    if (!status_ && !reap()) return std::nullopt;
    // Where the program ended well it has seen every rank end; otherwise ranks may have outlived it.
    const bool orderly = status_->si_code == CLD_EXITED && status_->si_status == 0;
    if (!orderly && kill_marked(program_.mark) > 0) {
      gave_up_ = Clock::now() > give_up_;
      set_timer(kLeftoverInterval);
      if (!gave_up_) return std::nullopt;
    }
    remove_folders();
    ended_ = true;
    return ending();
  }

  void ask_stop() override { send(SIGUSR2); }

  void kill() override {
    killed_ = true;
    if (program_.kill_signal == SIGKILL) {
      send(SIGKILL);
      kill_marked(program_.mark);
    } else if (!kill_by_force_) {
      kill_by_force_ = Clock::now() + kKillPatience;
      send(program_.kill_signal);
      set_timer(kKillPatience);
    }
  }

 private:
  void start() {
    const io::FileDescriptor null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    const io::FileDescriptor out(::open(program_.output.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
    if (!null || !out) core::fail_errno("cannot open " + program_.output.string());
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) core::fail_errno("cannot make a pipe");
    const io::FileDescriptor report(ends[0]);
    io::FileDescriptor reporter(ends[1]);
    const std::vector<char*> argv = pointers(program_.arguments), envp = pointers(program_.environment);
    const pid_t parent = ::getpid();
    pid_ = ::fork();
    if (pid_ < 0) core::fail_errno("cannot start a process");
    if (pid_ == 0)
      become(program_.file.c_str(), argv.data(), envp.data(), null.get(), out.get(), reporter.get(), parent);
    reporter.reset();
    int fault = 0;
    ssize_t got = 0;
    do {
      got = ::read(report.get(), &fault, sizeof fault);
    } while (got < 0 && errno == EINTR);
    if (got != 0) {
      ::waitpid(pid_, nullptr, 0);
      errno = fault;
      core::fail_errno("cannot run " + program_.file.string());
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
      kill_marked(program_.mark);
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
      ending.explanation = program_.name + " ended with exit status " + std::to_string(code);
      if (code > 128) ending.explanation += " (a rank was ended by signal " + std::to_string(code - 128) + ")";
    } else {
      ending.signal = status_->si_status;
      ending.explanation = program_.name + " was ended by signal " + std::to_string(status_->si_status);
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

  void remove_folders() {
    std::error_code ignored;  // what cannot be removed now is left to the next sweep
    for (const fs::path& folder : program_.folders) fs::remove_all(folder, ignored);
  }

  Program program_;
  pid_t pid_ = -1;
  io::FileDescriptor process_, timer_, events_;
  std::optional<siginfo_t> status_;  ///< of the program, once it has ended
  std::optional<Clock::time_point> kill_by_force_;
  Clock::time_point give_up_;
  bool gave_up_ = false;
  bool killed_ = false;
  bool ended_ = false;
};

}  // namespace

std::unique_ptr<Launched> launch_program(Program program) {
  return std::make_unique<ProgramAttempt>(std::move(program));
}

}  // namespace braise::launch
