// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/checkpoint/saver.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <filesystem>
#include <set>

#include "kernels/core/error.h"
#include "stages/shared/io/file.h"
#include "tests/stages/shared/checkpoint/sample.h"
#include "tests/support/support.h"

namespace braise::checkpoint {
namespace {
namespace fs = std::filesystem;

using Catch::Contains;

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename());
  return names;
}

TEST_CASE("what any number of ranks save is read back, whole and in any range") {
  const test::TemporaryFolder folder;
  const Sample state = sample(1);
  std::string digest;
  std::vector<std::string> digests;
  for (const int ranks : {1, 2, 4}) {
    const fs::path saved = save_sample(folder.path() / ("1-" + std::to_string(ranks)), state, 100, ranks);
    const Checkpoint checkpoint(saved);
    CHECK(checkpoint.step() == 100);
    CHECK(checkpoint.attempt() == "1-" + std::to_string(ranks));
    CHECK(checkpoint.metadata() == sample_metadata(100));
    CHECK_FALSE(checkpoint.metric());
    checkpoint.verify();
    require_equal(checkpoint, state);

    const SampleTensor& tensor = state[0];
    for (const Range range : {Range{0, 1}, Range{1, 4099}, Range{262143, 262145}, Range{4096, 4096 + 262144},
                              Range{300'000, 532'480}, Range{5, 5}, Range{0, 532'480}}) {
      std::vector<std::byte> read(static_cast<std::size_t>(range.elements() * 2));
      checkpoint.read(tensor.path, range.begin, core::TensorView(read.data(), tensor.dtype, {range.elements()}));
      CHECK(std::equal(read.begin(), read.end(), tensor.bytes.begin() + range.begin * 2));
    }

    // Digests do not depend on the layout.
    std::vector<std::string> these = {checkpoint.weights_digest()};
    for (const TensorInfo& info : checkpoint.tensors()) these.push_back(info.digest);
    if (digests.empty()) digests = these;
    CHECK(these == digests);

    // Each file is what the manifest says, and nothing else is left.
    std::set<std::string> expected;
    for (const FileInfo& file : checkpoint.files()) {
      CHECK(fs::file_size(saved / file.name) == file.bytes);
      expected.insert(file.name);
    }
    CHECK(names_in(saved) == expected);
    CHECK(expected.size() == static_cast<std::size_t>(ranks) + 2);
  }
}

TEST_CASE("equal states give equal files") {
  const test::TemporaryFolder folder;
  const fs::path a = save_sample(folder.path() / "x" / "1-a", sample(1), 3, 2);
  const fs::path b = save_sample(folder.path() / "y" / "1-a", sample(1), 3, 2);
  for (const std::string& name : names_in(a)) CHECK(io::read_file(a / name) == io::read_file(b / name));
}

TEST_CASE("a saved state is a snapshot: it may change at once") {
  const test::TemporaryFolder folder;
  const auto comm = comm::single();
  Host host;
  Saver saver(*comm, *host.stream, host.arena, {.attempt_dir = folder.path(), .retention = {.last = 3}, .log = {}});
  std::vector<fs::path> folders;
  for (std::int64_t step = 1; step <= 3; ++step) {
    Sample state = sample(static_cast<std::uint64_t>(step));
    const SaveCost cost =
        saver.save(step, pieces_of(state, 0, 1), sample_metadata(step), 1.0 / static_cast<double>(step));
    CHECK_FALSE(cost.streamed);
    CHECK(cost.blocked_s >= cost.waited_s);
    std::int64_t bytes = 0;
    for (SampleTensor& tensor : state) {
      bytes += static_cast<std::int64_t>(tensor.bytes.size());
      std::fill(tensor.bytes.begin(), tensor.bytes.end(), std::byte{0xee});
    }
    CHECK(cost.bytes == bytes);
    CHECK(host.ledger.peak_bytes(core::Space::kHost, core::Category::kCheckpoint) >= bytes);
  }
  saver.wait();
  CHECK(host.ledger.current_bytes(core::Space::kHost, core::Category::kCheckpoint) == 0);
  const std::vector<Saved> saved = saver.take_saved();
  REQUIRE(saved.size() == 3);
  CHECK(saver.take_saved().empty());
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(saved[i].step == static_cast<std::int64_t>(i) + 1);
    CHECK(saved[i].seconds > 0);
    const Checkpoint checkpoint(saved[i].folder);
    require_equal(checkpoint, sample(i + 1));
    CHECK(checkpoint.metric() == 1.0 / static_cast<double>(i + 1));
    CHECK(checkpoint.weights_digest() == saved[i].weights_digest);
    std::int64_t bytes = 0;
    for (const FileInfo& file : checkpoint.files()) bytes += static_cast<std::int64_t>(file.bytes);
    CHECK(bytes == saved[i].bytes);
  }
}

TEST_CASE("without room for a snapshot, saving streams and says so") {
  const test::TemporaryFolder folder;
  const Sample state = sample(7);
  Lines log;
  test::with_ranks(2, [&](comm::Communicator& comm) {
    Host host(comm.rank() == 0 ? 1 << 20 : core::kUnlimited);
    Saver saver(comm, *host.stream, host.arena, {.attempt_dir = folder.path(), .retention = {}, .log = log.writer()});
    Sample mine = state;
    const SaveCost cost = saver.save(5, pieces_of(mine, comm.rank(), 2), sample_metadata(5));
    if (cost.streamed != (comm.rank() == 0)) throw core::Error("the wrong rank streams");
    for (SampleTensor& tensor : mine) std::fill(tensor.bytes.begin(), tensor.bytes.end(), std::byte{0});
    saver.wait();
  });
  CHECK_THAT(log.text(), Contains("no room for a copy") && Contains("step 5") && Contains("training waits"));
  const Checkpoint checkpoint(folder.path() / "checkpoints/step-00000005");
  checkpoint.verify();
  require_equal(checkpoint, state);
}

TEST_CASE("retention keeps the newest, the best and every so manieth, and only those") {
  const test::TemporaryFolder folder;
  const Sample state = small_sample(1);
  const std::vector<double> losses = {9, 2, 5, 2, 7, 3, 4, 8, 6};  // of steps 10, 20, ...
  const auto kept = [&](Retention retention) {
    const test::TemporaryFolder attempt;
    test::with_ranks(2, [&](comm::Communicator& comm) {
      Host host;
      Saver saver(comm, *host.stream, host.arena, {.attempt_dir = attempt.path(), .retention = retention, .log = {}});
      for (std::size_t i = 0; i < losses.size(); ++i) {
        const auto step = static_cast<std::int64_t>(i + 1) * 10;
        saver.save(step, pieces_of(state, comm.rank(), 2), sample_metadata(step), losses[i]);
      }
      saver.wait();
    });
    std::set<std::string> steps;
    for (const std::string& name : names_in(attempt.path() / "checkpoints")) {
      CHECK(fault_of(attempt.path() / "checkpoints" / name) == "");
      steps.insert(name.substr(name.size() - 2));
    }
    return steps;
  };
  using Steps = std::set<std::string>;
  CHECK(kept({.last = 1}) == Steps{"90"});
  CHECK(kept({.last = 3}) == Steps{"70", "80", "90"});
  CHECK(kept({.last = 1, .best = 1}) == Steps{"20", "90"});
  CHECK(kept({.last = 1, .best = 3}) == Steps{"20", "40", "60", "90"});
  CHECK(kept({.last = 1, .best = 2, .better = Retention::Better::kHigher}) == Steps{"10", "80", "90"});
  CHECK(kept({.last = 1, .every = 40}) == Steps{"40", "80", "90"});
}

TEST_CASE("a step that is saved again gets a folder of its own, and is the newer") {
  const test::TemporaryFolder folder;
  const auto comm = comm::single();
  Host host;
  Saver saver(*comm, *host.stream, host.arena, {.attempt_dir = folder.path(), .retention = {.last = 2}, .log = {}});
  const Sample first = small_sample(1), second = small_sample(2);
  saver.save(5, pieces_of(first, 0, 1), sample_metadata(5));
  saver.save(5, pieces_of(second, 0, 1), sample_metadata(5));
  saver.wait();
  const std::vector<fs::path> attempts = {folder.path()};
  const std::vector<Candidate> candidates = find_checkpoints(attempts);
  REQUIRE(candidates.size() == 2);
  require_equal(Checkpoint(candidates[0].folder), second);
  require_equal(Checkpoint(candidates[1].folder), first);
}

TEST_CASE("pieces that make no checkpoint are refused") {
  const test::TemporaryFolder folder;
  const auto comm = comm::single();
  Host host;
  Saver saver(*comm, *host.stream, host.arena, {.attempt_dir = folder.path(), .retention = {}, .log = {}});
  const SampleTensor tensor = sample_tensor("parameters/w", core::Dtype::kFloat32, {3, 4096}, 1);
  const auto save = [&](std::vector<Piece> pieces, const nlohmann::json& metadata = nlohmann::json::object()) {
    saver.save(1, pieces, metadata);
    saver.wait();
  };
  const auto piece = [&](const std::string& path, std::int64_t begin, std::int64_t end) {
    return Piece{path, tensor.shape, begin, tensor.view({begin, end})};
  };
  const Piece whole = piece("parameters/w", 0, 3 * 4096);
  CHECK_THROWS_WITH(save({piece("parameters/w", 1, 4096)}), Contains("parameters/w") && Contains("multiples of 4096"));
  CHECK_THROWS_WITH(save({piece("parameters/w", 0, 5000)}), Contains("multiples of 4096"));
  CHECK_THROWS_WITH(save({Piece{"parameters/w", {2, 4096}, 0, tensor.view({0, 3 * 4096})}}), Contains("8192 elements"));
  CHECK_THROWS_WITH(save({whole, whole}), Contains("given twice"));
  for (const std::string path : {"w", "", "/w", "a//b", "a/../b", "a/b@0", "a/b c", "a/\xc3\xa9", "metadata/w"}) {
    CHECK_THROWS_WITH(save({piece(path, 0, 3 * 4096)}), Contains("path"));
  }
  CHECK_THROWS_WITH(save({whole}, {{"a/b", 1}}), Contains("a/b"));
  CHECK_THROWS_WITH(save({whole}, 5), Contains("no object"));
  std::vector<std::byte> nibbles(4);
  CHECK_THROWS_WITH(
      save({Piece{"a/b", {8}, 0, core::ConstTensorView(nibbles.data(), core::Dtype::kInt4, core::Shape{8})}}),
      Contains("int4"));

  // What only all ranks together show is a failed save.
  CHECK_THROWS_AS(save({piece("parameters/w", 0, 4096)}), SaveFailure);
  CHECK_THROWS_WITH(save({piece("parameters/w", 0, 4096)}),
                    Contains("step 1") && Contains("elements [4096, 12288) are in no piece"));
  CHECK_THROWS_WITH(save({piece("parameters/w", 4096, 3 * 4096)}), Contains("elements [0, 4096) are in no piece"));
  CHECK_THROWS_WITH(save({whole, piece("parameters/w", 4096, 8192)}), Contains("elements [4096, 8192) are in two"));
  CHECK_THROWS_WITH(save({whole, piece("parameters/w/x", 0, 3 * 4096)}), Contains("parameters/w"));
  CHECK(names_in(folder.path() / "checkpoints").empty());
  save({whole});
  CHECK(names_in(folder.path() / "checkpoints").size() == 1);
}

TEST_CASE("all ranks learn that one failed, and the next save is whole") {
  const test::TemporaryFolder folder;
  const Sample state = sample(3);
  std::atomic<int> failures{0};
  test::with_ranks(3, [&](comm::Communicator& comm) {
    Host host;
    Saver saver(comm, *host.stream, host.arena, {.attempt_dir = folder.path(), .retention = {.last = 5}, .log = {}});
    saver.save(1, pieces_of(state, comm.rank(), 3), sample_metadata(1));
    saver.wait();
    // A folder where rank 2's part should be.
    if (comm.rank() == 0) {
      fs::create_directories(folder.path() / "checkpoints/step-00000002/part.00002.h5/x");
    }
    comm.barrier();
    saver.save(2, pieces_of(state, comm.rank(), 3), sample_metadata(2));
    try {
      saver.save(3, pieces_of(state, comm.rank(), 3), sample_metadata(3));
    } catch (const SaveFailure& error) {
      if (std::string(error.what()).find("part.00002.h5") != std::string::npos) ++failures;
    }
    saver.save(3, pieces_of(state, comm.rank(), 3), sample_metadata(3));
    saver.wait();
  });
  CHECK(failures == 3);
  const std::vector<fs::path> attempts = {folder.path()};
  const std::vector<Candidate> candidates = find_checkpoints(attempts);
  REQUIRE(candidates.size() == 2);
  CHECK(candidates[0].step == 3);
  CHECK(candidates[1].step == 1);
  for (const Candidate& candidate : candidates) CHECK(fault_of(candidate.folder) == "");
  CHECK_FALSE(fs::exists(folder.path() / "checkpoints/step-00000002"));
}

TEST_CASE("what must be on the disk before a checkpoint counts comes before its manifest, or it does not count") {
  const test::TemporaryFolder folder;
  const Sample state = small_sample(3);
  const auto comm = comm::single();
  Host host;
  std::set<std::string> seen;
  bool fails = false;
  const auto before = [&] {
    seen = names_in(folder.path() / "checkpoints/step-00000001");
    if (fails) throw core::Error("metrics.jsonl cannot be synced");
  };
  Saver saver(*comm, *host.stream, host.arena,
              {.attempt_dir = folder.path(), .retention = {}, .log = {}, .before_manifest = before});
  saver.save(1, pieces_of(state, 0, 1), sample_metadata(1));
  saver.wait();
  CHECK(seen == std::set<std::string>{"part.00000.h5"});
  fails = true;
  saver.save(2, pieces_of(state, 0, 1), sample_metadata(2));
  CHECK_THROWS_WITH(saver.wait(), Contains("metrics.jsonl cannot be synced"));
  CHECK(names_in(folder.path() / "checkpoints") == std::set<std::string>{"step-00000001"});
}

TEST_CASE("rank 0 does not wait for a part that never comes") {
  const test::TemporaryFolder folder;
  const Sample state = small_sample(3);
  std::string message;
  test::with_ranks(2, [&](comm::Communicator& comm) {
    Host host;
    Saver saver(comm, *host.stream, host.arena,
                {.attempt_dir = folder.path(), .retention = {}, .part_timeout_s = 0.2, .log = {}});
    // The sidecar of rank 1 cannot get its name; nor can it tell so.
    if (comm.rank() == 0) fs::create_directories(folder.path() / "checkpoints/step-00000002/.part.00001.h5.tmp/x");
    comm.barrier();
    if (comm.rank() == 1) {
      // Neither may it tell.
      fs::create_directories(folder.path() / "checkpoints/step-00000002" /
                             (".part.00001.json.tmp." + std::to_string(::getpid())) / "x");
    }
    saver.save(2, pieces_of(state, comm.rank(), 2), sample_metadata(2));
    ::usleep(500'000);
    try {
      saver.wait();
    } catch (const SaveFailure& error) {
      if (comm.rank() == 0) message = error.what();
    }
  });
  CHECK_THAT(message, Contains("rank 0") && Contains("ranks 1") && Contains("rank 1:"));
}

TEST_CASE("a saver that goes leaves no checkpoint half written") {
  const test::TemporaryFolder folder;
  for (int i = 0; i < 10; ++i) {
    const fs::path attempt = folder.path() / std::to_string(i);
    fs::create_directories(attempt);
    {
      const auto comm = comm::single();
      Host host;
      Saver saver(*comm, *host.stream, host.arena, {.attempt_dir = attempt, .retention = {}, .log = {}});
      saver.save(1, pieces_of(sample(1), 0, 1), sample_metadata(1));
      ::usleep(static_cast<unsigned>(i * 1000));
    }
    const std::vector<fs::path> attempts = {attempt};
    for (const Candidate& candidate : find_checkpoints(attempts)) CHECK(fault_of(candidate.folder) == "");
  }
}

TEST_CASE("a full disk costs no checkpoint that stood") {
  const test::SmallDisk disk("16m");
  if (!disk.mounted()) {
    WARN("skipped: this user may not mount a small disk");
    return;
  }
  const fs::path attempt = disk.path() / "1-a";
  fs::create_directories(attempt);
  const Sample state = sample(1);  // 5.3 MiB
  std::atomic<int> failures{0};
  test::with_ranks(2, [&](comm::Communicator& comm) {
    Host host;
    Saver saver(comm, *host.stream, host.arena, {.attempt_dir = attempt, .retention = {.last = 9}, .log = {}});
    const auto save = [&](std::int64_t step) {
      saver.save(step, pieces_of(state, comm.rank(), 2), sample_metadata(step));
      saver.wait();
    };
    save(1);
    save(2);
    // Seen before anything is written.
    try {
      save(3);
    } catch (const SaveFailure& error) {
      const std::string what = error.what();
      if (what.find((attempt / "checkpoints").string()) != std::string::npos &&
          what.find(" bytes in ") != std::string::npos && what.find(" are free") != std::string::npos)
        ++failures;
    }
    if (comm.rank() == 0) fs::remove_all(attempt / "checkpoints/step-00000001");
    comm.barrier();
    save(4);
    // Filled up by someone else while it is being written.
    if (comm.rank() == 0) fs::remove_all(attempt / "checkpoints/step-00000002");
    comm.barrier();
    saver.save(5, pieces_of(state, comm.rank(), 2), sample_metadata(5));
    saver.wait();
  });
  CHECK(failures == 2);
  const std::vector<fs::path> attempts = {attempt};
  std::set<std::int64_t> steps;
  for (const Candidate& candidate : find_checkpoints(attempts)) {
    CHECK(fault_of(candidate.folder) == "");
    steps.insert(candidate.step);
  }
  CHECK(steps == std::set<std::int64_t>{4, 5});
  CHECK(names_in(attempt / "checkpoints").size() == 2);
}

TEST_CASE("a disk that fills up while a checkpoint is being written") {
  const test::SmallDisk disk("16m");
  if (!disk.mounted()) {
    WARN("skipped: this user may not mount a small disk");
    return;
  }
  const fs::path attempt = disk.path() / "1-a";
  fs::create_directories(attempt);
  const Sample state = sample(1);
  const fs::path hog = disk.path() / "hog";
  int failed = 0, saved = 0;
  const auto comm = comm::single();
  Host host;
  Saver saver(*comm, *host.stream, host.arena, {.attempt_dir = attempt, .retention = {.last = 1}, .log = {}});
  saver.save(1, pieces_of(state, 0, 1), sample_metadata(1));
  saver.wait();
  for (std::int64_t step = 2; step < 20; ++step) {
    try {
      saver.save(step, pieces_of(state, 0, 1), sample_metadata(step));
      // The disk's room goes at once, or a little later.
      ::usleep(static_cast<unsigned>(step % 8) * 25'000);
      std::string junk(1 << 20, 'x');
      const io::FileDescriptor file(::open(hog.c_str(), O_WRONLY | O_CREAT, 0666));
      while (::write(file.get(), junk.data(), junk.size()) > 0) {
      }
      saver.wait();
      ++saved;
    } catch (const SaveFailure&) {
      ++failed;
    }
    fs::remove(hog);
    const std::vector<fs::path> attempts = {attempt};
    const std::vector<Candidate> candidates = find_checkpoints(attempts);
    REQUIRE(candidates.size() == 1);
    REQUIRE(fault_of(candidates[0].folder) == "");
    REQUIRE(names_in(attempt / "checkpoints").size() == 1);
  }
  CHECK(failed > 0);
  CHECK(saved > 0);
  WARN(failed << " of " << failed + saved << " saves met the full disk");
}

TEST_CASE("a folder that is gone or may not be written is named") {
  const test::TemporaryFolder folder;
  const fs::path attempt = folder.path() / "1-a";
  fs::create_directories(attempt);
  const Sample state = small_sample(1);
  const auto comm = comm::single();
  Host host;
  Saver saver(*comm, *host.stream, host.arena, {.attempt_dir = attempt, .retention = {}, .log = {}});
  const auto save = [&](std::int64_t step) {
    saver.save(step, pieces_of(state, 0, 1), sample_metadata(step));
    saver.wait();
  };
  save(1);
  fs::rename(attempt, folder.path() / "elsewhere");
  CHECK_THROWS_WITH(save(2), Contains((attempt / "checkpoints").string()) && Contains("No such file"));
  CHECK_THROWS_AS(save(3), SaveFailure);
  CHECK_FALSE(fs::exists(attempt));
  fs::rename(folder.path() / "elsewhere", attempt);
  save(4);
  CHECK(fault_of(attempt / "checkpoints/step-00000004") == "");

  const test::SmallDisk disk("1m");
  if (!disk.mounted()) {
    WARN("skipped: this user may not mount a small disk");
    return;
  }
  Saver other(*comm, *host.stream, host.arena, {.attempt_dir = disk.path(), .retention = {}, .log = {}});
  REQUIRE(::mount("none", disk.path().c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr) == 0);
  CHECK_THROWS_WITH(other.save(1, pieces_of(state, 0, 1), sample_metadata(1)),
                    Contains((disk.path() / "checkpoints").string()) && Contains("Read-only"));
}

}  // namespace
}  // namespace braise::checkpoint
