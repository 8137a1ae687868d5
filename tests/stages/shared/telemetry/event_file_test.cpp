// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/telemetry/event_file.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "kernels/core/error.h"
#include "stages/shared/io/clock.h"
#include "stages/shared/telemetry/tf_record.h"
#include "tests/support/support.h"

namespace braise::telemetry {
namespace {
namespace fs = std::filesystem;

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2) bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

std::vector<std::string> records(const std::string& bytes) {
  std::vector<std::string> found;
  std::size_t offset = 0;
  while (const auto content = read_tf_record(bytes, offset)) found.emplace_back(*content);
  CHECK(offset == bytes.size());
  return found;
}

/// An event's wall time is its first field: 1 byte of key, 8 of the number.
std::string with_wall_time(std::string event, double time) {
  REQUIRE(event.size() >= 9);
  REQUIRE(event[0] == 0x09);
  std::memcpy(event.data() + 1, &time, sizeof time);
  return event;
}

double wall_time(const std::string& event) {
  double time = 0;
  std::memcpy(&time, event.data() + 1, sizeof time);
  return time;
}

/// A message's fields, as far as they are integers or messages; those of one number in order.
std::multimap<int, std::string> fields(std::string_view message) {
  std::multimap<int, std::string> found;
  std::size_t at = 0;
  const auto varint = [&] {
    std::uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = static_cast<unsigned char>(message.at(at++));
      value |= static_cast<std::uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < message.size()) {
    const std::uint64_t key = varint();
    const int field = static_cast<int>(key >> 3);
    if ((key & 7) == 0) {
      found.emplace(field, std::to_string(varint()));
      continue;
    }
    const std::uint64_t length = (key & 7) == 2 ? varint() : (key & 7) == 1 ? 8 : 4;
    found.emplace(field, std::string(message.substr(at, length)));
    at += length;
  }
  return found;
}

/// What a reader of a folder of event files keeps of a curve, by step: a session's start voids its step and later ones.
std::map<std::int64_t, std::vector<float>> curve(const fs::path& folder, const std::string& tag) {
  std::map<std::string, fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) files[entry.path().filename()] = entry.path();
  std::map<std::int64_t, std::vector<float>> points;
  for (const auto& [name, path] : files) {
    const std::string bytes = io::read_file(path);
    std::size_t offset = 0;
    while (const auto content = read_tf_record(bytes, offset)) {
      const auto event = fields(*content);
      const std::int64_t step = event.contains(2) ? std::stoll(event.find(2)->second) : 0;
      if (event.contains(7)) points.erase(points.lower_bound(step), points.end());
      if (!event.contains(5)) continue;
      for (const auto& [field, text] : fields(event.find(5)->second)) {
        const auto value = fields(text);
        if (value.find(1)->second != tag) continue;
        float number = 0;
        std::memcpy(&number, value.find(2)->second.data(), sizeof number);
        points[step].push_back(number);
      }
    }
  }
  return points;
}

TEST_CASE("CRC-32C gives the values of RFC 3720") {
  CHECK(crc32c(std::string(32, '\0')) == 0x8a9136aa);
  CHECK(crc32c(std::string(32, '\xff')) == 0x62a8ab43);
  std::string ascending(32, '\0');
  std::iota(ascending.begin(), ascending.end(), '\0');
  CHECK(crc32c(ascending) == 0x46dd794e);
  CHECK(crc32c(std::string(ascending.rbegin(), ascending.rend())) == 0x113fdb5c);
  CHECK(crc32c(from_hex("01c0000000000000000000000000000014000000000004000000001400000018"
                        "28000000000000000200000000000000")) == 0xd9963a56);
  CHECK(crc32c("123456789") == 0xe3069283);
  CHECK(crc32c("") == 0);
}

TEST_CASE("a record that is cut short or harmed is not read") {
  const std::string content = "some content";
  const std::string record = tf_record(content);
  CHECK(record.size() == 8 + 4 + content.size() + 4);
  std::size_t offset = 0;
  CHECK(read_tf_record(record, offset) == content);
  CHECK(offset == record.size());
  CHECK_FALSE(read_tf_record(record, offset));
  for (std::size_t length = 0; length < record.size(); ++length) {
    offset = 0;
    CHECK_FALSE(read_tf_record(record.substr(0, length), offset));
  }
  for (std::size_t i = 0; i < record.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string harmed = record;
      harmed[i] = static_cast<char>(harmed[i] ^ (1 << bit));
      offset = 0;
      CHECK_FALSE(read_tf_record(harmed, offset));
      CHECK(offset == 0);
    }
  }
  offset = 0;
  const std::string empty = tf_record("");
  CHECK(read_tf_record(empty, offset) == "");
}

