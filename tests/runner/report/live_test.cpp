// SPDX-License-Identifier: Apache-2.0
#include "runner/report/live.h"

#include <catch2/catch.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "stages/shared/io/file.h"
#include "stages/shared/telemetry/metrics_lines.h"
#include "tests/runner/report/training_lines.h"
#include "tests/support/support.h"

namespace braise::report {
namespace {

using nlohmann::json;
using std::chrono::seconds;

std::chrono::steady_clock::time_point fake_now;

/// What a display writes, to a file.
struct Shown {
  test::TemporaryFolder folder;
  std::filesystem::path path = folder.path() / "shown";
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file{std::fopen(path.c_str(), "w"), std::fclose};
  journal::AttemptName attempt{"pretrain", 1, "aaaaaa"};
  stages::JobSpec job;

  Shown() {
    job.job = job.stage = "pretrain";
    job.kind = "train";
    job.resources.nodes = 1;
    job.resources.workers_per_node = 2;
    job.resources.threads = 1;
    fake_now = {};
  }
  LiveDisplay display(bool is_terminal, int columns) {
    return LiveDisplay(file.get(), is_terminal, columns, [] { return fake_now; });
  }
  /// What was written since the last call.
  std::string text() {
    std::fflush(file.get());
    const std::string all = io::read_file(path);
    return all.substr(std::exchange(read_, all.size()));
  }

 private:
  std::size_t read_ = 0;
};

TEST_CASE("a training's line on a terminal is redrawn in place, and fits it") {
  Shown shown;
  LiveDisplay display = shown.display(true, 100);
  display.attempt_started(shown.attempt, shown.job);
  display.metrics(shown.attempt, begin_line());
  for (std::int64_t step = 1; step <= 3; ++step) display.metrics(shown.attempt, step_line(step));
  fake_now += seconds(75);
  shown.text();
  display.tick();
  CHECK(shown.text() ==
        "\x1b[1A\x1b[J  pretrain  1 min 15 s  step 3/2000, loss 1.842 (smoothed 1.871), 41.2 k tokens/s, 1 min 12 s "
        "left\n");
  display.metrics(shown.attempt, validation_line(3));
  display.tick();
  CHECK(shown.text() ==
        "\x1b[1A\x1b[J  pretrain  1 min 15 s  step 3/2000, loss 1.842, validation 1.900, 41.2 k tokens/s, 1 min 12 s "
        "left\n");
}

TEST_CASE("the line on a narrow terminal never wraps") {
  for (int columns = 20; columns <= 200; ++columns) {
    Shown shown;
    LiveDisplay display = shown.display(true, columns);
    display.attempt_started(shown.attempt, shown.job);
    display.metrics(shown.attempt, step_line(1));
    shown.text();
    display.tick();
    const std::string text = shown.text();
    const std::string line = text.substr(text.rfind('J') + 1);
    CHECK(line.size() <= static_cast<std::size_t>(columns));  // with its newline
    CHECK(line.starts_with("  pretrain"));
  }
}

TEST_CASE("where there is no terminal, lines of a running training come ever more seldom") {
  Shown shown;
  LiveDisplay display = shown.display(false, 80);
  display.attempt_started(shown.attempt, shown.job);
  CHECK(shown.text() == "pretrain: started, train with 2 workers x 1 thread\n");
  int told_in_minutes[30] = {};
  for (int second = 1; second <= 30 * 60; ++second) {
    fake_now += seconds(1);
    display.metrics(shown.attempt, step_line(second));
    display.tick();
    const std::string text = shown.text();
    if (text.empty()) continue;
    CHECK(text == "pretrain: step " + std::to_string(second) +
                      "/2000, loss 1.842 (smoothed 1.871), lr 8.30e-04, grad norm 0.61, 41.2 k tokens/s, MFU 38 %, 812 "
                      "MiB peak, 1 min 12 s left\n");
    ++told_in_minutes[(second - 1) / 60];
  }
  CHECK(told_in_minutes[0] == 6);
  CHECK(told_in_minutes[4] <= 3);
  CHECK(told_in_minutes[20] == 1);
  CHECK(told_in_minutes[29] == 1);
}

TEST_CASE("a training is summed up at its end") {
  Shown shown;
  LiveDisplay display = shown.display(false, 80);
  display.attempt_started(shown.attempt, shown.job);
  display.metrics(shown.attempt, begin_line());
  display.metrics(shown.attempt, step_line(2000));
  display.metrics(shown.attempt, validation_line(2000));
  display.metrics(shown.attempt, end_line(2000));
  fake_now += seconds(20);
  shown.text();
  display.attempt_ended(shown.attempt, journal::AttemptState::completed, "", false);
  CHECK(shown.text() ==
        "pretrain: completed after 20 s\n"
        "pretrain: step 2000/2000, loss 1.842 (smoothed 1.871), validation 1.900, 812 MiB peak\n"
        "  phase          time   share  a step     slowest rank\n"
        "  data           0.5 s  3 %    0.25 ms    0.6 s\n"
        "  forward        6.0 s  30 %   3.000 ms   6.1 s\n"
        "  backward       12 s   60 %   6.000 ms   12 s\n"
        "  communication  1.0 s  5 %    0.5 ms     2.0 s\n"
        "  other          0.5 s  3 %    0.25 ms    0.5 s\n"
        "  total          20 s   100 %  10.000 ms\n"
        "pretrain: validation loss 1.900, expected at most 2.000: met\n");
}

TEST_CASE("a training that failed is told with where it stood, other stages as ever") {
  Shown shown;
  LiveDisplay display = shown.display(false, 80);
  display.attempt_started(shown.attempt, shown.job);
  display.metrics(shown.attempt, step_line(7));
  shown.text();
  display.attempt_ended(shown.attempt, journal::AttemptState::failed, "disk full", true);
  CHECK(shown.text() ==
        "pretrain: failed after 0.0 s: disk full; trying again\n"
        "pretrain: step 7/2000, loss 1.842 (smoothed 1.871), 812 MiB peak\n");
  display.attempt_started(shown.attempt, shown.job);
  display.metrics(shown.attempt, {{"step", 1}, {"steps", 2}});
  shown.text();
  display.attempt_ended(shown.attempt, journal::AttemptState::completed, "", false);
  CHECK(shown.text() == "pretrain: completed after 0.0 s\n");
}

}  // namespace
}  // namespace braise::report
