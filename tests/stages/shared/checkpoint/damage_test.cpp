// SPDX-License-Identifier: Apache-2.0
// What becomes of checkpoints that are damaged, torn or moved, and of savers that are killed.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <random>

#include "kernels/core/error.h"
#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"
#include "tests/stages/shared/checkpoint/sample.h"
#include "tests/support/support.h"

namespace braise::checkpoint {
namespace {
namespace fs = std::filesystem;

using Catch::Contains;

/// Changes one byte of a file in place.
void flip(const fs::path& path, std::uint64_t offset, unsigned char mask) {
  const io::FileDescriptor file(::open(path.c_str(), O_RDWR));
  std::byte value{};
  io::read_at(file.get(), {&value, 1}, offset, path);
  value ^= static_cast<std::byte>(mask);
  io::write_at(file.get(), {&value, 1}, offset, path);
}

/// What loading says, and the step it ends at; everything is read.
struct Loaded {
  std::int64_t step = -1;
  std::string log;
  std::string error;
};
Loaded load(const std::vector<fs::path>& attempts, int ranks = 1) {
  Loaded loaded;
  Lines log;
  test::with_ranks(ranks, [&](comm::Communicator& comm) {
    const auto read_share = [&](const Checkpoint& checkpoint) {
      for (const TensorInfo& info : checkpoint.tensors()) {
        const Range range = share_of(info.shape.elements(), comm.rank(), comm.size());
        std::vector<std::byte> bytes(static_cast<std::size_t>(range.elements() * core::bits(info.dtype) / 8));
        checkpoint.read(info.path, range.begin, core::TensorView(bytes.data(), info.dtype, {range.elements()}));
      }
    };
    try {
      const std::optional<Checkpoint> checkpoint = load_newest(
          comm, attempts, read_share, comm.rank() == 0 ? log.writer() : [](std::string_view) {});
      if (comm.rank() == 0 && checkpoint) loaded.step = checkpoint->step();
    } catch (const core::Error& error) {
      if (comm.rank() == 0) loaded.error = error.what();
    }
  });
  loaded.log = log.text();
  return loaded;
}

TEST_CASE("any byte that is flipped is found, in whatever file") {
  const test::TemporaryFolder folder;
  const fs::path saved = save_sample(folder.path() / "1-a", small_sample(1), 7, 2);
  const std::vector<fs::path> attempts = {folder.path() / "1-a"};
  std::mt19937 random(1);
  for (const FileInfo& file : Checkpoint(saved).files()) {
    INFO(file.name);
    // Every byte of the manifest and of the first and the last KiB of the others, and many between.
    std::uint64_t tried = 0;
    for (std::uint64_t offset = 0; offset < file.bytes;
         offset +=
         file.name == "manifest.json" || offset < 1024 || offset + 1024 >= file.bytes ? 1 : 1 + random() % 5) {
      const auto mask = static_cast<unsigned char>(1u << (random() % 8));
      flip(saved / file.name, offset, mask);
      const std::string fault = fault_of(saved);
      if (fault.find((saved / file.name).string()) == std::string::npos) {
        FAIL("byte " << offset << " of " << file.name << " flipped: " << fault);
      }
      if (offset % 97 == 0) {
        // Those who load and use all of it find it too.
        const Loaded loaded = load(attempts);
        if (loaded.step != -1 || loaded.error.find(file.name) == std::string::npos)
          FAIL("byte " << offset << " of " << file.name << " flipped: loaded");
      }
      flip(saved / file.name, offset, mask);
      ++tried;
    }
    CHECK(tried > file.bytes / 6);
  }
  CHECK(fault_of(saved) == "");
}

TEST_CASE("a file that is cut, longer, empty or missing is found") {
  const test::TemporaryFolder folder;
  const fs::path saved = save_sample(folder.path() / "1-a", sample(1), 7, 2);
  for (const FileInfo& file : Checkpoint(saved).files()) {
    INFO(file.name);
    const std::string content = io::read_file(saved / file.name);
    for (const std::size_t size : {content.size() - 1, content.size() / 2, std::size_t{1}, std::size_t{0}}) {
      fs::resize_file(saved / file.name, size);
      CHECK_THAT(fault_of(saved), Contains(file.name));
      io::write_file_durably(saved / file.name, content);
    }
    io::write_file_durably(saved / file.name, content + "x");
    CHECK_THAT(fault_of(saved), Contains(file.name));
    fs::remove(saved / file.name);
    CHECK_THAT(fault_of(saved), Contains(file.name) && Contains("No such file"));
    fs::create_directory(saved / file.name);
    CHECK_THAT(fault_of(saved), Contains(file.name));
    fs::remove(saved / file.name);
    io::write_file_durably(saved / file.name, content);
    REQUIRE(fault_of(saved) == "");
  }
}

TEST_CASE("the message names the file, the bytes and the tensor") {
  const test::TemporaryFolder folder;
  const fs::path saved = save_sample(folder.path() / "1-a", sample(1), 7);
  const std::uint64_t size = fs::file_size(saved / "part.00000.h5");
  flip(saved / "part.00000.h5", size / 2, 1);
  CHECK_THAT(fault_of(saved),
             Contains("part.00000.h5 is damaged: bytes [") && Contains("elements [") && Contains("h.0.weight"));
}

TEST_CASE("the newest good checkpoint of the lineage is loaded, and what is passed over is told") {
  const test::TemporaryFolder folder;
  const fs::path first = folder.path() / "1-a", second = folder.path() / "2-b", third = folder.path() / "3-c";
  CHECK(load({folder.path()}).step == -1);
  CHECK(load({folder.path()}).error == "");
  save_sample(first, sample(1), 10, 2);
  const fs::path good = save_sample(first, sample(2), 20, 2);
  save_sample(second, sample(2), 20, 4);
  const fs::path newest = save_sample(second, sample(3), 30, 4);
  fs::create_directories(third / "checkpoints/step-00000040");  // a save that never ended
  io::write_file_durably(third / "checkpoints/step-00000040/part.00000.json", "{}");
  fs::create_directories(third / "checkpoints/step-50");
  io::write_file_durably(third / "checkpoints/step-50/manifest.json", "{}");
  const std::vector<fs::path> attempts = {third, second, first};

  std::vector<std::string> order;
  for (const Candidate& candidate : find_checkpoints(attempts))
    order.push_back(candidate.folder.lexically_relative(folder.path()));
  CHECK(order == std::vector<std::string>{"2-b/checkpoints/step-00000030", "2-b/checkpoints/step-00000020",
                                          "1-a/checkpoints/step-00000020", "1-a/checkpoints/step-00000010"});
  for (const int ranks : {1, 3}) {
    const Loaded loaded = load(attempts, ranks);
    CHECK(loaded.step == 30);
    CHECK(loaded.log == "");
  }

  flip(newest / "part.00003.h5", fs::file_size(newest / "part.00003.h5") - 1, 4);
  for (const int ranks : {1, 3}) {
    const Loaded loaded = load(attempts, ranks);
    CHECK(loaded.step == 20);
    CHECK_THAT(loaded.log, Contains("step 30") && Contains("passed over") && Contains("part.00003.h5 is damaged"));
  }
  fs::remove(second / "checkpoints/step-00000020/part.00001.h5");
  CHECK(load(attempts).step == 20);
  flip(good / "checkpoint.h5", 100, 1);
  CHECK(load(attempts).step == 10);

  // Beginning anew is for a person to decide.
  flip(first / "checkpoints/step-00000010/manifest.json", 70, 1);
  const Loaded loaded = load(attempts, 2);
  CHECK(loaded.step == -1);
  CHECK_THAT(loaded.error, Contains("no checkpoint can be loaded") && Contains("step 10") && Contains("step 30"));
}

TEST_CASE("a checkpoint that was moved into another attempt, or to another step, is none of its") {
  const test::TemporaryFolder folder;
  const fs::path a = folder.path() / "1-a", b = folder.path() / "2-b";
  save_sample(a, small_sample(1), 10);
  fs::create_directories(b / "checkpoints");
  fs::copy(a / "checkpoints/step-00000010", b / "checkpoints/step-00000010");
  CHECK_THAT(load({b}).error, Contains("moved") && Contains("1-a"));
  fs::rename(a / "checkpoints/step-00000010", a / "checkpoints/step-00000011");
  CHECK_THAT(load({a}).error, Contains("moved"));
  // It may be opened all the same.
  CHECK(fault_of(a / "checkpoints/step-00000011") == "");
}

TEST_CASE("a linked checkpoint outlives the one it was linked from") {
  const test::TemporaryFolder folder;
  const Sample state = sample(4);
  const fs::path saved = save_sample(folder.path() / "1-a", state, 10, 2);
  const fs::path linked = folder.path() / "1-a/artifacts/checkpoint";
  const std::vector<LinkedFile> files = link_checkpoint(Checkpoint(saved), linked);
  for (const LinkedFile& file : files) {
    const io::FileDigest digest = io::digest_file(linked / file.name);
    CHECK(digest.bytes == file.bytes);
    CHECK(digest.sha256 == file.sha256);
  }
  CHECK(files.size() == 4);
  CHECK(files[0].name == "manifest.json");
  CHECK_THROWS_WITH(link_checkpoint(Checkpoint(saved), linked), Contains("is there already"));
  fs::remove_all(saved);
  CHECK(fault_of(linked) == "");
  require_equal(Checkpoint(linked), state);
}

TEST_CASE("reading what is not there is refused") {
  const test::TemporaryFolder folder;
  const Checkpoint checkpoint(save_sample(folder.path() / "1-a", sample(1), 1));
  std::vector<std::byte> bytes(1024);
  const auto read = [&](const std::string& path, std::int64_t begin, core::Dtype dtype, std::int64_t elements) {
    checkpoint.read(path, begin, core::TensorView(bytes.data(), dtype, {elements}));
  };
  using core::Dtype;
  CHECK(checkpoint.find("parameters/none") == nullptr);
  CHECK_THROWS_WITH(checkpoint.tensor("parameters/none"), Contains("no tensor parameters/none"));
  CHECK_THROWS_WITH(read("parameters/none", 0, Dtype::kFloat32, 1), Contains("no tensor"));
  CHECK_THROWS_WITH(read("parameters/h.0.bias", 0, Dtype::kFloat32, 1),
                    Contains("bf16[3 x 5 x 7]") && Contains("fp32"));
  CHECK_THROWS_WITH(read("parameters/h.0.bias", 100, Dtype::kBfloat16, 6), Contains("[100, 106)"));
  CHECK_THROWS_WITH(read("parameters/h.0.bias", -1, Dtype::kBfloat16, 6), Contains("[-1, 5)"));
}

/// Saves in a process of its own, step after step, until it is killed. What it has announced goes to `announced`.
[[noreturn]] void save_until_killed(const fs::path& attempt, int announced) {
  const auto comm = comm::single();
  Host host;
  Saver saver(*comm, *host.stream, host.arena, {.attempt_dir = attempt, .retention = {.last = 1}, .log = {}});
  for (std::int64_t step = 1;; ++step) {
    const Sample state = sample(static_cast<std::uint64_t>(step % 3));
    saver.save(step, pieces_of(state, 0, 1), sample_metadata(step));
    for (const Saved& saved : saver.take_saved()) {
      if (::write(announced, &saved.step, sizeof saved.step) != sizeof saved.step) ::_exit(1);
    }
  }
}

TEST_CASE("killed at any instant, a saver leaves the last announced checkpoint or a newer one, and it is good") {
  const test::TemporaryFolder folder;
  std::mt19937 random(7);
  int with_checkpoint = 0;
  unsigned longest_us = 800'000;
  for (int i = 0; i < 20 || with_checkpoint == 0; ++i) {
    REQUIRE(i < 60);
    const fs::path attempt = folder.path() / ("1-" + std::to_string(i));
    fs::create_directories(attempt);
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    const pid_t child = ::fork();
    if (child == 0) save_until_killed(attempt, ends[1]);
    ::close(ends[1]);
    ::usleep(static_cast<unsigned>(random() % longest_us));
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    REQUIRE(WIFSIGNALED(status));
    std::int64_t announced = 0, step = 0;
    while (::read(ends[0], &step, sizeof step) == sizeof step) announced = step;
    ::close(ends[0]);

    const std::vector<fs::path> attempts = {attempt};
    const std::vector<Candidate> candidates = find_checkpoints(attempts);
    for (const Candidate& candidate : candidates) {
      REQUIRE(fault_of(candidate.folder) == "");
      require_equal(Checkpoint(candidate.folder), sample(static_cast<std::uint64_t>(candidate.step % 3)));
    }
    if (announced > 0) {
      REQUIRE_FALSE(candidates.empty());
      REQUIRE(candidates[0].step >= announced);
      ++with_checkpoint;
    } else if (with_checkpoint == 0) {
      longest_us += longest_us / 8;  // as long as this machine, and this build, may need for one
    }
    fs::remove_all(attempt);
  }
}

}  // namespace
}  // namespace braise::checkpoint
