// SPDX-License-Identifier: Apache-2.0
#include "runner/journal/finished.h"

#include <sys/stat.h>

#include <catch2/catch.hpp>

#include "kernels/core/error.h"
#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"
#include "tests/support/support.h"

namespace braise::journal {
namespace fs = std::filesystem;
using Catch::Matchers::Contains;
namespace {

const std::string kFingerprint = std::string(64, 'e');
const std::atomic<bool> kGoOn = false;

/// A finished job with two files on the disk, and its entry in the index.
struct Trial {
  test::TemporaryFolder folder;
  FinishedIndex index{folder.path()};
  FinishedJob job{"old-run", "corpus", {"jobs/corpus/attempts/1-00000a", {}}};

  Trial() {
    for (const char* name : {"artifacts/tokens.h5", "artifacts/shards/0.h5"}) {
      folder.write("old-run/" + job.completed.attempt_dir + "/" + name, std::string("text of ") + name);
      const io::FileDigest digest = io::digest_file(source() / name);
      job.completed.outputs["tokens"].files.push_back({name, digest.bytes, digest.sha256});
    }
    index.add(kFingerprint, job);
  }
  fs::path source() const { return folder.path() / "old-run" / job.completed.attempt_dir; }
  fs::path target() const { return folder.path() / "new-run" / "attempt"; }
};

TEST_CASE("a finished job is found by its fingerprint, and only by that") {
  const Trial trial;
  const auto found = trial.index.find(kFingerprint);
  REQUIRE(found);
  CHECK(found->run == "old-run");
  CHECK(found->job == "corpus");
  CHECK(found->completed.attempt_dir == trial.job.completed.attempt_dir);
  CHECK(found->completed.outputs.at("tokens").digest() == trial.job.completed.outputs.at("tokens").digest());
  CHECK_FALSE(trial.index.find(std::string(64, 'f')));
  CHECK_FALSE(FinishedIndex(trial.folder.path() / "none").find(kFingerprint));
}

TEST_CASE("reused outputs are the same files, read-only") {
  const Trial trial;
  fs::create_directories(trial.target());
  REQUIRE(trial.index.reuse(*trial.index.find(kFingerprint), trial.target(), kGoOn));
  CHECK(io::read_file(trial.target() / "artifacts/shards/0.h5") == "text of artifacts/shards/0.h5");
  struct stat from {
  }, to{};
  REQUIRE(::stat((trial.source() / "artifacts/tokens.h5").c_str(), &from) == 0);
  REQUIRE(::stat((trial.target() / "artifacts/tokens.h5").c_str(), &to) == 0);
  CHECK(from.st_ino == to.st_ino);
  CHECK((to.st_mode & 0777) == 0444);
}

TEST_CASE("a copy is made where the file system has no links between the folders") {
  const fs::path other = "/dev/shm";
  if (!fs::is_directory(other) || fs::status(other).permissions() == fs::perms::none) return;
  const Trial trial;
  struct stat here {
  }, there{};
  ::stat(trial.folder.path().c_str(), &here);
  ::stat(other.c_str(), &there);
  if (here.st_dev == there.st_dev) return;
  const fs::path target = other / ("braise-test-" + io::random_hex(8));
  fs::create_directories(target);
  CHECK(trial.index.reuse(trial.job, target, kGoOn));
  CHECK(io::read_file(target / "artifacts/tokens.h5") == "text of artifacts/tokens.h5");
  fs::remove_all(target);
}

TEST_CASE("a stale entry is no hit") {
  const Trial trial;
  const fs::path file = trial.source() / "artifacts/shards/0.h5";
  SECTION("a file is gone") {
    fs::remove(file);
  }
  SECTION("a file has another size") {
    fs::resize_file(file, 3);
  }
  SECTION("the run is gone") {
    fs::remove_all(trial.folder.path() / "old-run");
  }
  SECTION("the entry is torn") {
    trial.folder.write(".finished/ee/" + kFingerprint, "{\"run\": \"old");
  }
  SECTION("the entry is of another form") {
    trial.folder.write(".finished/ee/" + kFingerprint, "{\"run\": 3}");
  }
  SECTION("the entry leads elsewhere") {
    FinishedJob job = trial.job;
    job.run = "../" + trial.folder.path().filename().string() + "/old-run";
    trial.index.add(kFingerprint, job);
  }
  SECTION("an output leads elsewhere") {
    FinishedJob job = trial.job;
    job.completed.outputs["tokens"].files[0].path = "../1-00000a/artifacts/tokens.h5";
    trial.index.add(kFingerprint, job);
  }
  SECTION("the entry was removed") {
    trial.index.remove(kFingerprint);
  }
  CHECK_FALSE(trial.index.find(kFingerprint));
}

TEST_CASE("a file changed without changing its size is noticed before it is reused") {
  const Trial trial;
  trial.folder.write("old-run/" + trial.job.completed.attempt_dir + "/artifacts/tokens.h5",
                     "TEXT of artifacts/tokens.h5");
  REQUIRE(trial.index.find(kFingerprint));
  fs::create_directories(trial.target());
  CHECK_THROWS_WITH(trial.index.reuse(trial.job, trial.target(), kGoOn),
                    Contains("tokens.h5 has changed since its job finished"));
}

TEST_CASE("reusing can be called off") {
  const Trial trial;
  fs::create_directories(trial.target());
  const std::atomic<bool> cancelled = true;
  CHECK_FALSE(trial.index.reuse(trial.job, trial.target(), cancelled));
}

}  // namespace
}  // namespace braise::journal
