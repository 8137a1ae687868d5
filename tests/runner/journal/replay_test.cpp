// SPDX-License-Identifier: Apache-2.0
#include "runner/journal/replay.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <fstream>

#include "runner/journal/event.h"
#include "stages/shared/io/clock.h"
#include "stages/shared/io/file.h"
#include "tests/runner/journal/sample.h"
#include "tests/support/support.h"

namespace braise::journal {
namespace {

using nlohmann::json;

/// The files of a journal that is made up, event by event.
class Journal {
 public:
  Journal& add(const std::string& writer, json event) {
    JournalFile& file = this->file(writer);
    event["writer"] = writer;
    event["seq"] = file.events.size();
    event["time"] = io::format_utc(clock_us_);
    INFO(event.dump() << ": " << event_fault(event));
    REQUIRE(event_fault(event).empty());
    file.events.push_back(std::move(event));
    file.lines.push_back(file.events.size());
    order_.push_back(writer);
    return *this;
  }
  void set_clock(std::int64_t us) { clock_us_ = us; }
  JournalFile& file(const std::string& writer) {
    for (JournalFile& file : files) {
      if (file.writer == writer) return file;
    }
    files.push_back({writer, {}, {}, {}});
    return files.back();
  }
  /// What was on the disk when only the first `count` events had been written.
  std::vector<JournalFile> first(std::size_t count) const {
    std::map<std::string, std::size_t> kept;
    for (std::size_t i = 0; i < count; ++i) ++kept[order_[i]];
    std::vector<JournalFile> result = files;
    for (JournalFile& file : result) {
      file.events.resize(kept[file.writer]);
      file.lines.resize(kept[file.writer]);
    }
    return result;
  }
  std::size_t size() const { return order_.size(); }

  std::vector<JournalFile> files;

