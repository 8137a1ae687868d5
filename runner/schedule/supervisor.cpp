// SPDX-License-Identifier: Apache-2.0
#include "runner/schedule/supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <sstream>

#include "kernels/core/error.h"
#include "runner/journal/event.h"
#include "runner/journal/finished.h"
#include "runner/plan/bind.h"
#include "runner/plan/preflight.h"
#include "runner/plan/settle.h"
#include "runner/schedule/attempt.h"
#include "runner/schedule/records.h"
#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"

namespace braise::schedule {
namespace fs = std::filesystem;
using journal::AttemptName;
using journal::AttemptState;
using nlohmann::json;
namespace {

/// So many attempts in a row that ended, through no fault of their own, without leaving anything: then it is the job
/// that does not fit its time or its nodes.
constexpr int kMostFruitless = 3;

/// So often in a row a Slurm job is put back into the queue without an attempt at its job: then nodes that fail cannot
/// be kept off, or it is not the nodes.
constexpr int kMostIdleRequeues = 3;

/// How often files are looked at that other processes write.
constexpr auto kLookAround = std::chrono::seconds(2);

/// How often a supervisor that has lost its job looks what became of it.
constexpr auto kWatchInterval = std::chrono::seconds(10);

/// How long after the ranks' end Slurm may take to tell of its part in it.
constexpr auto kNewsDelay = std::chrono::seconds(2);

/// By how much a Slurm job's end must have moved for it to be worth going on in it.
constexpr std::chrono::microseconds kMoreTime = std::chrono::minutes(1);

/// How long Slurm may take to end a job that it was asked to requeue.
constexpr auto kRequeuePatience = std::chrono::minutes(5);

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown";
}

/// Whether an attempt left something that another goes on from: any file in a folder of its own.
bool left_something(const fs::path& attempt_dir) {
  std::error_code error;
  for (fs::recursive_directory_iterator entry(attempt_dir, error), end; !error && entry != end;
       entry.increment(error)) {
    if (entry.depth() > 0 && entry->is_regular_file(error)) return true;
  }
  return false;
}

class Supervisor {
 public:
  Supervisor(const plan::Plan& plan, const journal::RunDirectory& run, const Supervision& what,
             launch::Launcher& launcher, const Options& options, Observer& observer, SupervisorSignals& signals)
      : plan_(plan),
        run_(run),
        what_(what),
        launcher_(launcher),
        options_(options),
        observer_(observer),
        signals_(signals),
        job_(*plan.find(what.job)),
        writer_(run.journal_dir(),
                "slurm-" + what.slurm_job + "-" + std::to_string(what.restart) + "-" + io::random_hex(6)) {}

  SupervisorEnd run() {
    const journal::RunState before = journal::replay(run_);
    if (const auto settled = settled_end(before)) return *settled;
    session_writer_ = before.sessions.back().writer;
    writer_.append({{"event", "supervisor_started"},
                    {"session", what_.session},
                    {"job", what_.job},
                    {"slurm_job", what_.slurm_job},
                    {"restart", what_.restart},
                    {"host", host_name()},
                    {"pid", ::getpid()},
                    {"nodes", what_.nodes}});
    if (const std::string why = bind(before); !why.empty()) return give_up(why);
    if (!begin_numbers(before)) return watch();
    count_earlier(before);
    if (const std::string node = vanished_on(before); !node.empty()) return requeue("node " + node + " was lost", node);
    if (what_.preflight && spec_.kind != "check") {
      if (const std::optional<SupervisorEnd> end = preflight()) return *end;
    }
    for (;;) {
      if (const std::string why = hopeless(); !why.empty()) return give_up(why);
      const std::optional<SupervisorEnd> end = make_attempt();
      if (end) return *end;
      if (!claim(number_ + 1)) return watch();
    }
  }

 private:
  /// What the journal says already.
  std::optional<SupervisorEnd> settled_end(const journal::RunState& state) const {
    if (state.sessions.empty() || state.sessions.back().number != what_.session) return SupervisorEnd::superseded;
    if (const journal::JobRecord* record = state.find(what_.job)) {
      if (record->completion) return SupervisorEnd::completed;
      if (record->given_up) return SupervisorEnd::failed;
    }
    if (state.sessions.back().stop_requested) return SupervisorEnd::stopped;
    return std::nullopt;
  }

  int failures_of(const journal::JobRecord& record) const {
    int failures = 0;
    for (const journal::AttemptRecord& attempt : record.attempts) {
      if (attempt.state == AttemptState::failed && attempt.session == what_.session) ++failures;
    }
    return failures;
  }

