// SPDX-License-Identifier: Apache-2.0
#include "runner/journal/archive.h"

#include <archive.h>
#include <archive_entry.h>

#include <catch2/catch.hpp>
#include <functional>
#include <map>
#include <string>

#include "runner/journal/event.h"
#include "runner/journal/job_attempts.h"
#include "runner/journal/provenance.h"
#include "stages/shared/io/file.h"
#include "tests/runner/journal/sample.h"
#include "tests/support/support.h"

namespace braise::journal {
namespace {
namespace fs = std::filesystem;
using Catch::Contains;

/// Every file below a folder but locks, with its text.
std::map<std::string, std::string> files_below(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file() && entry.path().filename() != "lock") {
      files[entry.path().lexically_relative(folder)] = io::read_file(entry.path());
    }
  }
  return files;
}

RunDirectory sample(const fs::path& runs) {
  const RunDirectory run = RunDirectory::create(runs, "small", {"a", "b", "{}", "{}"}).run;
  const fs::path attempt = run.job_dir("train") / "attempts/1-abcdef";
  for (const char* folder : {"checkpoints/step-1", "artifacts/checkpoint"}) fs::create_directories(attempt / folder);
  io::write_file_durably(attempt / "metrics.jsonl", "{}\n");
  io::write_file_durably(attempt / "tokens.h5", "tokens");  // beside no manifest
  io::write_file_durably(attempt / "checkpoints/step-1/manifest.json", "{}");
  io::write_file_durably(attempt / "checkpoints/step-1/part.h5", std::string(3'000'000, 'x'));
  fs::create_hard_link(attempt / "checkpoints/step-1/part.h5", attempt / "artifacts/checkpoint/part.h5");
  io::write_file_durably(run.scratch_dir() / "left", "scratch");
  return run;
}

TEST_CASE("an archive is the run again, whole, and the same bytes wherever the run lies") {
  const test::TemporaryFolder folder;
  const RunDirectory run = sample(folder.path() / "runs");
  const fs::path first = folder.path() / "first.tar.zst";
  const Archived archived = write_archive(run, first, true);
  CHECK(archived.files == 9);
  CHECK(archived.bytes < 4'000'000);  // a file of two names stands there once
  const Unpacked unpacked = unpack_archive(first, folder.path() / "elsewhere");
  CHECK(unpacked.is_new);
  const RunDirectory again = unpacked.run;
  CHECK(again.id() == run.id());
  std::map<std::string, std::string> expected = files_below(run.path());
  expected.erase("scratch/left");
  CHECK(files_below(again.path()) == expected);
  CHECK(fs::is_directory(again.scratch_dir()));

  write_archive(again, folder.path() / "second.tar.zst", true);
  CHECK(io::read_file(first) == io::read_file(folder.path() / "second.tar.zst"));
  CHECK_THROWS_WITH(write_archive(run, first, true), Contains("is there already"));

  write_archive(run, folder.path() / "light.tar.zst", false);
  const RunDirectory light = unpack_archive(folder.path() / "light.tar.zst", folder.path() / "light").run;
  std::erase_if(expected, [](const auto& file) { return file.first.ends_with("part.h5"); });
  // The link of artifacts/ has no manifest beside it here.
  std::map<std::string, std::string> left = files_below(light.path());
  left.erase("jobs/train/attempts/1-abcdef/artifacts/checkpoint/part.h5");
  CHECK(left == expected);
}

TEST_CASE("a run that is there already is used where it has all that an archive has, and else the archive is refused") {
  const test::TemporaryFolder folder;
  const RunDirectory run = sample(folder.path() / "runs");
  const fs::path light = folder.path() / "light.tar.zst", whole = folder.path() / "whole.tar.zst";
  write_archive(run, light, false);
  write_archive(run, whole, true);
  const fs::path elsewhere = folder.path() / "elsewhere";
  CHECK(unpack_archive(light, elsewhere).is_new);
  const Unpacked again = unpack_archive(light, elsewhere);
  CHECK_FALSE(again.is_new);
  CHECK(again.run.id() == run.id());
  CHECK_THROWS_WITH(unpack_archive(whole, elsewhere),
                    Contains("there is already a run") && Contains("part.h5 differs"));
  CHECK_FALSE(unpack_archive(light, folder.path() / "runs").is_new);
  CHECK(fs::exists(run.scratch_dir() / "left"));
  io::write_file_durably(again.run.job_dir("train") / "attempts/1-abcdef/metrics.jsonl", "[]\n");
  CHECK_THROWS_AS(unpack_archive(light, elsewhere), BadArchive);
  CHECK(std::distance(fs::directory_iterator(elsewhere), {}) == 1);
}