 private:
  std::vector<std::string> order_;
  std::int64_t clock_us_ = 1'700'000'000'000'000;
};

json started(const AttemptName& name) {
  return attempt_event("attempt_started", name,
                       {{"fingerprint", sample_fingerprint()}, {"ranks", 2}, {"threads", 1}, {"cores", {0, 1}}});
}
json ended(const AttemptName& name, const std::string& outcome, const std::string& reason = "") {
  return attempt_event("attempt_ended", name,
                       {{"outcome", outcome}, {"exit_code", 1}, {"signal", nullptr}, {"reason", reason}});
}
json completed(const AttemptName& name) {
  return attempt_event("job_completed", name,
                       {{"fingerprint", sample_fingerprint()}, {"outputs", sample_outputs("x")}});
}
json stage_completed(const AttemptName& name) {
  return attempt_event("stage_completed", name, {{"outputs", sample_outputs("x")}});
}
json worker_started(const AttemptName& name) {
  return attempt_event(
      "worker_started", name,
      {{"ranks", 2}, {"hosts", {"h", "h"}}, {"pids", {11, 12}}, {"tiers", {"avx2", "avx2"}}, {"threads", 1}});
}
json session(int number) {
  return sample_event("runner_started", {{"session", number}, {"pid", 7}, {"host", "h"}, {"command", {"braise"}}});
}

const AttemptName kFirst{"a", 1, "00000a"}, kSecond{"a", 2, "00000b"}, kOther{"b", 1, "00000c"};

/// Two runners: the first fails `a` once, retries it and is killed while `b` runs; the second ends all.
Journal long_story() {
  Journal journal;
  journal.add("runner-1", session(1))
      .add("runner-1", started(kFirst))
      .add("a-1-00000a", worker_started(kFirst))
      .add("a-1-00000a", attempt_event("stage_failed", kFirst,
                                       {{"rank", 1}, {"host", "h"}, {"place", "x.cpp:3"}, {"message", "disk full"}}))
      .add("runner-1", ended(kFirst, "failed", "disk full"))
      .add("runner-1", started(kSecond))
      .add("a-2-00000b", worker_started(kSecond))
      .add("a-2-00000b", stage_completed(kSecond))
      .add("runner-1", ended(kSecond, "completed"))
      .add("runner-1", completed(kSecond))
      .add("runner-1", started(kOther))
      .add("b-1-00000c", worker_started(kOther))
      .add("runner-2", session(2))
      .add("cancel-1", sample_event("stop_requested", {{"mode", "stop"}, {"runner", "runner-2"}}))
      .add("runner-2", started({"b", 2, "00000d"}))
      .add("b-2-00000d", worker_started({"b", 2, "00000d"}))
      .add("b-2-00000d", attempt_event("stage_stopped", {"b", 2, "00000d"}))
      .add("runner-2", ended({"b", 2, "00000d"}, "stopped"))
      .add("runner-2", sample_event("runner_ended", {{"outcome", "stopped"}}));
  return journal;
}

std::string outline(const RunState& state) {
  std::string text;
  for (const auto& [name, job] : state.jobs) {
    text += name + " " + to_string(job.state) + ":";
    for (const AttemptRecord& attempt : job.attempts) {
      text += " " + attempt.name.folder() + "=" + to_string(attempt.state);
    }
    if (job.completion) text += " <- " + job.completion->completed.attempt_dir;
    text += "\n";
  }
  return text;
}

TEST_CASE("a whole story is told as it happened") {
  const RunState state = replay(long_story().files);
  CHECK(state.warnings.empty());
  CHECK(outline(state) ==
        "a completed: 1-00000a=failed 2-00000b=completed <- jobs/a/attempts/2-00000b\n"
        "b stopped: 1-00000c=lost 2-00000d=stopped\n");
  const JobRecord& a = *state.find("a");
  CHECK(a.attempts[0].reason == "disk full");
  CHECK(a.attempts[0].exit_code == 1);
  CHECK_FALSE(a.attempts[0].signal);
  CHECK(a.attempts[1].cores == std::vector<int>{0, 1});
  CHECK(a.completion->recorded);
  CHECK(a.completion->completed.outputs.at("out").files.at(0).path == "artifacts/out");
  CHECK(state.find("b")->last_attempt == 2);
  REQUIRE(state.sessions.size() == 2);
  CHECK(state.sessions[0].outcome.empty());
  CHECK(state.sessions[1].outcome == "stopped");
  CHECK_FALSE(state.sessions[0].stop_requested);
  CHECK(state.sessions[1].stop_requested == StopMode::stop);
  CHECK(state.state_of("nobody") == JobState::waiting);
}

TEST_CASE("the order of the files does not matter, nor what the writers' clocks said") {
  const Journal journal = long_story();
  const std::string expected = outline(replay(journal.files));
  std::vector<JournalFile> files = journal.files;
  std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) { return a.writer > b.writer; });
  do {
    CHECK(outline(replay(files)) == expected);
  } while (std::prev_permutation(files.begin(), files.end(),
                                 [](const auto& a, const auto& b) { return a.writer < b.writer; }) &&
           files.front().writer == "runner-2");
  for (JournalFile& file : files) {
    const std::int64_t skew_us =
        static_cast<std::int64_t>(file.writer.back()) * 3'600'000'000 * (file.writer.size() % 2 ? 1 : -1);
    for (std::size_t i = 0; i < file.events.size(); ++i) {
      file.events[i]["time"] =
          io::format_utc(1'700'000'000'000'000 + skew_us - static_cast<std::int64_t>(i) * 1'000'000);
    }
  }
  CHECK(outline(replay(files)) == expected);
}

TEST_CASE("killed between any two events, a run can be resumed") {
  const Journal journal = long_story();
  bool was_completed = false;
  for (std::size_t count = 0; count <= journal.size(); ++count) {
    const RunState state = replay(journal.first(count));
    INFO(count << "\n" << outline(state));
    CHECK(state.warnings.empty());
    const JobRecord* a = state.find("a");
    const bool done = a != nullptr && a->completion.has_value();
    // From the worker's word on (event 8), the job counts as completed; it was recorded with event 10.
    CHECK(done == (count >= 8));
    if (done) CHECK(a->completion->recorded == (count >= 10));
    CHECK((done || !was_completed));
    was_completed = done;
    for (const auto& [name, job] : state.jobs) {
      for (const AttemptRecord& attempt : job.attempts) CHECK(attempt.name.number <= job.last_attempt);
    }
  }
}

TEST_CASE("a worker's completion counts as long as the runner has not decided otherwise") {
  Journal journal;
  journal.add("runner-1", session(1)).add("runner-1", started(kFirst)).add("a-1-00000a", stage_completed(kFirst));
  RunState state = replay(journal.files);
  CHECK(state.state_of("a") == JobState::completed);
  CHECK_FALSE(state.find("a")->completion->recorded);
  CHECK(state.find("a")->completion->fingerprint == sample_fingerprint());

  // The runner looked, and the outputs were not there.
  journal.add("runner-1", ended(kFirst, "failed", "a lie"));
  journal.add("runner-1", sample_event("job_failed", {{"job", "a"}, {"reason", "a lie"}}));
  state = replay(journal.files);
  CHECK(state.state_of("a") == JobState::failed);
  CHECK(state.find("a")->reason == "a lie");
  CHECK_FALSE(state.find("a")->completion);
}

TEST_CASE("a ghost of another attempt is ignored with a warning") {
  Journal journal;
  const AttemptName ghost{"a", 1, "ffffff"};
  journal.add("runner-1", session(1)).add("runner-1", started(kFirst));
  journal.add("a-1-ffffff", stage_completed(ghost));
  journal.add("runner-1", completed(ghost));
  journal.add("c-1-00000a", stage_completed({"c", 1, "00000a"}));
  const RunState state = replay(journal.files);
  CHECK(state.state_of("a") == JobState::running);
  CHECK(state.state_of("c") == JobState::waiting);
  REQUIRE(state.warnings.size() == 3);
  CHECK(state.warnings[1] == "a-1-ffffff.jsonl:1: event is of an attempt that no runner has started: ignored");
}

TEST_CASE("a new runner tries again what the one before gave up") {
  Journal journal;
  journal.add("runner-1", session(1))
      .add("runner-1", started(kFirst))
      .add("runner-1", ended(kFirst, "failed", "no"))
      .add("runner-1", sample_event("job_failed", {{"job", "a"}, {"reason", "no"}}))
      .add("runner-1", sample_event("job_blocked", {{"job", "b"}, {"by", "a"}}));
  RunState state = replay(journal.files);
  CHECK(state.state_of("a") == JobState::failed);
  CHECK(state.state_of("b") == JobState::blocked);
  CHECK(state.find("b")->by == "a");
  journal.add("runner-2", session(2));
  state = replay(journal.files);
  CHECK(state.state_of("a") == JobState::waiting);
  CHECK(state.state_of("b") == JobState::waiting);
}

TEST_CASE("a reused job is finished without an attempt") {
  Journal journal;
  journal.add("runner-1", session(1))
      .add("runner-1", attempt_event("job_reused", kFirst,
                                     {{"fingerprint", sample_fingerprint()},
                                      {"outputs", sample_outputs("x")},
                                      {"from_run", "old-run"},
                                      {"from_job", "z"}}));
  const RunState state = replay(journal.files);
  const JobRecord& job = *state.find("a");
  CHECK(job.state == JobState::reused);
  CHECK(job.attempts.empty());
  CHECK(job.last_attempt == 1);
  CHECK(job.from_run == "old-run");
  CHECK(job.completion->completed.attempt_dir == "jobs/a/attempts/1-00000a");
}

TEST_CASE("torn, malformed, unknown and foreign lines are dropped with a warning that names them") {
  const test::TemporaryFolder folder;
  {
    Writer writer(folder.path(), "runner-1");
    writer.append(session(1));
    writer.append(started(kFirst));
  }
  const std::filesystem::path path = folder.path() / "runner-1.jsonl";
  std::ofstream(path, std::ios::app) << "{\"event\":\"party\"}\n{\"event\":\"runner_ended\",\"outcome\":\"fine\"}\n\n"
                                     << "{\"event\":\"runner_ended\",\"outcome\":\"failed\",\"seq\":9,\"writer\":\"x\","
                                     << "\"time\":\"2026-01-31T12:34:56.123456Z\"}\n{\"event\":\"runner_en";
  std::vector<JournalFile> files = read_journal(folder.path());
  REQUIRE(files.size() == 1);
  CHECK(files[0].events.size() == 2);
  std::vector<std::string> warnings = files[0].warnings;
  std::sort(warnings.begin(), warnings.end());
  REQUIRE(warnings.size() == 4);
  CHECK(warnings[0] == "runner-1.jsonl:3: unknown event 'party': skipped");
  CHECK(warnings[1] == "runner-1.jsonl:4: event 'runner_ended': lacks 'time': skipped");
  CHECK(warnings[2] == "runner-1.jsonl:6: event of another writer: skipped");
  CHECK(warnings[3] == "runner-1.jsonl:7: torn line dropped");
  CHECK(replay(files).state_of("a") == JobState::running);
  // Another writer of that name goes on behind the torn line.
  Writer(folder.path(), "runner-1").append(ended(kFirst, "stopped"));
  CHECK(replay(read_journal(folder.path())).state_of("a") == JobState::stopped);
  CHECK(read_journal_file(folder.path(), "nobody").events.empty());
}

TEST_CASE("workers' files that have no say any more are not read") {
  const test::TemporaryFolder folder;
  const auto torn = [&](const AttemptName& name) {
    std::ofstream(folder.path() / (name.writer() + ".jsonl")) << "{\"event\":\"stage_com";
  };
  // `a` is completed in its second attempt; `b` was ended too, but its runner has not said what became of it.
  for (const AttemptName& name : {kFirst, kSecond, kOther}) torn(name);
  {
    Writer runner(folder.path(), "runner-1");
    runner.append(session(1));
    for (const json& event : {started(kFirst), ended(kFirst, "failed"), started(kSecond), ended(kSecond, "completed"),
                              completed(kSecond), started(kOther), ended(kOther, "completed")}) {
      runner.append(event);
    }
  }
  std::vector<std::string> writers;
  for (const JournalFile& file : read_journal(folder.path())) writers.push_back(file.writer);
  CHECK(writers == std::vector<std::string>{"b-1-00000c", "runner-1"});
  const RunState state = replay(read_journal(folder.path()));
  CHECK(state.state_of("a") == JobState::completed);
  CHECK(state.warnings == std::vector<std::string>{"b-1-00000c.jsonl:1: torn line dropped"});
}

TEST_CASE("10,000 events are replayed") {
  const test::TemporaryFolder folder;
  {
    io::JsonLinesWriter writer(folder.path() / "runner-1.jsonl");
    json event = session(1);
    std::size_t seq = 0;
    const auto put = [&](json next) {
      next["writer"] = "runner-1";
      next["seq"] = seq++;
      next["time"] = "2026-01-31T12:34:56.123456Z";
      writer.append(next, false);
    };
    put(event);
    for (int i = 0; i < 3333; ++i) {
      const AttemptName name{"job." + std::to_string(i), 1, "00000a"};
      put(started(name));
      put(ended(name, "completed"));
      put(completed(name));
    }
  }
  const RunState state = replay(read_journal(folder.path()));
  CHECK(state.warnings.empty());
  REQUIRE(state.jobs.size() == 3333);
  CHECK(std::all_of(state.jobs.begin(), state.jobs.end(),
                    [](const auto& job) { return job.second.attempts.size() == 1; }));
}

TEST_CASE("supervisors of Slurm jobs follow the runner that submitted them, by their attempts") {
  const auto supervisor = [](int restart) {
    return sample_event("supervisor_started", {{"session", 1},
                                               {"job", "a"},
                                               {"slurm_job", "12_0"},
                                               {"restart", restart},
                                               {"host", "n1"},
                                               {"pid", 7},
                                               {"nodes", "n1"}});
  };
  Journal journal;
  journal.add("runner-1", session(1))
      .add("runner-1", sample_event("group_submitted",
                                    {{"group", "a"}, {"slurm_job", "12"}, {"jobs", {"a", "b"}}, {"indices", {0, 1}}}))
      .add("runner-1", sample_event("runner_ended", {{"outcome", "submitted"}}));
  // By name, the file of the later one comes first.
  journal.add("slurm-z", supervisor(0)).add("slurm-z", started(kFirst));
  journal.add("slurm-a", supervisor(1)).add("slurm-a", started(kSecond));
  RunState state = replay(journal.files);
  CHECK(state.warnings.empty());
  CHECK(state.sessions.back().submitted);
  CHECK(state.find("a")->slurm_job == "12_0");
  CHECK(state.find("b")->slurm_job == "12_1");
  REQUIRE(state.find("a")->attempts.size() == 2);
  CHECK(state.find("a")->attempts[0].state == AttemptState::lost);
  CHECK(state.find("a")->attempts[1].state == AttemptState::running);
  CHECK(state.find("a")->attempts[1].session == 1);

  // The ghost of the first attempt ends later: the second one's word stands.
  journal.add("slurm-z", ended(kFirst, "failed", "a ghost"));
  journal.add("slurm-a", ended(kSecond, "stopped"));
  journal.add("slurm-a",
              sample_event("job_requeued",
                           {{"job", "a"}, {"slurm_job", "12_0"}, {"reason", "its time was up"}, {"off_nodes", ""}}));
  state = replay(journal.files);
  CHECK(state.state_of("a") == JobState::waiting);
  CHECK(state.find("a")->reason == "its time was up");
  CHECK_FALSE(state.find("a")->given_up);
  journal.add("slurm-a", sample_event("job_failed", {{"job", "a"}, {"reason", "no"}}));
  CHECK(replay(journal.files).find("a")->given_up);

  // The next session begins anew.
  journal.add("runner-2", session(2));
  state = replay(journal.files);
  CHECK(state.state_of("a") == JobState::waiting);
  CHECK(state.find("a")->slurm_job.empty());
  CHECK_FALSE(state.find("a")->given_up);
}

}  // namespace
}  // namespace braise::journal