  SupervisorEnd give_up(const std::string& why) {
    writer_.append({{"event", "job_failed"}, {"job", what_.job}, {"reason", why}});
    observer_.job_ended(what_.job, journal::JobState::failed, why);
    return SupervisorEnd::failed;
  }

  /// Fixes what was not known at submission; why the job cannot be done, or empty.
  std::string bind(const journal::RunState& state) {
    for (const std::string& needed : job_.needs) {
      const journal::JobRecord* record = state.find(needed);
      if (record == nullptr || !record->completion) {
        throw core::Error("job " + what_.job + " needs " + needed + ", which is not completed");
      }
    }
    const auto completed = [&](const std::string& needed) -> const plan::Completed& {
      return state.find(needed)->completion->completed;
    };
    const plan::Outcomes outcomes =
        plan::outcomes_in(run_.path(), [&](const std::string& name) -> const plan::Completed* {
          const journal::JobRecord* record = state.find(name);
          return record != nullptr && record->completion ? &record->completion->completed : nullptr;
        });
    std::string why;
    const std::optional<plan::Job> settled = plan::settle(plan_, job_, outcomes, why);
    if (!settled) return why;
    spec_ = plan::bind(*settled, completed);
    spec_.run_id = run_.id();
    write_job_file(run_, spec_);
    return "";
  }

  fs::path claims() const { return run_.job_dir(what_.job) / "claims"; }