TEST_CASE("a run whose plan was edited is not unpacked") {
  const test::TemporaryFolder folder;
  RunFiles files = {"a", "b", "{}", ""};
  files.provenance = provenance_text({}, files);
  const RunDirectory run = RunDirectory::create(folder.path() / "runs", "small", files).run;
  CHECK(edited_files(run) == "");
  write_archive(run, folder.path() / "good.tar.zst", true);
  CHECK(unpack_archive(folder.path() / "good.tar.zst", folder.path() / "elsewhere").is_new);
  io::write_file_durably(run.plan_file(), "{ }");
  CHECK_THAT(edited_files(run).value(), Contains("plan.json has SHA-256 ") && !Contains("recipe.yaml"));
  write_archive(run, folder.path() / "edited.tar.zst", true);
  CHECK_THROWS_WITH(unpack_archive(folder.path() / "edited.tar.zst", folder.path() / "other"),
                    Contains("files were changed") && Contains("plan.json has"));
  CHECK(fs::is_empty(folder.path() / "other"));
}

TEST_CASE("an archive has what other runs told of reused jobs") {
  const test::TemporaryFolder folder;
  const RunDirectory first = sample(folder.path() / "runs"), second = sample(folder.path() / "runs"),
                     third = sample(folder.path() / "runs");
  const AttemptName did{"train", 1, "abcdef"}, linked{"again", 1, "123456"};
  {
    Writer runner(first.journal_dir(), "runner-1");
    runner.append(sample_event("runner_started", {{"session", 1}, {"pid", 1}, {"host", "h"}, {"command", {"braise"}}}));
    runner.append(attempt_event("attempt_started", did,
                                {{"fingerprint", sample_fingerprint()}, {"ranks", 1}, {"threads", 1}, {"cores", {0}}}));
  }
  const auto reuse = [&](const RunDirectory& run, const RunDirectory& from, const std::string& job) {
    Writer runner(run.journal_dir(), "runner-1");
    runner.append(sample_event("runner_started", {{"session", 1}, {"pid", 1}, {"host", "h"}, {"command", {"braise"}}}));
    runner.append(attempt_event("job_reused", linked,
                                {{"fingerprint", sample_fingerprint()},
                                 {"from_run", from.id()},
                                 {"from_job", job},
                                 {"outputs", sample_outputs("x")}}));
  };
  reuse(second, first, "train");
  reuse(third, second, "again");
  const fs::path file = folder.path() / "third.tar.zst";
  CHECK(write_archive(third, file, false).gone.empty());
  for (const RunDirectory& run : {first, second}) fs::remove_all(run.path());
  const RunDirectory unpacked = unpack_archive(file, folder.path() / "elsewhere").run;
  const std::vector<fs::path> attempts = JobAttempts(unpacked, replay(unpacked)).of("again");
  REQUIRE(attempts.size() == 1);
  CHECK(attempts[0] == unpacked.reused_dir() / first.id() / did.path());
  CHECK(io::read_file(attempts[0] / "metrics.jsonl") == "{}\n");
  CHECK(fs::exists(attempts[0] / "checkpoints/step-1/manifest.json"));
  CHECK_FALSE(fs::exists(attempts[0] / "checkpoints/step-1/part.h5"));
  CHECK_FALSE(fs::exists(attempts[0] / "artifacts"));

  // Packed again it is the same; and without those runs, the job is told.
  write_archive(unpacked, folder.path() / "again.tar.zst", false);
  CHECK(io::read_file(folder.path() / "again.tar.zst") == io::read_file(file));
  CHECK(write_archive(third, folder.path() / "gone.tar.zst", false).gone == std::vector<std::string>{"again"});
}

