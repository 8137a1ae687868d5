// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/telemetry/train_metrics.h"

#include <fcntl.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "kernels/core/error.h"
#include "stages/shared/io/file.h"
#include "stages/shared/io/json_lines.h"
#include "stages/shared/telemetry/tf_record.h"
#include "tests/support/schema.h"
#include "tests/support/support.h"

namespace braise::telemetry {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Whether the worker would take the line.
bool is_valid(json line) {
  line["time"] = "2026-01-31T12:34:56.123456Z";
  return test::schema_faults(line, "metrics.schema.json").empty();
}

/// Writes lines as a worker does: what can be read back is what counts.
void append(const fs::path& attempt, const json& line) {
  CHECK(is_valid(line));
  fs::create_directories(attempt);
  io::JsonLinesWriter(attempt / "metrics.jsonl").append(line, false);
}

StepValues values(std::int64_t step, double loss, Clock::time_point finished = {}) {
  StepValues step_values;
  step_values.step = step;
  step_values.loss = loss;
  step_values.lr = 1e-3;
  step_values.tokens = 100;
  step_values.finished = finished;
  return step_values;
}

/// A loss that every attempt would find again at that step.
double loss_of(std::int64_t step) {
  return 5.0 / static_cast<double>(step) + 1.0 / 3;
}

MemoryPeaks some_peaks() {
  core::MemoryLedger ledger;
  ledger.charge(core::Space::kDevice, core::Category::kParameters, "a", 1000);
  ledger.charge(core::Space::kDevice, core::Category::kActivations, "a", 500);
  ledger.release(core::Space::kDevice, core::Category::kActivations, "a", 500);
  ledger.charge(core::Space::kDevice, core::Category::kWorkspace, "a", 200);
  ledger.charge(core::Space::kHost, core::Category::kMaster, "a", 4000);
  return MemoryPeaks::of(ledger);
}

TEST_CASE("a step's line has its values, as the schema says") {
  const Clock::time_point start;
  TrainMetrics metrics({.steps = 20, .flops_per_token = 6e6, .gemm_flops = 1.2e9}, {}, start);
  const json begin = metrics.begin();
  CHECK(begin == json{{"resume_step", 0}, {"step", 0}, {"steps", 20}, {"tokens", 0}});
  CHECK(is_valid(begin));
  StepValues first = values(1, 0.1f, start + seconds(2));
  first.grad_norm = 0.5;
  first.loss_scale = 65536;
  first.is_skipped = true;
  const json line = metrics.step(first, some_peaks());
  CHECK(is_valid(line));
  CHECK(line.at("step") == 1);
  CHECK(line.at("steps") == 20);
  CHECK(line.at("loss") == static_cast<double>(0.1f));
  CHECK(line.at("loss_bits") == "3fb99999a0000000");
  CHECK(line.at("loss_smoothed").get<double>() == Approx(0.1f));
  CHECK(line.at("grad_norm") == 0.5);
  CHECK(line.at("loss_scale") == 65536);
  CHECK(line.at("skipped") == true);
  CHECK(line.at("tokens") == 100);
  CHECK(line.at("rate") == 50);
  CHECK(line.at("unit") == "tokens/s");
  CHECK(line.at("mfu").get<double>() == Approx(50 * 6e6 / 1.2e9));
  CHECK(line.at("eta_s") == 38);
  CHECK(line.at("memory_peak_bytes") == 5500);
  CHECK(line.at("memory_peaks") == json{{"device", {{"parameters", 1000}, {"activations", 500}, {"workspace", 200}}},
                                        {"host", {{"master", 4000}}}});
  const json next = metrics.step(values(2, 0.1, start + seconds(3)), some_peaks());
  CHECK(is_valid(next));
  CHECK(next.at("tokens") == 200);
  for (const char* key : {"memory_peaks", "grad_norm", "loss_scale", "skipped"}) CHECK_FALSE(next.contains(key));
  CHECK(next.at("eta_s") == 18);  // a step a second: the first, which took two, is not reckoned with
  CHECK_THROWS_WITH(metrics.step(values(4, 1), {}), Catch::Contains("metrics of step 4 come after those of step 2"));
}

TEST_CASE("losses that are not finite are told, to the bit, and not smoothed") {
  TrainMetrics metrics({.steps = 3}, {}, {});
  StepValues bad = values(1, kNan);
  bad.grad_norm = kInfinity;
  const json line = metrics.step(bad, {});
  CHECK(is_valid(line));
  CHECK(line.at("loss").is_null());
  CHECK(std::isnan(from_bits_text(line.at("loss_bits"))));
  CHECK(line.at("grad_norm").is_null());
  CHECK_FALSE(line.contains("loss_smoothed"));
  const json after = metrics.step(values(2, 2.0), {});
  CHECK(after.at("loss_smoothed").get<double>() == Approx(2.0));
  CHECK(is_valid(metrics.validation(2, -kInfinity)));
}

TEST_CASE("the smoothed loss is the exponential mean, corrected for its start") {
  TrainMetrics metrics({.steps = 100}, {}, {});
  double weights = 0, sum = 0;
  json line;
  for (std::int64_t step = 1; step <= 100; ++step) line = metrics.step(values(step, loss_of(step)), {});
  for (std::int64_t step = 1; step <= 100; ++step) {
    const double weight = std::pow(0.98, 100 - static_cast<double>(step));
    weights += weight;
    sum += weight * loss_of(step);
  }
  CHECK(line.at("loss_smoothed").get<double>() == Approx(sum / weights).epsilon(1e-12));
}

TEST_CASE("the speed is that of the last ten seconds") {
  const Clock::time_point start;
  TrainMetrics metrics({.steps = 1000}, {}, start);
  json line;
  std::int64_t step = 0;
  for (int i = 1; i <= 30; ++i) line = metrics.step(values(++step, 1, start + seconds(i)), {});
  CHECK(line.at("rate") == 100);
  for (int i = 1; i <= 4; ++i) line = metrics.step(values(++step, 1, start + seconds(30) + milliseconds(500 * i)), {});
  CHECK(line.at("rate") == 120);  // 8 s at a step a second, 2 s at two
  for (int i = 5; i <= 20; ++i) line = metrics.step(values(++step, 1, start + seconds(30) + milliseconds(500 * i)), {});
  CHECK(line.at("rate") == 200);
  // A step of its own length: its speed is all there is.
  line = metrics.step(values(++step, 1, start + seconds(100)), {});
  CHECK(line.at("rate").get<double>() == Approx(100.0 / 60));
  CHECK_FALSE(line.contains("mfu"));
}

TEST_CASE("peaks of ranks are put together, and travel as text") {
  MemoryPeaks peaks = some_peaks();
  CHECK(peaks.totals == std::array<std::int64_t, 2>{1500, 4000});
  MemoryPeaks other;
  other.categories[1][0] = 7;
  other.totals = {1600, 100};
  peaks.raise_to(other);
  CHECK(peaks.totals == std::array<std::int64_t, 2>{1600, 4000});
  CHECK(peaks.categories[1][0] == 7);
  CHECK(peaks.categories[0][0] == 1000);
  CHECK(MemoryPeaks::from_text(peaks.to_text()) == peaks);
  CHECK_FALSE(peaks == other);
}

TEST_CASE("the line of the end has the phases of all ranks and what came of the expectation") {
  TrainMetrics metrics({.steps = 10, .resume_step = 4, .resume_tokens = 400}, {}, {});
  PhaseTotals fast, slow;
  fast.seconds[0] = 1;
  fast.seconds[7] = 3;
  fast.steps = slow.steps = 6;
  slow.seconds[0] = 2;
  const json line = metrics.end({fast, slow}, some_peaks(), Expectation{"validation loss", 1.84, 2.0});
  CHECK(is_valid(line));
  CHECK(line.at("step") == 4);
  CHECK(line.at("tokens") == 400);
  CHECK(line.at("phases").at("steps") == 6);
  CHECK(line.at("phases").at("ranks") == 2);
  CHECK(line.at("phases").at("mean_s").at("data") == 1.5);
  CHECK(line.at("phases").at("max_s").at("data") == 2);
  CHECK(line.at("phases").at("mean_s").at("other") == 1.5);
  CHECK(line.at("expectation") == json{{"what", "validation loss"}, {"value", 1.84}, {"at_most", 2.0}, {"met", true}});
  CHECK(metrics.end({fast}, {}, Expectation{"validation loss", kNan, 2.0}).at("expectation").at("met") == false);
  CHECK(is_valid(metrics.end({fast}, {}, Expectation{"validation loss", kNan, 2.0})));
  CHECK_FALSE(metrics.end({fast}, {}).contains("expectation"));
}

TEST_CASE("lines that are not as the schema says are refused") {
  TrainMetrics metrics({.steps = 10}, {}, {});
  const json good = metrics.step(values(1, 1), some_peaks());
  const auto without = [](json line, const char* key) {
    line.erase(key);
    return line;
  };
  const auto with = [](json line, const char* pointer, json value) {
    line[json::json_pointer(pointer)] = std::move(value);
    return line;
  };
  CHECK(is_valid(good));
  CHECK_FALSE(is_valid(without(good, "loss_bits")));
  CHECK_FALSE(is_valid(without(good, "loss")));
  CHECK_FALSE(is_valid(without(good, "step")));
  CHECK_FALSE(is_valid(with(good, "/loss_bits", "3FF")));
  CHECK_FALSE(is_valid(with(good, "/loss", "1")));
  CHECK_FALSE(is_valid(with(good, "/skipped", false)));
  CHECK_FALSE(is_valid(with(good, "/memory_peaks/device/pictures", 1)));
  CHECK_FALSE(is_valid(with(good, "/memory_peaks/moon", json::object())));
  const json end = metrics.end({PhaseTotals()}, {});
  CHECK_FALSE(is_valid(without(end, "step")));
  CHECK_FALSE(is_valid(with(end, "/phases/mean_s/lunch", 1)));
}

TEST_CASE("FLOPs of a token: six a weight, and attention") {
  CHECK(train_flops_per_token(1000, 2, 16, 64) == 6 * 1000 + 12 * 2 * 16 * 64);
}

TEST_CASE("losses keep their bits as text") {
  CHECK(bits_text(1.0) == "3ff0000000000000");
  CHECK(bits_text(-0.0) == "8000000000000000");
  for (const double loss : {1.0 / 3, 5e-324, kInfinity, -1e308}) CHECK(from_bits_text(bits_text(loss)) == loss);
  for (const char* text : {"", "3ff", "3ff000000000000g", "3ff00000000000000", "0x3ff00000000000"}) {
    CHECK_THROWS_AS(from_bits_text(text), core::Error);
  }
}

/// Trains to `steps` in attempts that are killed at random, each going on from the last step saved. Every other step is
/// validated, every third one saved.
std::vector<fs::path> train_with_kills(const fs::path& folder, std::int64_t steps, unsigned seed, bool events) {
  std::mt19937 random(seed);
  std::vector<fs::path> attempts, event_folders;
  std::int64_t saved = 0;
  for (bool done = false; !done;) {
    const fs::path attempt = folder / std::to_string(attempts.size() + 1);
    fs::create_directories(attempt);
    TrainMetrics metrics({.steps = steps, .resume_step = saved, .resume_tokens = 100 * saved}, read_losses(attempts),
                         {});
    std::optional<EventFile> file;
    if (events) file.emplace(attempt / "tensorboard", event_folders);
    std::int64_t lines_left = 1 + static_cast<std::int64_t>(random() % 25);
    bool killed = false;
    const auto tell = [&](const json& line) {
      if (killed) return;
      if (file) add_to_events(*file, line);
      append(attempt, line);
      killed = --lines_left == 0;
    };
    tell(metrics.begin());
    if (file && saved == 0) file->add_text(0, "recipe", "# Recipe\n\n    steps: 60\n");
    std::int64_t step = saved;
    while (step < steps && !killed) {
      ++step;
      tell(metrics.step(values(step, loss_of(step)), some_peaks()));
      if (step % 2 == 0) tell(metrics.validation(step, 2 * loss_of(step)));
      if (step % 7 == 0 && random() % 4 == 0 && !killed) {  // a bad gradient: back to what was saved
        step = saved;
        tell(metrics.roll_back(saved, 100 * saved, {}));
      }
      if (step % 3 == 0 && !killed) saved = step;
    }
    if (!killed) tell(metrics.end({PhaseTotals()}, {}));
    done = !killed && step == steps;
    attempts.push_back(attempt);
    event_folders.push_back(attempt / "tensorboard");
    // The write that a kill cut off.
    if (!done && random() % 2 == 0) {
      io::FileDescriptor metrics_file(::open((attempt / "metrics.jsonl").c_str(), O_WRONLY | O_APPEND | O_CLOEXEC));
      io::write_all(metrics_file.get(), "{\"step\":9999,\"loss\":1,\"loss_bits\":\"3ff0", attempt);
    }
  }
  return attempts;
}

TEST_CASE("every step is told once with its loss, however often training was killed or went back") {
  std::size_t most_attempts = 0;
  for (unsigned seed = 1; seed <= 20; ++seed) {
    INFO("seed " << seed);
    const test::TemporaryFolder folder;
    const std::int64_t steps = 60;
    const std::vector<fs::path> attempts = train_with_kills(folder.path(), steps, seed, false);
    most_attempts = std::max(most_attempts, attempts.size());
    std::map<std::int64_t, int> told, validated;
    std::int64_t latest = 0;
    double sum = 0, weights = 0;
    for (const json& line : read_metrics(attempts)) {
      const std::int64_t step = line.at("step");
      if (line.contains("validation_loss")) ++validated[step];
      if (!line.contains("loss")) continue;
      ++told[step];
      CHECK(step == latest + 1);
      latest = step;
      CHECK(line.at("loss_bits") == bits_text(loss_of(step)));
      CHECK(line.at("tokens") == 100 * step);
      sum = 0.98 * sum + 0.02 * loss_of(step);
      weights = 0.98 * weights + 0.02;
      CHECK(line.at("loss_smoothed").get<double>() == Approx(sum / weights).epsilon(1e-12));
    }
    CHECK(told.size() == steps);
    CHECK(validated.size() == steps / 2);
    for (const auto& [step, count] : told) CHECK(count == 1);
    for (const auto& [step, count] : validated) CHECK(count == 1);
    const std::vector<StepLoss> losses = read_losses(attempts);
    REQUIRE(losses.size() == steps);
    for (std::int64_t step = 1; step <= steps; ++step) {
      CHECK(losses[static_cast<std::size_t>(step - 1)].step == step);
      CHECK(losses[static_cast<std::size_t>(step - 1)].loss == loss_of(step));
    }
  }
  CHECK(most_attempts > 5);
}

TEST_CASE("attempts that left no metrics are passed over") {
  const test::TemporaryFolder folder;
  append(folder.path() / "1", {{"step", 3}, {"steps", 5}});
  fs::create_directories(folder.path() / "2");
  CHECK(read_metrics({folder.path() / "1", folder.path() / "2", folder.path() / "3"}).size() == 1);
}

/// The tags of all events of a file, and how often.
std::map<std::string, int> tags(const fs::path& path) {
  std::map<std::string, int> found;
  const std::string bytes = io::read_file(path);
  std::size_t offset = 0;
  while (const auto event = read_tf_record(bytes, offset)) {
    for (const char* tag :
         {"train/loss", "train/loss_smoothed", "train/lr", "train/grad_norm", "train/loss_scale",
          "speed/tokens_per_second", "speed/mfu", "validation/loss", "memory/peak_bytes", "memory/host/master"}) {
      // A tag is preceded by its length and followed by the next field's key.
      const std::string written = static_cast<char>(std::string(tag).size()) + std::string(tag) + '\x15';
      if (event->find(written) != std::string_view::npos) ++found[tag];
    }
  }
  return found;
}

TEST_CASE("every figure is a curve of its own for TensorBoard") {
  const test::TemporaryFolder folder;
  EventFile file(folder.path(), {});
  const Clock::time_point start;
  TrainMetrics metrics({.steps = 2, .flops_per_token = 1, .gemm_flops = 1}, {}, start);
  add_to_events(file, metrics.begin());
  StepValues step = values(1, kNan, start + seconds(1));
  step.grad_norm = 1;
  step.loss_scale = 2;
  add_to_events(file, metrics.step(step, some_peaks()));
  add_to_events(file, metrics.step(values(2, 1, start + seconds(2)), some_peaks()));
  add_to_events(file, metrics.validation(2, 1));
  const std::uintmax_t size = fs::file_size(file.path());
  add_to_events(file, {{"step", 2}, {"steps", 2}});
  CHECK(fs::file_size(file.path()) == size);
  CHECK(tags(file.path()) == std::map<std::string, int>{{"train/loss", 2},
                                                        {"train/loss_smoothed", 1},
                                                        {"train/lr", 2},
                                                        {"train/grad_norm", 1},
                                                        {"train/loss_scale", 1},
                                                        {"speed/tokens_per_second", 2},
                                                        {"speed/mfu", 2},
                                                        {"validation/loss", 1},
                                                        {"memory/peak_bytes", 1},
                                                        {"memory/host/master", 1}});
}

/// For read_with_tensorboard.py, which is run by hand.
TEST_CASE("leaves the event files of a training that was killed often", "[.tensorboard]") {
  const char* folder = std::getenv("BRAISE_EVENT_FILES");
  REQUIRE(folder != nullptr);
  const std::vector<fs::path> attempts = train_with_kills(folder, 60, 3, true);
  for (const fs::path& attempt : attempts) WARN(attempt.string());
}

}  // namespace
}  // namespace braise::telemetry
