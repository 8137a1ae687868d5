// SPDX-License-Identifier: Apache-2.0
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <csignal>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "stages/shared/io/clock.h"
#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"
#include "stages/shared/io/json_lines.h"
#include "stages/shared/io/lock.h"
#include "tests/support/support.h"

namespace braise::io {
namespace {
namespace fs = std::filesystem;

std::size_t entries(const fs::path& folder) {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

TEST_CASE("a file is replaced whole") {
  const test::TemporaryFolder folder;
  const fs::path path = folder.path() / "file";
  write_file_durably(path, "one");
  CHECK(read_file(path) == "one");
  const std::string large(3 << 20, 'x');
  write_file_durably(path, large);
  CHECK(read_file(path) == large);
  CHECK(entries(folder.path()) == 1);
}

TEST_CASE("a write that fails leaves the old file and nothing else") {
  const test::TemporaryFolder folder;
  const fs::path path = folder.write("file", "old");
  // A file-size limit in a child stands in for a full disk: both end in a failed write.
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{1000, 1000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    try {
      write_file_durably(path, std::string(100000, 'y'));
    } catch (const core::Error& error) {
      ::_exit(std::string(error.what()).find("cannot write " + path.string()) == 0 ? 0 : 2);
    }
    ::_exit(1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  CHECK(read_file(path) == "old");
  CHECK(entries(folder.path()) == 1);
}

TEST_CASE("trouble with files names the file") {
  const test::TemporaryFolder folder;
  CHECK_THROWS_WITH(read_file(folder.path() / "gone"), Catch::Contains("gone: No such file"));
  CHECK_THROWS_WITH(read_file(folder.path()), Catch::Contains("Is a directory"));
  CHECK_THROWS_AS(write_file_durably(folder.path() / "no/folder", "x"), core::Error);
  folder.write("file", "");
  CHECK_THROWS_AS(create_directories_durably(folder.path() / "file/below"), core::Error);
}

TEST_CASE("folders are made with what is above them") {
  const test::TemporaryFolder folder;
  create_directories_durably(folder.path() / "a/b/c");
  create_directories_durably(folder.path() / "a/b/c");
  CHECK(fs::is_directory(folder.path() / "a/b/c"));
}

TEST_CASE("SHA-256 is the one that sha256sum prints") {
  CHECK(sha256("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  const test::TemporaryFolder folder;
  const std::string text(1000003, 'q');
  const FileDigest digest = digest_file(folder.write("file", text));
  CHECK(digest.bytes == text.size());
  CHECK(digest.sha256 == sha256(text));
  const test::Finished sum = test::run_program({"sha256sum", folder.path() / "file"});
  CHECK(sum.out.substr(0, 64) == digest.sha256);
}

TEST_CASE("random digits differ") {
  CHECK(random_hex(7).size() == 7);
  CHECK(random_hex(16) != random_hex(16));
}

TEST_CASE("JSON lines: what is appended is read, a torn line is dropped and told") {
  const test::TemporaryFolder folder;
  const fs::path path = folder.path() / "events.jsonl";
  {
    JsonLinesWriter writer(path);
    writer.append({{"a", 1}}, true);
    writer.append({{"text", "two\nlines"}}, false);
  }
  CHECK(read_json_lines(path).objects.size() == 2);
  const std::string whole = read_file(path);
  for (std::size_t cut = 0; cut <= whole.size(); ++cut) {
    write_file_durably(path, whole.substr(0, cut));
    const JsonLines torn = read_json_lines(path);
    const std::size_t ends =
        static_cast<std::size_t>(std::count(whole.begin(), whole.begin() + static_cast<long>(cut), '\n'));
    CHECK(torn.objects.size() == ends);
    const bool is_torn = cut > 0 && whole[cut - 1] != '\n';
    REQUIRE(torn.warnings.size() == (is_torn ? 1 : 0));
    if (is_torn) CHECK(torn.warnings[0] == "events.jsonl:" + std::to_string(ends + 1) + ": torn line dropped");
    // The next writer's line is not swallowed by the torn one.
    JsonLinesWriter(path).append({{"next", true}}, true);
    const JsonLines next = read_json_lines(path);
    CHECK(next.objects.back() == nlohmann::json{{"next", true}});
  }
}

TEST_CASE("a JSON line with bytes that are not UTF-8 is still written") {
  const test::TemporaryFolder folder;
  JsonLinesWriter(folder.path() / "x.jsonl").append({{"path", "caf\xe9"}}, true);
  CHECK(read_json_lines(folder.path() / "x.jsonl").objects.size() == 1);
}

TEST_CASE("a lock is held by one process until it dies") {
  const test::TemporaryFolder folder;
  const fs::path path = folder.path() / "lock";
  CHECK_FALSE(FileLock::is_held(path));
  {
    const auto lock = FileLock::try_take(path);
    REQUIRE(lock);
    CHECK(FileLock::is_held(path));
    CHECK_FALSE(FileLock::try_take(path));
  }
  CHECK_FALSE(FileLock::is_held(path));
  int ready[2];
  REQUIRE(::pipe(ready) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const auto lock = FileLock::try_take(path);
    (void)!::write(ready[1], "x", 1);
    ::pause();
  }
  char byte = 0;
  REQUIRE(::read(ready[0], &byte, 1) == 1);
  CHECK(FileLock::is_held(path));
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  CHECK(FileLock::try_take(path));
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST_CASE("times") {
  CHECK(format_utc(0) == "1970-01-01T00:00:00.000000Z");
  CHECK(format_utc(1769862896123456) == "2026-01-31T12:34:56.123456Z");
  CHECK(parse_utc("2026-01-31T12:34:56.123456Z") == 1769862896123456);
  CHECK(compact_utc(1769862896123456) == "20260131-123456");
  const std::int64_t now = utc_us();
  CHECK(parse_utc(format_utc(now)) == now);
  for (const char* bad :
       {"", "2026-01-31", "2026-01-31T12:34:56Z", "2026-01-31T12:34:56.123456Zx", "x", "2026-13-31T12:34:56.123456Z",
        "2026-02-30T12:34:56.123456Z", "2026-01-31T24:34:56.123456Z", "2026-01-31T12:3a:56.123456Z"}) {
    CHECK(parse_utc(bad) == -1);
  }
}

}  // namespace
}  // namespace braise::io