TEST_CASE("an archive that is cut short is refused at any length, and leaves nothing") {
  const test::TemporaryFolder folder;
  const RunDirectory run = sample(folder.path() / "runs");
  write_archive(run, folder.path() / "whole.tar.zst", true);
  const std::string whole = io::read_file(folder.path() / "whole.tar.zst");
  const std::size_t end = whole.size() - 40;  // of what is cut at some places; what follows, at every byte
  for (std::size_t length = 0; length < whole.size(); length += length < end ? 1 + whole.size() / 40 : 1) {
    INFO(length << " of " << whole.size());
    folder.write("cut.tar.zst", whole.substr(0, length));
    CHECK_THROWS(unpack_archive(folder.path() / "cut.tar.zst", folder.path() / "elsewhere"));
  }
  CHECK_FALSE(fs::exists(folder.path() / "elsewhere"));
}

/// Writes an archive with a whole run in it, and what `add` puts beside that.
void write_hostile(const fs::path& file, const std::function<void(::archive*, ::archive_entry*)>& add) {
  ::archive* const archive = ::archive_write_new();
  ::archive_write_set_format_pax(archive);
  ::archive_write_add_filter_zstd(archive);
  ::archive_write_open_filename(archive, file.c_str());
  ::archive_entry* const entry = ::archive_entry_new();
  const auto put = [&](const char* name, unsigned type) {
    ::archive_entry_clear(entry);
    ::archive_entry_set_pathname(entry, name);
    ::archive_entry_set_filetype(entry, type);
    ::archive_entry_set_perm(entry, 0755);
    ::archive_entry_set_size(entry, type == AE_IFREG ? 2 : 0);
    ::archive_write_header(archive, entry);
    if (type == AE_IFREG) ::archive_write_data(archive, "{}", 2);
  };
  put("run", AE_IFDIR);
  put("run/journal", AE_IFDIR);
  for (const char* name : {"run/plan.json", "run/provenance.json"}) put(name, AE_IFREG);
  ::archive_entry_clear(entry);
  ::archive_entry_set_filetype(entry, AE_IFREG);
  ::archive_entry_set_perm(entry, 04777);
  ::archive_entry_set_size(entry, 0);
  add(archive, entry);
  ::archive_entry_free(entry);
  ::archive_write_close(archive);
  ::archive_write_free(archive);
}

/// A header of a tar archive, of a file that says it has so many bytes.
std::string tar_header(const std::string& name, std::uint64_t bytes) {
  std::string header(512, '\0');
  header.replace(0, name.size(), name);
  header.replace(100, 7, "0000644");
  for (int i = 0; i < 8; ++i) header[135 - i] = static_cast<char>(bytes >> (8 * i));  // big-endian, not octal
  header[124] = '\x80';
  header[156] = '0';
  header.replace(257, 8,
                 std::string("ustar\0"
                             "00",
                             8));
  header.replace(148, 8, "        ");
  unsigned sum = 0;
  for (const char c : header) sum += static_cast<unsigned char>(c);
  char text[8];
  std::snprintf(text, sizeof text, "%06o", sum);
  header.replace(148, 7, text, 7);
  return header;
}

TEST_CASE("an archive that says it holds more than the disk has room for is refused before anything is written") {
  const test::TemporaryFolder folder;
  const fs::path runs = folder.path() / "runs/of/mine";
  const fs::path bomb = folder.write("bomb.tar", tar_header("run/bomb", std::uint64_t{1} << 52));
  CHECK_THROWS_WITH(unpack_archive(bomb, runs), Contains("has no room for what") && Contains("bomb.tar holds"));
  CHECK_FALSE(fs::exists(folder.path() / "runs"));
  // What it says and does not have is no reason to make it.
  const fs::path cut = folder.write("cut.tar", tar_header("run/plan.json", 4096) + "{}");
  CHECK_THROWS_AS(unpack_archive(cut, runs), BadArchive);
  CHECK_FALSE(fs::exists(folder.path() / "runs"));

  const test::SmallDisk disk("4m");
  if (!disk.mounted()) return;
  std::string many;
  for (int i = 0; i < 2000; ++i) many += tar_header("run/" + std::to_string(i), 1) + std::string(512, 'x');
  try {
    unpack_archive(folder.write("many.tar", many), disk.path());
    FAIL_CHECK("unpacked");
  } catch (const BadArchive& error) {
    FAIL_CHECK(error.what());
  } catch (const core::Error& error) {
    CHECK_THAT(error.what(), Contains("has no room for what"));
  }
  CHECK(fs::is_empty(disk.path()));
}

