// SPDX-License-Identifier: Apache-2.0
#include "tests/runner/schedule/test_launcher.h"

#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "runner/journal/event.h"
#include "stages/api/heartbeat.h"
#include "stages/api/job.h"
#include "stages/shared/io/clock.h"
#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"

namespace braise::schedule {
namespace fs = std::filesystem;
using nlohmann::json;
using End = Part::End;
namespace {

class Played : public launch::Launched {
 public:
  Played(TestLauncher& launcher, const launch::Order& order, Part part)
      : launcher_(launcher),
        order_(order),
        part_(part),
        job_(order.attempt_dir.parent_path().parent_path().filename()),
        timer_(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)) {
    const std::string folder = order.attempt_dir.filename();
    number_ = std::stoi(folder);
    token_ = folder.substr(folder.find('-') + 1);
    fs::create_directories(order.scratch_dir);
    if (!part_.printed.empty()) io::write_file_durably(order.attempt_dir / "launch.txt", part_.printed);
    launcher_.running.insert(job_);
    launcher_.most_at_once = std::max(launcher_.most_at_once, launcher_.running.size());
    for (const launch::Core& core : order.cores) {
      if (!launcher_.busy_cores.insert(core.number).second) fault("core dealt out twice");
    }
    if (part_.end != End::never_starts) {
      say("worker_started", {{"ranks", order.ranks},
                             {"hosts", std::vector<std::string>(static_cast<std::size_t>(order.ranks), "here")},
                             {"pids", std::vector<int>(static_cast<std::size_t>(order.ranks), 1)},
                             {"tiers", std::vector<std::string>(static_cast<std::size_t>(order.ranks), "avx2")},
                             {"threads", order.threads}});
    }
    const bool for_ever = part_.end == End::hangs || part_.end == End::goes_silent || part_.end == End::never_starts;
    if (part_.end == End::hangs || part_.end == End::goes_silent) beat();
    if (!for_ever) end_after(part_.after);
  }

  ~Played() override {
    if (!ended_) end_bookkeeping();
  }

  int event_fd() const override { return timer_.get(); }

  std::optional<launch::Ending> poll() override {
    if (ended_) fault("poll() after the end");
    if (part_.end == End::hangs) beat();
    std::uint64_t count = 0;
    if (::read(timer_.get(), &count, sizeof count) != sizeof count) return std::nullopt;
    ended_ = true;
    launch::Ending ending;
    if (killed_) {
      ending.killed = true;
      ending.signal = 9;
      ending.explanation = "killed";
    } else {
      play_end(ending);
    }
    end_bookkeeping();
    if (launcher_.on_change) launcher_.on_change();
    return ending;
  }

  void ask_stop() override {
    if (ended_) fault("ask_stop() after the end");
    if (part_.end == End::never_starts) fault("ask_stop() before the worker was up");
    launcher_.asked_to_stop.insert(job_);
    if (!part_.heeds_stop || stopping_) return;
    stopping_ = true;
    end_after(part_.stops_after);
  }

  void kill() override {
    if (ended_) fault("kill() after the end");
    launcher_.killed.insert(job_);
    killed_ = true;
    end_after(std::chrono::milliseconds(0));
  }

 private:
  void play_end(launch::Ending& ending) {
    ending.exit_code = 0;
    ending.explanation = "it ended with exit status 0";
    if (stopping_ || part_.stops_by_itself) return say("stage_stopped", json::object());
    switch (part_.end) {
      case End::completes:
        return complete(true, 0);
      case End::forgets_output:
        return say("stage_completed", {{"outputs", json::object()}});
      case End::lies_about_file:
        return complete(false, 0);
      case End::lies_about_size:
        return complete(true, 7);
      case End::lies_silently:
        return;
      case End::dies:
        ending.exit_code.reset();
        ending.signal = 11;
        ending.explanation = "it was ended by signal 11";
        return;
      case End::crashes_late:
        complete(true, 0);
        break;
      default:
        say("stage_failed", {{"rank", 1}, {"host", part_.host}, {"place", "x.cpp:3"}, {"message", "disk full"}});
    }
    ending.exit_code = 1;
    ending.explanation = "it ended with exit status 1";
  }

  /// The output's text depends on the job only, as that of a deterministic stage does.
  void complete(bool write, std::uint64_t more) {
    const std::string text = "output of " + job_;
    if (write) {
      fs::create_directories(order_.attempt_dir / "artifacts");
      io::write_file_durably(order_.attempt_dir / "artifacts" / "out", text);
    }
    const stages::Output output{{{"artifacts/out", text.size() + more, io::sha256(text)}}};
    say("stage_completed", {{"outputs", {{"out", output.to_json()}}}});
  }

  void beat() {
    const std::int64_t now = io::utc_us();
    if (first_beat_ == 0) first_beat_ = now;
    const stages::Heartbeat heartbeat{0, "here", 4711, now, first_beat_, "write shard 3"};
    io::write_file_durably(order_.attempt_dir / "heartbeat.0", stages::to_text(heartbeat));
  }

  void say(const char* what, json details) {
    details["event"] = what;
    details["job"] = job_;
    details["attempt"] = number_;
    details["token"] = token_;
    const fs::path run = order_.attempt_dir.parent_path().parent_path().parent_path().parent_path();
    if (!writer_) writer_.emplace(run / "journal", job_ + "-" + order_.attempt_dir.filename().string());
    writer_->append(std::move(details));
  }

  void end_after(std::chrono::milliseconds delay) {
    itimerspec time{};
    time.it_value.tv_sec = delay.count() / 1000;
    time.it_value.tv_nsec = delay.count() % 1000 * 1'000'000 + 1;
    ::timerfd_settime(timer_.get(), 0, &time, nullptr);
  }

  void end_bookkeeping() {
    ended_ = true;
    launcher_.running.erase(job_);
    for (const launch::Core& core : order_.cores) launcher_.busy_cores.erase(core.number);
    std::error_code ignored;
    fs::remove_all(order_.scratch_dir, ignored);
  }

  void fault(const std::string& what) { launcher_.faults.push_back(job_ + ": " + what); }

  TestLauncher& launcher_;
  launch::Order order_;
  Part part_;
  std::string job_, token_;
  int number_ = 0;
  io::FileDescriptor timer_;
  std::optional<journal::Writer> writer_;
  std::int64_t first_beat_ = 0;
  bool ended_ = false, killed_ = false, stopping_ = false;
};

}  // namespace

std::unique_ptr<launch::Launched> TestLauncher::start(const launch::Order& order) {
  const std::string job = order.attempt_dir.parent_path().parent_path().filename();
  if (!fs::is_directory(order.attempt_dir)) faults.push_back(job + ": no folder for the attempt");
  if (running.contains(job)) faults.push_back(job + ": two attempts at a time");
  started.push_back(job);
  last_command = order.command;
  const Part part = script(job, attempts(job));
  if (part.end == End::cannot_launch) throw core::Error("cannot run mpirun: No such file or directory");
  auto played = std::make_unique<Played>(*this, order, part);
  if (on_change) on_change();
  return played;
}

int TestLauncher::attempts(const std::string& job) const {
  return static_cast<int>(std::count(started.begin(), started.end(), job));
}

}  // namespace braise::schedule
