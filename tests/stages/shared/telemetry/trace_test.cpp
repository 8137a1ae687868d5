// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/telemetry/trace.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "kernels/core/error.h"
#include "stages/shared/io/file.h"
#include "stages/shared/telemetry/phase_timer.h"
#include "tests/support/support.h"

namespace braise::telemetry {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;
using std::chrono::microseconds;
using std::chrono::nanoseconds;

json read(const fs::path& path) {
  return json::parse(io::read_file(path));
}

std::vector<json> spans(const json& trace) {
  std::vector<json> found;
  for (const json& event : trace.at("traceEvents")) {
    if (event.at("ph") == "X") found.push_back(event);
  }
  return found;
}

const json& named(const std::vector<json>& events, const std::string& name) {
  const auto found =
      std::find_if(events.begin(), events.end(), [&](const json& event) { return event["name"] == name; });
  REQUIRE(found != events.end());
  return *found;
}

/// Microseconds with three decimals, as whole nanoseconds.
std::int64_t ns(const json& value) {
  return std::llround(value.get<double>() * 1000);
}

/// What viewers ask of a trace: every event has its process, thread and name; spans have time and length, come sorted
/// by time, and on a thread lie within each other or apart; every thread and process has a name.
void check_format(const json& trace) {
  REQUIRE(trace.at("traceEvents").is_array());
  std::map<std::pair<int, int>, std::vector<std::int64_t>> open;  // ends of the spans that enclose, by thread
  std::map<int, std::int64_t> latest;                             // by process
  std::set<std::pair<int, int>> named_threads;
  std::set<int> named_processes;
  for (const json& event : trace.at("traceEvents")) {
    INFO(event.dump());
    REQUIRE(event.at("pid").is_number_integer());
    REQUIRE(event.at("tid").is_number_integer());
    REQUIRE(event.at("name").is_string());
    REQUIRE(event.at("args").is_object());
    const std::pair<int, int> thread(event.at("pid"), event.at("tid"));
    if (event.at("ph") == "M") {
      if (event.at("name") == "thread_name") named_threads.insert(thread);
      if (event.at("name") == "process_name") named_processes.insert(thread.first);
      continue;
    }
    REQUIRE(event.at("ph") == "X");
    REQUIRE(event.at("cat").is_string());
    CHECK(named_threads.contains(thread));
    CHECK(named_processes.contains(thread.first));
    const std::int64_t begin = ns(event.at("ts")), end = begin + ns(event.at("dur"));
    CHECK(begin >= 0);
    CHECK(end >= begin);
    if (latest.contains(thread.first)) CHECK(begin >= latest[thread.first]);
    latest[thread.first] = begin;
    auto& enclosing = open[thread];
    while (!enclosing.empty() && enclosing.back() <= begin) enclosing.pop_back();
    if (!enclosing.empty()) CHECK(end <= enclosing.back());
    enclosing.push_back(end);
  }
}

void busy() {
  const auto until = Clock::now() + microseconds(20);
  while (Clock::now() < until) {
  }
}

/// Trains steps 1 to `last` on a rank, with phases, parts of them and a thread beside them.
void train(const fs::path& folder, int rank, const std::set<std::int64_t>& chosen, std::int64_t last) {
  Profile profile{PhaseTimer(), Trace(folder, rank, chosen, Clock::now())};
  for (std::int64_t step = 1; step <= last; ++step) {
    profile.trace.begin_step(step);
    std::thread saver([&] {
      profile.trace.name_thread("saver");
      const Span span(profile.trace, "save", "write shard", {{"bytes", 4096}, {"part", 1}});
      busy();
    });
    {
      const Scope scope(profile, Phase::kData, "batch");
      busy();
    }
    for (int micro = 0; micro < 2; ++micro) {
      const Scope scope(profile, Phase::kForward, "forward", {{"micro", micro}});
      for (const char* part : {"h.0", "h.1"}) {
        const Span span(profile.trace, "layer", part);
        busy();
      }
    }
    saver.join();
    profile.trace.end_step();
    profile.phases.count_step();
  }
}

TEST_CASE("chosen steps are traced, in a form that viewers can read") {
  const test::TemporaryFolder folder;
  train(folder.path(), 3, {2, 3, 5}, 6);
  const json trace = read(folder.path() / "trace.3.json");
  check_format(trace);
  const std::vector<json> all = spans(trace);
  std::map<std::string, int> count;
  for (const json& span : all) {
    ++count[span.at("name")];
    CHECK(span.at("pid") == 3);
  }
  CHECK(count == std::map<std::string, int>{{"step 2", 1},
                                            {"step 3", 1},
                                            {"step 5", 1},
                                            {"batch", 3},
                                            {"forward", 6},
                                            {"h.0", 6},
                                            {"h.1", 6},
                                            {"write shard", 3}});
  const json& step = named(all, "step 2");
  const json& forward = named(all, "forward");
  CHECK(forward.at("cat") == "forward");
  CHECK(forward.at("args") == json{{"micro", 0}});
  CHECK(forward.at("tid") == step.at("tid"));
  CHECK(ns(forward.at("ts")) >= ns(step.at("ts")));
  CHECK(ns(forward.at("dur")) >= 40'000);
  const json& shard = named(all, "write shard");
  CHECK(shard.at("tid") != step.at("tid"));
  CHECK(shard.at("args") == json{{"bytes", 4096}, {"part", 1}});
  bool has_saver = false;
  for (const json& event : trace.at("traceEvents")) {
    has_saver = has_saver || (event.at("name") == "thread_name" && event.at("tid") == shard.at("tid") &&
                              event.at("args").at("name") == "saver");
  }
  CHECK(has_saver);
}

TEST_CASE("a trace is on the disk as soon as its last step in a row has ended, and not before") {
  const test::TemporaryFolder folder;
  const fs::path file = folder.path() / "trace.0.json";
  Trace trace(folder.path(), 0, {1, 2, 4}, Clock::now());
  trace.begin_step(1);
  CHECK(trace.is_on());
  trace.end_step();
  CHECK_FALSE(trace.is_on());
  CHECK_FALSE(fs::exists(file));
  trace.begin_step(2);
  trace.end_step();
  CHECK(spans(read(file)).size() == 2);
  trace.begin_step(3);
  CHECK_FALSE(trace.is_on());
  trace.end_step();
  CHECK(spans(read(file)).size() == 2);
  trace.begin_step(4);
  trace.close();  // training is stopped within the step
  CHECK(spans(read(file)).size() == 2);
  trace.end_step();
  CHECK(spans(read(file)).size() == 3);
}

TEST_CASE("training that ends among chosen steps leaves what was traced") {
  const test::TemporaryFolder folder;
  Trace trace(folder.path(), 0, {1, 2}, Clock::now());
  trace.begin_step(1);
  trace.end_step();
  trace.close();
  CHECK(spans(read(folder.path() / "trace.0.json")).size() == 1);
}

TEST_CASE("nothing is traced or written where no step is chosen") {
  const test::TemporaryFolder folder;
  train(folder.path(), 0, {}, 3);
  CHECK(fs::is_empty(folder.path()));
}

TEST_CASE("times are kept to the nanosecond, and names whatever they hold") {
  const test::TemporaryFolder folder;
  const Clock::time_point zero = Clock::now();
  Trace trace(folder.path(), 0, {1}, zero);
  trace.begin_step(1);
  trace.record("a \"cat\"", "größe\n\xff", zero + nanoseconds(1'234'567'891'012),
               zero + nanoseconds(1'234'567'891'019));
  trace.end_step();
  const std::vector<json> all = spans(read(folder.path() / "trace.0.json"));
  REQUIRE(all.size() == 2);
  CHECK(all[1].at("cat") == "a \"cat\"");
  CHECK(all[1].at("name") == "größe\n\xef\xbf\xbd");
  CHECK(io::read_file(folder.path() / "trace.0.json").find("\"ts\":1234567891.012,\"dur\":0.007,") !=
        std::string::npos);
}

TEST_CASE("spans that begin together are told outer first") {
  const test::TemporaryFolder folder;
  const Clock::time_point zero = Clock::now();
  Trace trace(folder.path(), 0, {1}, zero);
  trace.begin_step(1);
  const Clock::time_point begin = zero + std::chrono::hours(1);
  trace.record("c", "inner", begin, begin + microseconds(5));
  trace.record("c", "outer", begin, begin + microseconds(9));
  trace.end_step();
  const json written = read(folder.path() / "trace.0.json");
  check_format(written);
  CHECK(spans(written)[1].at("name") == "outer");
}

TEST_CASE("threads may trace at once") {
  const test::TemporaryFolder folder;
  Trace trace(folder.path(), 0, {1}, Clock::now());
  trace.begin_step(1);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 100; ++j) {
        const Span outer(trace, "c", "outer");
        const Span inner(trace, "c", "inner");
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  trace.end_step();
  const json written = read(folder.path() / "trace.0.json");
  check_format(written);
  CHECK(spans(written).size() == 801);
}

TEST_CASE("the ranks' traces are put together in one file, and a missing one is named") {
  const test::TemporaryFolder folder;
  merge_traces(folder.path(), 3);
  CHECK(fs::is_empty(folder.path()));
  for (int rank = 0; rank < 3; ++rank) train(folder.path(), rank, {1}, 1);
  merge_traces(folder.path(), 3);
  const json merged = read(folder.path() / "trace.json");
  check_format(merged);
  std::size_t apart = 0;
  for (int rank = 0; rank < 3; ++rank) {
    apart += read(folder.path() / ("trace." + std::to_string(rank) + ".json")).at("traceEvents").size();
  }
  CHECK(merged.at("traceEvents").size() == apart);
  CHECK_THROWS_WITH(merge_traces(folder.path(), 4), Catch::Contains("trace.3.json"));
  folder.write("trace.3.json", "{\"traceEvents\":[");
  CHECK_THROWS_WITH(merge_traces(folder.path(), 4), Catch::Contains("trace.3.json is not a whole trace"));
}

}  // namespace
}  // namespace braise::telemetry