TEST_CASE("events are TensorBoard's to the byte") {
  const nlohmann::json golden =
      nlohmann::json::parse(io::read_file(test::source_dir() / "tests/golden/event_files.json"));
  const test::TemporaryFolder folder;
  EventFile file(folder.path() / "tensorboard", {});
  file.restart(7);
  file.restart(300);
  const std::vector<Scalar> two = {{"train/loss", 1.5f}, {"train/lr", 3e-4f}};
  file.add_scalars(7, two);
  std::vector<std::string> tags;
  std::vector<Scalar> many;
  for (int i = 0; i < 40; ++i) tags.push_back("curve/" + std::to_string(i));
  for (int i = 0; i < 40; ++i) many.push_back({tags[static_cast<std::size_t>(i)], static_cast<float>(i)});
  file.add_scalars(std::int64_t{1} << 40, many);
  const Scalar infinite = {"train/loss", std::numeric_limits<float>::infinity()};
  file.add_scalars(7, std::span(&infinite, 1));
  file.add_text(7, "recipe", "# Größe\n\n    steps: 7\n");

  const std::vector<std::string> events = records(io::read_file(file.path()));
  const char* const names[] = {
      "file_version", "restart_after_7", "restart_after_300", "scalars", "many_scalars", "infinite", "text"};
  REQUIRE(events.size() == std::size(names));
  const double now = static_cast<double>(io::utc_us()) / 1e6;
  for (std::size_t i = 0; i < events.size(); ++i) {
    INFO(names[i]);
    CHECK(tf_record(with_wall_time(events[i], 1.5)) == from_hex(golden.at(names[i])));
    CHECK(wall_time(events[i]) <= now);
    CHECK(wall_time(events[i]) > now - 60);
  }
}

/// An attempt that goes on from `resume_step` and tells of the steps to `last`, each with `value`.
EventFile attempt(const fs::path& folder, const std::vector<fs::path>& earlier, std::int64_t resume_step,
                  std::int64_t last, float value) {
  EventFile file(folder, earlier);
  file.restart(resume_step);
  for (std::int64_t step = resume_step + 1; step <= last; ++step) {
    const Scalar scalar = {"loss", value};
    file.add_scalars(step, std::span(&scalar, 1));
  }
  return file;
}

TEST_CASE("each attempt's folder shows the whole job, with every step once") {
  const test::TemporaryFolder folder;
  const fs::path one = folder.path() / "1", two = folder.path() / "2", three = folder.path() / "3";
  const fs::path first = attempt(one, {}, 0, 7, 1).path();
  // Killed while it wrote a record.
  const std::string torn = tf_record("event of step 8").substr(0, 20);
  std::ofstream(first, std::ios::binary | std::ios::app) << torn;
  attempt(two, {one}, 5, 9, 2);
  attempt(three, {one, two, folder.path() / "never_begun"}, 8, 10, 3);

  std::map<std::int64_t, std::vector<float>> expected;
  for (std::int64_t step = 1; step <= 10; ++step) expected[step] = {step <= 5 ? 1.f : step <= 8 ? 2.f : 3.f};
  CHECK(curve(three, "loss") == expected);
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(three)) names.push_back(entry.path().filename());
  CHECK(names.size() == 3);
  for (const std::string& name : names) {
    const std::string bytes = io::read_file(three / name);
    CHECK(records(bytes).size() >= 3);  // whole records to the end: the torn one is not there
  }
}

TEST_CASE("a file sorts behind those of earlier attempts though they began within the same second or in the future") {
  const test::TemporaryFolder folder;
  const std::string future = "events.out.tfevents.9000000000.elsewhere.1";
  folder.write("1/" + future, tf_record("x"));
  folder.write("1/other.txt", "no event file");
  const fs::path file = EventFile(folder.path() / "2", {folder.path() / "1"}).path();
  CHECK(file.filename().string().starts_with("events.out.tfevents.9000000001."));
  CHECK(fs::exists(folder.path() / "2" / future));
  CHECK_FALSE(fs::exists(folder.path() / "2/other.txt"));
}

TEST_CASE("a folder that cannot be made is named") {
  const test::TemporaryFolder folder;
  const fs::path file = folder.write("file", "");
  CHECK_THROWS_WITH(EventFile(file / "tensorboard", {}), Catch::Contains(file.string()));
}

TEST_CASE("a step back within an attempt voids what was told of later steps") {
  const test::TemporaryFolder folder;
  EventFile file = attempt(folder.path() / "1", {}, 0, 7, 1);
  file.restart(4);
  const Scalar again = {"loss", 2};
  file.add_scalars(5, std::span(&again, 1));
  CHECK(curve(folder.path() / "1", "loss") ==
        std::map<std::int64_t, std::vector<float>>{{1, {1}}, {2, {1}}, {3, {1}}, {4, {1}}, {5, {2}}});
}

}  // namespace
}  // namespace braise::telemetry