TEST_CASE("hostile archives write nothing outside of the run's folder, and leave nothing") {
  const test::TemporaryFolder folder;
  const fs::path file = folder.path() / "hostile.tar.zst";
  const fs::path runs = folder.path() / "runs";
  const fs::path outside = folder.path() / "outside";
  const auto named = [](const std::string& name) {
    return [name](::archive* archive, ::archive_entry* entry) {
      ::archive_entry_set_pathname(entry, name.c_str());
      ::archive_write_header(archive, entry);
    };
  };
  const auto linked = [](const std::string& name, const std::string& target, bool hard) {
    return [=](::archive* archive, ::archive_entry* entry) {
      ::archive_entry_set_pathname(entry, name.c_str());
      if (hard) {
        ::archive_entry_set_hardlink(entry, target.c_str());
      } else {
        ::archive_entry_set_filetype(entry, AE_IFLNK);
        ::archive_entry_set_symlink(entry, target.c_str());
      }
      ::archive_write_header(archive, entry);
    };
  };
  const std::pair<const char*, std::function<void(::archive*, ::archive_entry*)>> cases[] = {
      {"has no path relative", named(outside)},
      {"leads out", named("../outside")},
      {"leads out", named("run/../../outside")},
      {"leads out", named("run/jobs/../../outside")},
      {"is not in the folder", named("other/file")},
      {"is there twice", named("run/plan.json")},
      {"a runner holds", named("run/lock")},
      {"is below a file", named("run/plan.json/inner")},
      {"too long a name", named("run/" + std::string(3000, 'a'))},
      {"neither a file", linked("run/link", outside, false)},
      {"neither a file", linked("run/jobs", "..", false)},
      {"no file of it", linked("run/hard", "/etc/passwd", true)},
      {"no file of it", linked("run/hard", "run/absent", true)},
      {"leads out", linked("run/hard", "../outside", true)},
      {"neither a file",
       [](::archive* archive, ::archive_entry* entry) {
         ::archive_entry_set_pathname(entry, "run/fifo");
         ::archive_entry_set_filetype(entry, AE_IFIFO);
         ::archive_write_header(archive, entry);
       }},
      {"neither a file",
       [](::archive* archive, ::archive_entry* entry) {
         ::archive_entry_set_pathname(entry, "run/null");
         ::archive_entry_set_filetype(entry, AE_IFCHR);
         ::archive_entry_set_rdev(entry, 0x103);
         ::archive_write_header(archive, entry);
       }},
  };
  for (const auto& [why, add] : cases) {
    write_hostile(file, add);
    INFO(why);
    try {
      unpack_archive(file, runs);
      FAIL_CHECK("unpacked");
    } catch (const BadArchive& error) {
      const std::string message = error.what();
      if (std::string(why) == "no file of it") {
        CHECK_THAT(message, Contains("no file of it") || Contains("has no path relative"));
      } else {
        CHECK_THAT(message, Contains(why));
      }
    }
    CHECK_FALSE(fs::exists(runs));
    CHECK_FALSE(fs::exists(outside));
  }

  // Modes are not kept; and what is no run at all.
  write_hostile(file, named("run/file"));
  const RunDirectory run = unpack_archive(file, runs).run;
  CHECK((fs::status(run.path() / "file").permissions() & fs::perms::set_uid) == fs::perms::none);
  folder.write("text.tar.zst", "no archive");
  CHECK_THROWS_WITH(unpack_archive(folder.path() / "text.tar.zst", runs), Contains("cannot read"));
}

}  // namespace
}  // namespace braise::journal
