// SPDX-License-Identifier: Apache-2.0
#include "runner/journal/archive.h"

#include <archive.h>
#include <archive_entry.h>

#include <catch2/catch.hpp>
#include <functional>
#include <map>
#include <string>

#include "kernels/core/error.h"
#include "stages/shared/io/file.h"
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
  const RunDirectory again = unpack_archive(first, folder.path() / "elsewhere");
  CHECK(again.id() == run.id());
  std::map<std::string, std::string> expected = files_below(run.path());
  expected.erase("scratch/left");
  CHECK(files_below(again.path()) == expected);
  CHECK(fs::is_directory(again.scratch_dir()));

  write_archive(again, folder.path() / "second.tar.zst", true);
  CHECK(io::read_file(first) == io::read_file(folder.path() / "second.tar.zst"));
  CHECK_THROWS_WITH(unpack_archive(first, folder.path() / "elsewhere"), Contains("there is already a run"));
  CHECK_THROWS_WITH(write_archive(run, first, true), Contains("is there already"));

  write_archive(run, folder.path() / "light.tar.zst", false);
  const RunDirectory light = unpack_archive(folder.path() / "light.tar.zst", folder.path() / "light");
  std::erase_if(expected, [](const auto& file) { return file.first.ends_with("part.h5"); });
  // The link of artifacts/ has no manifest beside it here.
  std::map<std::string, std::string> left = files_below(light.path());
  left.erase("jobs/train/attempts/1-abcdef/artifacts/checkpoint/part.h5");
  CHECK(left == expected);
}

TEST_CASE("an archive that is cut short is refused at any length, and leaves nothing") {
  const test::TemporaryFolder folder;
  const RunDirectory run = sample(folder.path() / "runs");
  write_archive(run, folder.path() / "whole.tar.zst", true);
  const std::string whole = io::read_file(folder.path() / "whole.tar.zst");
  for (std::size_t length = 0; length < whole.size(); length += 1 + whole.size() / 40) {
    folder.write("cut.tar.zst", whole.substr(0, length));
    CHECK_THROWS(unpack_archive(folder.path() / "cut.tar.zst", folder.path() / "elsewhere"));
  }
  CHECK(fs::is_empty(folder.path() / "elsewhere"));
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
      {"cannot create", named("run/lock")},  // which whoever unpacks holds
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
    } catch (const core::Error& error) {
      const std::string message = error.what();
      if (std::string(why) == "no file of it") {
        CHECK_THAT(message, Contains("no file of it") || Contains("has no path relative"));
      } else {
        CHECK_THAT(message, Contains(why));
      }
    }
    CHECK(fs::is_empty(runs));
    CHECK_FALSE(fs::exists(outside));
  }

  // Modes are not kept; and what is no run at all.
  write_hostile(file, named("run/file"));
  const RunDirectory run = unpack_archive(file, runs);
  CHECK((fs::status(run.path() / "file").permissions() & fs::perms::set_uid) == fs::perms::none);
  folder.write("text.tar.zst", "no archive");
  CHECK_THROWS_WITH(unpack_archive(folder.path() / "text.tar.zst", runs), Contains("cannot read"));
}

}  // namespace
}  // namespace braise::journal
