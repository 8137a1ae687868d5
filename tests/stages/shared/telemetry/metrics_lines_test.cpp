// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/telemetry/metrics_lines.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <nlohmann/json.hpp>

#include "stages/shared/telemetry/quantity.h"
#include "tests/support/support.h"

namespace braise::telemetry {
namespace {

using nlohmann::json;

const json kStep = {{"step", 1200},
                    {"steps", 2000},
                    {"loss", 1.8421},
                    {"loss_bits", bits_text(1.8421)},
                    {"loss_smoothed", 1.8712},
                    {"lr", 8.3e-4},
                    {"grad_norm", 0.61},
                    {"rate", 41234.0},
                    {"unit", "tokens/s"},
                    {"mfu", 0.381},
                    {"memory_peak_bytes", std::int64_t{812} << 20},
                    {"eta_s", 72}};

TEST_CASE("quantities for people") {
  CHECK(bytes_text(0) == "0 B");
  CHECK(bytes_text(1023) == "1023 B");
  CHECK(bytes_text(1024) == "1 KiB");
  CHECK(bytes_text(1536) == "1.5 KiB");
  CHECK(bytes_text(1048575) == "1 MiB");
  CHECK(bytes_text(std::uint64_t{150} << 30) == "150 GiB");
  CHECK(duration_text(-1) == "0.0 s");
  CHECK(duration_text(9.94) == "9.9 s");
  CHECK(duration_text(59.4) == "59 s");
  CHECK(duration_text(60) == "1 min 00 s");
  CHECK(duration_text(3661) == "1 h 01 min");
  CHECK(duration_text(90000) == "1 d 01 h");
  CHECK(count_text(0) == "0");
  CHECK(count_text(999.4) == "999");
  CHECK(count_text(999.6) == "1.00 k");
  CHECK(count_text(12345) == "12.3 k");
  CHECK(count_text(4560000) == "4.56 M");
  CHECK(number_text(1.8421) == "1.842");
  CHECK(number_text(0.0123456) == "0.0123");
  CHECK(number_text(1.23e-5) == "1.23e-05");
  CHECK(number_text(0) == "0");
  CHECK(number_text(12.5) == "12.500");
  CHECK(number_text(123.456) == "123.5");
  CHECK(number_text(12345.6) == "12346");
  CHECK(number_text(1.5e9) == "1.50e+09");
  CHECK(number_text(std::numeric_limits<double>::quiet_NaN()) == "nan");
  CHECK(number_text(-std::numeric_limits<double>::infinity()) == "-inf");
}

TEST_CASE("the progress of training is one line") {
  CHECK(progress_text(kStep) ==
        "step 1200/2000, loss 1.842 (smoothed 1.871), lr 8.30e-04, grad norm 0.61, 41.2 k tokens/s, MFU 38 %, 812 MiB "
        "peak, 1 min 12 s left");
  json skipped = kStep;
  skipped["loss"] = nullptr;
  skipped["loss_bits"] = bits_text(std::numeric_limits<double>::infinity());
  skipped["skipped"] = true;
  skipped["loss_scale"] = 32768;
  skipped["mfu"] = 0.0123;
  CHECK(progress_text(skipped) ==
        "step 1200/2000, loss inf (smoothed 1.871), skipped, lr 8.30e-04, grad norm 0.61, loss scale 32.8 k, 41.2 k "
        "tokens/s, MFU 1.2 %, 812 MiB peak, 1 min 12 s left");
}

TEST_CASE("where a line is short, what matters least is left out") {
  CHECK(progress_text(kStep, 110) ==
        "step 1200/2000, loss 1.842 (smoothed 1.871), 41.2 k tokens/s, MFU 38 %, 812 MiB peak, 1 min 12 s left");
  CHECK(progress_text(kStep, 70) == "step 1200/2000, loss 1.842, 41.2 k tokens/s, 1 min 12 s left");
  CHECK(progress_text(kStep, 30) == "step 1200/2000, loss 1.842");
  CHECK(progress_text(kStep, 3) == "step 1200/2000");
  for (std::size_t columns = 14; columns < 200; ++columns) CHECK(progress_text(kStep, columns).size() <= columns);
}

TEST_CASE("other kinds of stages tell their progress with the same keys") {
  CHECK(progress_text(nullptr) == "");
  CHECK(progress_text(json::object()) == "");
  CHECK(progress_text({{"step", 3}, {"steps", 8}, {"rate", 12.3e6}, {"unit", "bytes/s"}, {"eta_s", 4}}) ==
        "step 3/8, 12.3 MB/s, 4.0 s left");
  CHECK(progress_text({{"step", 3}, {"rate", 12}, {"unit", "bytes/s"}}) == "step 3, 12 B/s");
}

TEST_CASE("what is last known of training outlives the lines it came with") {
  json latest;
  take_in(latest, {{"resume_step", 0}, {"step", 0}, {"steps", 2000}, {"tokens", 0}});
  CHECK(progress_text(latest) == "step 0/2000");
  json first = kStep;
  first["skipped"] = true;
  first["memory_peaks"] = {{"host", {{"master", 1}}}};
  take_in(latest, first);
  take_in(latest,
          {{"step", 1200}, {"steps", 2000}, {"validation_loss", 1.9}, {"validation_loss_bits", bits_text(1.9)}});
  CHECK(latest.at("loss") == 1.8421);
  json next = kStep;
  next["step"] = 1201;
  take_in(latest, next);
  CHECK(latest.at("memory_peaks").at("host").at("master") == 1);
  CHECK(progress_text(latest, 90) == "step 1201/2000, loss 1.842, validation 1.900, 41.2 k tokens/s, 1 min 12 s left");
  CHECK_FALSE(latest.contains("skipped"));
  take_in(latest, {{"step", 1201}, {"steps", 2000}, {"phases", {{"steps", 1}}}});
  CHECK(progress_text(latest) == "step 1201/2000, loss 1.842 (smoothed 1.871), validation 1.900, 812 MiB peak");
  take_in(latest, {{"resume_step", 1000}, {"step", 1000}, {"steps", 2000}});
  CHECK(progress_text(latest) == "step 1000/2000");
}

TEST_CASE("the values of one figure are read from the lines that hold") {
  const test::TemporaryFolder folder;
  folder.write("1/metrics.jsonl", R"({"resume_step": 0, "step": 0}
{"step": 1, "loss": 5, "values": {"wer": 0.5}}
{"step": 2, "loss": 4}
{"step": 2, "validation_loss": 4.5, "validation_loss_bits": "4012000000000000"}
{"step": 3, "loss": 3}
{"step": 4, "loss": 2)");
  folder.write("2/metrics.jsonl", R"({"resume_step": 2, "step": 2}
{"step": 2, "validation_loss": 4.25, "validation_loss_bits": "4011000000000000"}
{"step": 3, "loss": null, "loss_bits": "7ff8000000000000"}
)");
  const std::vector<std::filesystem::path> attempts = {folder.path() / "1", folder.path() / "2",
                                                       folder.path() / "none"};
  const std::vector<MetricValue> losses = read_metric(attempts, "loss");
  REQUIRE(losses.size() == 3);
  CHECK(losses[1].value == 4);
  CHECK(losses[2].step == 3);
  CHECK(std::isnan(losses[2].value));
  const std::vector<MetricValue> validations = read_metric(attempts, "validation_loss");
  REQUIRE(validations.size() == 1);
  CHECK(validations[0].value == 4.25);
  CHECK(read_metric(attempts, "wer").at(0).value == 0.5);
  CHECK(read_metric(attempts, "step\"").empty());
}

TEST_CASE("of other stages, the last line is all that is known") {
  json latest;
  take_in(latest, {{"step", 1}, {"steps", 2}, {"eta_s", 5}});
  take_in(latest, {{"step", 2}, {"steps", 2}});
  CHECK(latest == json{{"step", 2}, {"steps", 2}});
}

}  // namespace
}  // namespace braise::telemetry