  /// Takes the attempt's number, unless another supervisor has it.
  bool claim(int number) {
    const fs::path file = claims() / std::to_string(number);
    const io::FileDescriptor made(::open(file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    if (!made && errno == EEXIST) return false;
    if (!made) core::fail_errno("cannot create " + file.string());
    io::write_all(made.get(), writer_.name() + "\n", file);
    number_ = number;
    return true;
  }

  /// The first number of this supervisor: above all that were ever claimed.
  bool begin_numbers(const journal::RunState& before) {
    io::create_directories_durably(claims());
    int highest = 0;
    if (const journal::JobRecord* record = before.find(what_.job)) highest = record->last_attempt;
    for (const fs::directory_entry& entry : fs::directory_iterator(claims())) {
      const std::string name = entry.path().filename().string();
      int number = 0;
      if (std::from_chars(name.data(), name.data() + name.size(), number).ec == std::errc())
        highest = std::max(highest, number);
    }
    return claim(highest + 1);
  }

  bool is_superseded() const { return fs::exists(claims() / std::to_string(number_ + 1)); }

  /// What earlier supervisors of this session came to.
  void count_earlier(const journal::RunState& before) {
    const journal::JobRecord* record = before.find(what_.job);
    if (record == nullptr) return;
    failures_ = failures_of(*record);
    for (const journal::AttemptRecord& attempt : record->attempts) {
      if (attempt.session != what_.session || attempt.state == AttemptState::failed) continue;
      count_fruit(attempt.name);
    }
    if (!record->reason.empty()) last_reason_ = record->reason;
    off_nodes_ = record->off_nodes;
    idle_requeues_ = record->idle_requeues;
  }

  void count_fruit(const AttemptName& attempt) {
    fruitless_ = left_something(run_.path() / attempt.path()) ? 0 : fruitless_ + 1;
  }

  std::string hopeless() const {
    if (failures_ > job_.spec.resources.retries) return last_reason_;
    if (fruitless_ < kMostFruitless) return "";
    return std::to_string(fruitless_) +
           " attempts in a row have left nothing to go on from: too little time to save anything in (slurm.time, "
           "checkpoint.every), or nodes that fail";
  }

  /// The node of an earlier supervisor that has vanished without a word, where the job is on it again and is to keep
  /// off lost ones; else empty.
  std::string vanished_on(const journal::RunState& before) const {
    const journal::JobRecord* record = before.find(what_.job);
    if (!what_.exclude_failed || what_.restart == 0 || record == nullptr || record->attempts.empty()) return "";
    const journal::AttemptRecord& last = record->attempts.back();
    const bool vanished = last.state == AttemptState::running || last.state == AttemptState::lost;
    if (!vanished || last.session != what_.session || record->idle_requeues > 0) return "";
    const std::vector<std::string> nodes = what_.names_of(record->nodes);  // the batch script is on the first
    return nodes.empty() || !is_mine(nodes.front()) ? "" : nodes.front();
  }

  bool is_mine(const std::string& node) const {
    return std::ranges::find(what_.node_names, node) != what_.node_names.end();
  }

  /// What became of an attempt.
  struct Tried {
    AttemptName name;
    Evidence evidence;
    Verdict verdict;
    plan::Completed completed;
    std::optional<std::int64_t> ends_us;  ///< that its workers were told
  };

  /// Makes one attempt; nothing where another supervisor has taken over. `planned`: what it must leave; null: anything.
  std::optional<Tried> try_once(const stages::JobSpec& spec, const plan::Job* planned) {
    Tried tried;
    tried.name = {spec.job, number_, io::random_hex(6)};
    record_started(writer_, tried.name, spec, json::array());
    observer_.attempt_started(tried.name, spec);
    Share share;
    share.oversubscribed = true;  // Slurm binds
    Attempt attempt(run_, spec, tried.name, std::move(share), options_);
    tried.ends_us = what_.ends_us();
    try {
      attempt.launch(launcher_, tried.ends_us);
      tried.evidence = drive(attempt);
    } catch (const core::Error& error) {
      tried.evidence.ending.explanation = error.what();
    }
    if (superseded_ || is_superseded()) return std::nullopt;
    tried.completed = {tried.name.path(), {}};
    if (tried.evidence.report.outputs) {
      tried.completed.outputs = *tried.evidence.report.outputs;
      if (planned != nullptr) tried.evidence.bad_output = bad_output(run_, *planned, tried.completed);
    }
    tried.verdict = judge(tried.evidence);
    if (tried.verdict.state == AttemptState::failed && is_unexplained(tried.evidence) && are_nodes_gone()) {
      terminated_ = true;
      tried.verdict = {AttemptState::stopped, "Slurm has taken the nodes away"};
    }
    record_ended(writer_, tried.name, tried.evidence.ending, tried.verdict);
    return tried;
  }

  /// Looks whether the nodes are fit for the job; nothing where they are.
  std::optional<SupervisorEnd> preflight() {
    const stages::JobSpec check = plan::preflight_of(spec_, job_.estimate);
    write_job_file(run_, check);
    for (bool first = true;; first = false) {
      const std::optional<Tried> tried = try_once(check, nullptr);
      if (!tried) return watch();
      const Verdict& verdict = tried->verdict;
      const bool ends_here = stopped_ || terminated_;
      const std::string node = bad_node(*tried);
      const bool nobodys = verdict.state == AttemptState::failed && node.empty();
      if (nobodys && !first) {
        ++failures_;
        last_reason_ = "the check of its nodes failed: " + verdict.reason;
      }
      // Slurm may fail to launch a step where one of the same number was killed before; the next has another number.
      const bool again = nobodys && !ends_here && (first || hopeless().empty());
      observer_.attempt_ended(tried->name, verdict.state, verdict.reason, again);
      if (ends_here) return SupervisorEnd::stopped;
      if (verdict.state == AttemptState::completed) return std::nullopt;
      if (verdict.state == AttemptState::stopped) return requeue("its time was up", "");
      if (!node.empty()) {
        const bool told = node == tried->evidence.suspect;
        const std::string more = told ? "" : "; see " + tried->name.path() + "/launch.txt";
        return requeue("node " + node + " failed its check: " + verdict.reason + more, node);
      }
      if (!again) return give_up(last_reason_);
      if (!claim(number_ + 1)) return watch();
    }
  }

  /// The node that an attempt failed on, where that is known: its rank was the first to fail or hang, or srun names it.
  /// (Of the ranks that srun has killed for that, it tells too.)
  std::string bad_node(const Tried& tried) const {
    if (is_mine(tried.evidence.suspect)) return tried.evidence.suspect;
    return named_by_launcher(tried, [](const std::string& line, const std::string& node) {
      return (names(line, "srun: error: ", node) && line.find("Exited with exit code") != std::string::npos) ||
             names(line, "failed on node ", node);
    });
  }

  std::string lost_node(const Tried& tried) const {
    return named_by_launcher(
        tried, [](const std::string& line, const std::string& node) { return names(line, "Node failure on ", node); });
  }

  /// Whether a line has these words with the node behind them.
  static bool names(const std::string& line, const std::string& words, const std::string& node) {
    const std::size_t begin = line.find(words + node);
    if (begin == std::string::npos) return false;
    const std::size_t end = begin + words.size() + node.size();
    return end == line.size() || line[end] == ':' || line[end] == ',' || line[end] == ' ';
  }

  /// The first node of this job of which a line that the launcher printed says so.
  template <typename Says>
  std::string named_by_launcher(const Tried& tried, const Says& says) const {
    std::string text;
    try {
      text = io::read_file(run_.path() / tried.name.path() / "launch.txt");
    } catch (const core::Error&) {
      return "";  // it never came to print anything
    }
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      const auto node = std::ranges::find_if(what_.node_names, [&](const std::string& one) { return says(line, one); });
      if (node != what_.node_names.end()) return *node;
    }
    return "";
  }

  /// Makes one attempt; nothing where another is to be made at once.
  std::optional<SupervisorEnd> make_attempt() {
    idle_requeues_ = 0;
    const std::optional<Tried> tried = try_once(spec_, &job_);
    if (!tried) return watch();
    const Verdict& verdict = tried->verdict;
    if (verdict.state == AttemptState::failed) {
      ++failures_;
      last_reason_ = verdict.reason;
    }
    const bool ends_here = stopped_ || terminated_;
    const bool again = verdict.state == AttemptState::failed && failures_ <= spec_.resources.retries && !ends_here;
    observer_.attempt_ended(tried->name, verdict.state, verdict.reason, again);
    if (verdict.state == AttemptState::completed) return complete(tried->name, tried->completed);
    if (terminated_ && what_.exclude_failed) {
      const std::string node = lost_node(*tried);
      if (!node.empty()) keep_off("node " + node + " was lost", node);
    }
    if (ends_here) return SupervisorEnd::stopped;
    if (verdict.state == AttemptState::failed) return std::nullopt;
    // It stopped, and nobody has asked for that but the clock.
    count_fruit(tried->name);
    if (fruitless_ >= kMostFruitless || has_more_time(tried->ends_us)) return std::nullopt;
    return requeue("its time was up", "");
  }

  /// Whether ranks ended without a word of theirs or of this supervisor's.
  static bool is_unexplained(const Evidence& evidence) {
    return evidence.report.failure.empty() && !evidence.report.outputs && evidence.condemned.empty();
  }

  /// Whether it is Slurm that has ended them. It tells the batch script last, and its own books a little later.
  bool are_nodes_gone() {
    for (Clock::time_point until = Clock::now() + kNewsDelay; Clock::now() < until && !is_superseded();) {
      if (terminated_ || signals_.terminate.take() > 0) return true;
      wait(-1, std::chrono::milliseconds(200));
    }
    try {
      return is_superseded() || !what_.is_running();
    } catch (const core::Error& error) {
      observer_.warning(error.what());
      return false;
    }
  }

  SupervisorEnd complete(const AttemptName& name, const plan::Completed& completed) {
    record_completed(writer_, name, spec_.fingerprint, completed);
    if (is_reusable(spec_.kind)) {
      journal::FinishedIndex(run_.runs_dir()).add(spec_.fingerprint, {run_.id(), what_.job, completed});
    }
    observer_.job_ended(what_.job, journal::JobState::completed, "");
    return SupervisorEnd::completed;
  }

  /// Whether the Slurm job ends later than at `ends_us`, which an attempt was told.
  bool has_more_time(std::optional<std::int64_t> ends_us) const {
    if (!ends_us) return false;
    const std::optional<std::int64_t> now_us = what_.ends_us();
    return now_us && *now_us > *ends_us + kMoreTime.count();
  }

  SupervisorEnd requeue(const std::string& reason, const std::string& off_node) {
    if (++idle_requeues_ > kMostIdleRequeues) {
      return give_up("Slurm has started it " + std::to_string(kMostIdleRequeues) +
                     " times in a row without an attempt coming of it: " + reason);
    }
    record_requeue(reason, off_node);
    what_.requeue();
    tell_slurm(off_node);
    const Clock::time_point give_up = Clock::now() + kRequeuePatience;
    while (Clock::now() < give_up && signals_.terminate.take() == 0) wait(-1, std::chrono::seconds(1));
    return SupervisorEnd::requeued;
  }

  /// Where Slurm itself has put the job back into the queue.
  void keep_off(const std::string& reason, const std::string& node) {
    record_requeue(reason, node);
    tell_slurm(node);
  }

  void record_requeue(const std::string& reason, const std::string& off_node) {
    writer_.append({{"event", "job_requeued"},
                    {"job", what_.job},
                    {"slurm_job", what_.slurm_job},
                    {"reason", reason},
                    {"off_nodes", off_node},
                    {"attempt", number_}});
  }

  void tell_slurm(const std::string& off_node) {
    if (off_node.empty()) return;
    off_nodes_.insert(off_node);
    try {
      what_.keep_off(off_nodes_);
    } catch (const core::Error& error) {
      observer_.warning("Slurm may start job " + what_.job + " on node " + off_node + " again: " + error.what());
    }
  }

  /// Looks after the attempt to its end.
  Evidence drive(Attempt& attempt) {
    Clock::time_point look_at = Clock::now(), look_around_at = Clock::now();
    for (;;) {
      if (std::optional<Evidence> evidence = attempt.poll(observer_)) return std::move(*evidence);
      wait(attempt.event_fd(), options_.tick);
      take_requests(attempt);
      const Clock::time_point now = Clock::now();
      if (now >= look_at) {
        look_at = now + options_.tick;
        attempt.look(observer_);
      }
      if (now < look_around_at) continue;
      look_around_at = now + kLookAround;
      if (!superseded_ && is_superseded()) {
        superseded_ = true;
        observer_.warning("another supervisor has taken over job " + what_.job + ": this attempt is ended");
        attempt.kill();
      }
      for (const journal::StopMode mode : new_stop_requests()) ask(attempt, mode == journal::StopMode::kill);
    }
  }

  void take_requests(Attempt& attempt) {
    if (signals_.time_up.take() > 0) attempt.ask_stop();
    if (signals_.terminate.take() > 0) {
      terminated_ = true;
      attempt.ask_stop();
    }
    for (int asked = signals_.stop.take(); asked > 0; --asked) ask(attempt, stopped_);
  }

  void ask(Attempt& attempt, bool at_once) {
    stopped_ = true;
    at_once ? attempt.kill() : attempt.ask_stop();
  }

  std::vector<journal::StopMode> new_stop_requests() {
    std::vector<journal::StopMode> modes;
    for (const fs::directory_entry& entry : fs::directory_iterator(run_.journal_dir())) {
      const std::string name = entry.path().stem().string();
      if (!name.starts_with("cancel-") || heard_.contains(name)) continue;
      for (const json& event : journal::read_journal_file(run_.journal_dir(), name).events) {
        heard_.insert(name);
        if (event.at("event") != "stop_requested" || event.at("runner") != session_writer_) continue;
        modes.push_back(event.at("mode") == "kill" ? journal::StopMode::kill : journal::StopMode::stop);
      }
    }
    return modes;
  }

  /// After the job went to another supervisor: the Slurm job must not end before that one's, as it may be the same.
  SupervisorEnd watch() {
    for (;;) {
      if (const auto settled = settled_end(journal::replay(run_))) return *settled;
      for (Clock::time_point until = Clock::now() + kWatchInterval; Clock::now() < until;) {
        if (signals_.terminate.take() > 0 || signals_.stop.take() > 0) return SupervisorEnd::stopped;
        signals_.time_up.take();
        wait(-1, kWatchInterval);
      }
    }
  }

  void wait(int fd, std::chrono::milliseconds most) {
    std::vector<pollfd> events = {
        {signals_.time_up.fd(), POLLIN, 0}, {signals_.terminate.fd(), POLLIN, 0}, {signals_.stop.fd(), POLLIN, 0}};
    if (fd >= 0) events.push_back({fd, POLLIN, 0});
    if (::poll(events.data(), events.size(), static_cast<int>(most.count())) < 0 && errno != EINTR) {
      core::fail_errno("cannot wait for events");
    }
  }

  const plan::Plan& plan_;
  const journal::RunDirectory& run_;
  const Supervision& what_;
  launch::Launcher& launcher_;
  const Options& options_;
  Observer& observer_;
  SupervisorSignals& signals_;
  const plan::Job& job_;
  journal::Writer writer_;
  std::string session_writer_;
  stages::JobSpec spec_;
  int number_ = 0;
  int failures_ = 0;   ///< failed attempts of this session
  int fruitless_ = 0;  ///< the latest ones in a row that left nothing, though they did not fail
  std::string last_reason_;
  std::set<std::string> heard_;      ///< cancel files that were read
  std::set<std::string> off_nodes_;  ///< that the job keeps off
  int idle_requeues_ = 0;            ///< in a row without an attempt
  bool superseded_ = false, stopped_ = false, terminated_ = false;
};

}  // namespace

SupervisorEnd supervise(const plan::Plan& plan, const journal::RunDirectory& run, const Supervision& what,
                        launch::Launcher& launcher, const Options& options, Observer& observer,
                        SupervisorSignals& signals) {
  if (plan.find(what.job) == nullptr) throw core::Error("the plan of " + run.id() + " has no job " + what.job);
  return Supervisor(plan, run, what, launcher, options, observer, signals).run();
}

}  // namespace braise::schedule
