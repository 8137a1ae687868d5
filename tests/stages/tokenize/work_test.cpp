// SPDX-License-Identifier: Apache-2.0
#include "stages/tokenize/work.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <fstream>

#include "kernels/core/error.h"
#include "stages/shared/hdf5/hdf5_file.h"
#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"
#include "stages/tokenize/shard_store.h"
#include "tests/stages/fake_context.h"
#include "tests/support/schema.h"
#include "tests/support/support.h"

namespace braise::tokenize {
namespace {
namespace fs = std::filesystem;

using Catch::Contains;
using stages::Ending;

nlohmann::json config_with(const nlohmann::json& changes = nlohmann::json::object()) {
  nlohmann::json config = {{"input", "/unused/*.txt"},
                           {"format", "auto"},
                           {"text_key", "text"},
                           {"documents", "line"},
                           {"tokenizer", {{"kind", "bytes"}, {"end_of_document", true}}},
                           {"validation", {{"fraction", 0}, {"take", "documents"}}},
                           {"shard_size", 4096}};
  config.merge_patch(changes);
  return config;
}

stages::InputFile input(const fs::path& path) {
  const io::FileDigest digest = io::digest_file(path);
  return {path, digest.bytes, digest.sha256};
}

/// The tokens of every document of a side, the end of document still there.
std::vector<std::vector<std::uint64_t>> documents_in(const fs::path& file, const std::string& group) {
  const hdf5::Reader reader(file);
  const std::uint64_t count = reader.info(group + "/document_offsets").elements;
  const std::vector<std::uint64_t> offsets = reader.read(group + "/document_offsets", 0, count);
  std::vector<std::vector<std::uint64_t>> documents;
  for (std::size_t i = 0; i + 1 < count; ++i) {
    documents.push_back(reader.read(group + "/tokens", offsets[i], offsets[i + 1] - offsets[i]));
  }
  CHECK(offsets.back() == reader.info(group + "/tokens").elements);
  return documents;
}

std::vector<std::uint64_t> tokens_of(const std::string& text) {
  std::vector<std::uint64_t> tokens;
  for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
  tokens.push_back(256);
  return tokens;
}

/// What schemas/tokens.schema.json describes.
nlohmann::json listing_of(const fs::path& file, bool master) {
  const hdf5::Reader reader(file);
  nlohmann::json listing;
  for (const char* name : {"format", "tokenizer"}) listing["attributes"][name] = reader.text_attribute("/", name);
  for (const char* name : {"version", "vocabulary_size", "end_of_document"}) {
    listing["attributes"][name] = reader.attribute("/", name);
  }
  for (const std::string group : {"train", "validation"}) {
    for (const std::string dataset : {"tokens", "document_offsets"}) {
      const hdf5::DatasetInfo info = reader.info("/" + group + "/" + dataset);
      listing[group][dataset] = {{"element", hdf5::name_of(info.element)},
                                 {"elements", info.elements},
                                 {"layout", info.contiguous ? "contiguous" : "virtual"}};
    }
  }
  if (master) listing["provenance"] = nlohmann::json::parse(reader.text("/provenance"));
  return listing;
}

bool is_as_the_schema_says(const nlohmann::json& listing) {
  return test::schema_faults(listing, "tokens.schema.json").empty();
}

/// Lines, each with its number, of different lengths.
std::string numbered_lines(int lines) {
  std::string text;
  for (int i = 0; i < lines; ++i) text += std::to_string(i) + std::string(static_cast<std::size_t>(i % 50), '.') + "\n";
  return text;
}

TEST_CASE("documents of several files become token files as documented") {
  const test::TemporaryFolder folder;
  test::FakeContext context(folder.path());
  context.job_.config = config_with({{"validation", {{"fraction", 0.2}}}});
  context.job_.inputs = {input(folder.write("a.txt", numbered_lines(500))), input(folder.write("blank.txt", "\n \n")),
                         input(folder.write("b.jsonl", "{\"text\": \"from JSON\"}\n"))};
  stages::Outputs outputs;
  REQUIRE(run(context, outputs) == Ending::completed);

  const std::vector<stages::OutputFile>& files = outputs.at("tokens").files;
  REQUIRE(files.size() > 3);
  CHECK(files[0].path == "artifacts/tokens.h5");
  CHECK(files[1].path == "artifacts/tokens.00000.h5");
  for (const stages::OutputFile& file : files) {
    const io::FileDigest digest = io::digest_file(context.attempt_dir_ / file.path);
    CHECK(digest.sha256 == file.sha256);
    CHECK(digest.bytes == file.bytes);
    CHECK(is_as_the_schema_says(listing_of(context.attempt_dir_ / file.path, &file == &files[0])));
  }
  CHECK_FALSE(is_as_the_schema_says({{"attributes", {{"format", "other"}}}}));

  const fs::path master = context.attempt_dir_ / files[0].path;
  const auto train = documents_in(master, "/train");
  const auto validation = documents_in(master, "/validation");
  CHECK(train.size() + validation.size() == 501);
  CHECK(validation.size() > 60);
  CHECK(validation.size() < 140);
  // Both sides together, in order, are what went in.
  std::vector<std::vector<std::uint64_t>> expected;
  for (int i = 0; i < 500; ++i) {
    expected.push_back(tokens_of(std::to_string(i) + std::string(static_cast<std::size_t>(i % 50), '.') + "\n"));
  }
  expected.push_back(tokens_of("from JSON"));
  std::size_t t = 0, v = 0;
  for (const auto& document : expected) {
    if (t < train.size() && train[t] == document) {
      ++t;
    } else {
      REQUIRE(v < validation.size());
      REQUIRE(validation[v++] == document);
    }
  }

  const nlohmann::json provenance = nlohmann::json::parse(hdf5::Reader(master).text("/provenance"));
  CHECK(provenance.at("inputs").at(0).at("name") == "a.txt");
  CHECK(provenance.at("inputs").at(0).at("sha256") == context.job_.inputs[0].sha256);
  CHECK(provenance.dump().find(folder.path().string()) == std::string::npos);
  CHECK(provenance.at("shards").size() == files.size() - 1);

  // Progress was told.
  CHECK(context.metrics_.back().at("step") == files.size() - 1);
  CHECK(context.metrics_.back().at("steps") == files.size() - 1);
}

TEST_CASE("the tokens of a shard can be mapped") {
  const test::TemporaryFolder folder;
  test::FakeContext context(folder.path());
  context.job_.config = config_with({{"documents", "file"}});
  const std::string text = numbered_lines(1000);
  context.job_.inputs = {input(folder.write("a.txt", text))};
  stages::Outputs outputs;
  REQUIRE(run(context, outputs) == Ending::completed);
  const fs::path shard = context.attempt_dir_ / "artifacts/tokens.00000.h5";
  const hdf5::DatasetInfo info = hdf5::Reader(shard).info("/train/tokens");
  REQUIRE(info.elements == text.size() + 1);

  const io::FileDescriptor file(::open(shard.c_str(), O_RDONLY));
  REQUIRE(file);
  const std::size_t bytes = fs::file_size(shard);
  void* const mapped = ::mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, file.get(), 0);
  REQUIRE(mapped != MAP_FAILED);
  const auto* tokens = reinterpret_cast<const std::uint16_t*>(static_cast<const char*>(mapped) + info.file_offset);
  CHECK(std::vector<std::uint64_t>(tokens, tokens + info.elements) == tokens_of(text));
  ::munmap(mapped, bytes);
}

TEST_CASE("tails of documents can be kept for validation") {
  const test::TemporaryFolder folder;
  test::FakeContext context(folder.path());
  context.job_.config = config_with({{"documents", "file"},
                                     {"validation", {{"fraction", 0.25}, {"take", "tail"}}},
                                     {"tokenizer", {{"end_of_document", false}}}});
  context.job_.inputs = {input(folder.write("a.txt", "aaa\nbbb\nccc\nddd\n")), input(folder.write("b.txt", "x"))};
  stages::Outputs outputs;
  REQUIRE(run(context, outputs) == Ending::completed);
  const hdf5::Reader master(context.attempt_dir_ / "artifacts/tokens.h5");
  const auto text_of = [&](const std::string& group) {
    std::string text;
    for (const std::uint64_t token : master.read(group + "/tokens", 0, master.info(group + "/tokens").elements)) {
      text += static_cast<char>(token);
    }
    return text;
  };
  CHECK(text_of("/train") == "aaa\nbbb\nccc\nx");
  CHECK(text_of("/validation") == "ddd\n");
  CHECK(master.read("/train/document_offsets", 0, 3) == std::vector<std::uint64_t>{0, 12, 13});
  CHECK(master.info("/validation/document_offsets").elements == 2);
  CHECK_THROWS_AS(master.attribute("/", "end_of_document"), core::Error);
}

TEST_CASE("a split that leaves one side empty is an error that says what to do") {
  const test::TemporaryFolder folder;
  test::FakeContext context(folder.path());
  context.job_.config = config_with({{"documents", "file"}, {"validation", {{"fraction", 0.5}}}});
  context.job_.inputs = {input(folder.write("a.txt", "one document"))};
  stages::Outputs outputs;
  CHECK_THROWS_WITH(run(context, outputs), Contains("the split leaves") && Contains("take: tail"));
  context.job_.config = config_with({{"validation", {{"fraction", 0.01}, {"take", "tail"}}}});
  CHECK_THROWS_WITH(run(context, outputs), Contains("0 tokens for validation") || Contains("and 0 for validation"));
  CHECK(outputs.empty());
}

TEST_CASE("inputs without text, missing ones and changed ones are errors") {
  const test::TemporaryFolder folder;
  test::FakeContext context(folder.path());
  context.job_.config = config_with();
  stages::Outputs outputs;
  CHECK_THROWS_WITH(run(context, outputs), Contains("no input files"));
  context.job_.inputs = {input(folder.write("blank.txt", "\n\n"))};
  CHECK_THROWS_WITH(run(context, outputs), Contains("no text in the 1 input files"));

  context.job_.inputs = {input(folder.write("a.txt", "before"))};
  folder.write("a.txt", "after!");
  CHECK_THROWS_WITH(run(context, outputs), Contains("a.txt has changed since the job was planned") &&
                                               Contains(io::sha256("before")) && Contains(io::sha256("after!")) &&
                                               Contains("plan the run again"));
  fs::remove(folder.path() / "a.txt");
  CHECK_THROWS_WITH(run(context, outputs), Contains("cannot open") && Contains("a.txt"));
}

TEST_CASE("a file that changes between the two readings is an error") {
  const test::TemporaryFolder folder;
  const fs::path path = folder.write("a.txt", numbered_lines(10));
  Scanner scanner(input(path), {text::DocumentFormat::Kind::text, text::DocumentUnit::line, ""},
                  [](const std::string&) {});
  REQUIRE(scanner.advance(Deadline::max()));
  const std::vector<stages::InputFile> files = {input(path)};
  const std::vector<FileScan> scans = {scanner.result()};
  const text::DocumentFormat format = {text::DocumentFormat::Kind::text, text::DocumentUnit::line, ""};
  std::string document;
  {
    CorpusReader corpus(files, scans, format, [](const std::string&) {});
    for (int i = 0; i < 10; ++i) corpus.next(document);
    corpus.verify();
    std::ofstream(path, std::ios::app) << "more\n";
    CHECK_THROWS_WITH(corpus.verify(), Contains("was changed while it was read"));
  }
  std::ofstream(path, std::ios::trunc) << "1\n";
  CorpusReader corpus(files, scans, format, [](const std::string&) {});
  CHECK_THROWS_WITH(
      [&] {
        for (int i = 0; i < 10; ++i) corpus.next(document);
      }(),
      Contains("shorter"));
}

TEST_CASE("the corpus reader goes to every document, by landmarks and by skipping") {
  const test::TemporaryFolder folder;
  std::string large;
  while (large.size() < 3'500'000) large += numbered_lines(1000);
  const std::vector<stages::InputFile> files = {input(folder.write("a.txt", "first\n")),
                                                input(folder.write("e.txt", "")), input(folder.write("b.txt", large)),
                                                input(folder.write("c.txt", "last\n"))};
  const text::DocumentFormat format = {text::DocumentFormat::Kind::text, text::DocumentUnit::line, ""};
  std::vector<FileScan> scans;
  std::uint64_t documents = 0;
  for (const stages::InputFile& file : files) {
    Scanner scanner(file, format, [](const std::string&) {});
    while (!scanner.advance(Deadline())) {
    }
    scans.push_back(scanner.result());
    documents += scans.back().documents;
  }
  CHECK(scans[2].landmarks.size() == 4);
  std::vector<std::string> all(documents);
  CorpusReader straight(files, scans, format, [](const std::string&) {});
  for (std::string& document : all) straight.next(document);
  CHECK(all.front() == "first\n");
  CHECK(all.back() == "last\n");
  CorpusReader jumping(files, scans, format, [](const std::string&) {});
  std::string document;
  for (const std::uint64_t i : {documents - 1, std::uint64_t{0}, documents / 2, documents / 2 + 1, documents / 2 + 7,
                                documents - 3, std::uint64_t{1}, documents / 3}) {
    jumping.seek(i);
    jumping.next(document);
    CHECK(document == all[i]);
  }
}

TEST_CASE("finished shards of an earlier attempt are taken over, bad ones made anew") {
  const test::TemporaryFolder folder;
  const auto prepare = [&](test::FakeContext& context) {
    context.job_.config = config_with({{"validation", {{"fraction", 0.1}}}});
    context.job_.inputs = {input(folder.write("a.txt", numbered_lines(2000)))};
  };
  test::FakeContext first(folder.path());
  prepare(first);
  stages::Outputs outputs;
  REQUIRE(run(first, outputs) == Ending::completed);
  const std::string digest = outputs.at("tokens").digest();
  const fs::path artifacts = first.attempt_dir_ / "artifacts";

  const auto run_again = [&](const std::string& attempt, const std::string& fingerprint = "fingerprint") {
    test::FakeContext again(folder.path(), attempt);
    prepare(again);
    again.job_.fingerprint = fingerprint;
    again.earlier_attempts_ = {folder.path() / "jobs/job/attempts/no-such-attempt", first.attempt_dir_};
    stages::Outputs new_outputs;
    REQUIRE(run(again, new_outputs) == Ending::completed);
    CHECK(new_outputs.at("tokens").digest() == digest);
    return again;
  };
  const auto inode = [](const fs::path& path) {
    struct stat status {};
    REQUIRE(::stat(path.c_str(), &status) == 0);
    return status.st_ino;
  };

  {
    const test::FakeContext again = run_again("2-bbbbbb");
    CHECK(inode(again.attempt_dir_ / "artifacts/tokens.00003.h5") == inode(artifacts / "tokens.00003.h5"));
    CHECK_THAT(again.log_, Contains("shard 3 taken over from attempt 1-aaaaaa"));
  }
  {
    const test::FakeContext again = run_again("3-cccccc", "another");
    CHECK(inode(again.attempt_dir_ / "artifacts/tokens.00003.h5") != inode(artifacts / "tokens.00003.h5"));
    CHECK_THAT(again.log_, Contains("shard 3 of attempt 1-aaaaaa was made of something else"));
  }
  // One damaged, one truncated, one whose manifest is torn, one unfinished, one missing.
  fs::permissions(artifacts, fs::perms::owner_all);
  const auto damage = [&](const std::string& name, const std::string& content) {
    fs::remove(artifacts / name);
    std::ofstream(artifacts / name) << content;
  };
  std::string flipped = io::read_file(artifacts / "tokens.00001.h5");
  flipped[flipped.size() / 2] = static_cast<char>(flipped[flipped.size() / 2] + 1);
  damage("tokens.00001.h5", flipped);
  damage("tokens.00002.h5", "short");
  damage("tokens.00004.json", "{\"made_of\": ");
  fs::remove(artifacts / "tokens.00005.json");
  fs::remove(artifacts / "tokens.00006.h5");
  const test::FakeContext again = run_again("4-dddddd");
  CHECK_THAT(again.log_, Contains("shard 0 taken over"));
  CHECK_THAT(again.log_, Contains("shard 1 of attempt 1-aaaaaa cannot be taken over and is made anew") &&
                             Contains("is damaged: its sha256 is"));
  CHECK_THAT(again.log_, Contains("shard 2 of attempt 1-aaaaaa cannot be taken over"));
  CHECK_THAT(again.log_, Contains("shard 4 of attempt 1-aaaaaa is made anew, its manifest is damaged"));
  CHECK_THAT(again.log_, !Contains("shard 5"));
  CHECK_THAT(again.log_, Contains("shard 6 of attempt 1-aaaaaa cannot be taken over"));
}

TEST_CASE("a stop leaves no output, and a checkpoint goes on") {
  const test::TemporaryFolder folder;
  test::FakeContext context(folder.path());
  context.job_.config = config_with({{"shard_size", 64 * 1024}});
  // More than a slice's work, so that a request is looked for.
  std::string text;
  while (text.size() < 20'000'000) text += numbered_lines(1000);
  context.job_.inputs = {input(folder.write("a.txt", text))};
  stages::Outputs outputs;
  context.request_ = stages::Request::stop;
  CHECK(run(context, outputs) == Ending::stopped);
  CHECK(outputs.empty());
  CHECK_FALSE(fs::exists(context.attempt_dir_ / "artifacts/tokens.h5"));
  context.request_ = stages::Request::checkpoint;
  test::FakeContext second(folder.path(), "2-bbbbbb");
  second.job_ = context.job_;
  second.request_ = stages::Request::checkpoint;
  CHECK(run(second, outputs) == Ending::completed);
}

TEST_CASE("an output of another stage of the run is read too") {
  const test::TemporaryFolder folder;
  test::FakeContext context(folder.path());
  const fs::path made = folder.write("jobs/other/attempts/1-eeeeee/artifacts/text.txt", "made in this run\n");
  context.job_.config = config_with({{"input", {made.string()}}});
  stages::Outputs outputs;
  REQUIRE(run(context, outputs) == Ending::completed);
  CHECK(documents_in(context.attempt_dir_ / "artifacts/tokens.h5", "/train").at(0) == tokens_of("made in this run\n"));
}

TEST_CASE("a full disk is told before it is filled") {
  const test::TemporaryFolder folder;
  CHECK_NOTHROW(require_space(folder.path(), 1));
  CHECK_THROWS_WITH(require_space(folder.path(), std::uint64_t{1} << 62),
                    Contains(folder.path().string()) && Contains("is too full") && Contains("4611686018427387904"));
}

}  // namespace
}  // namespace braise::tokenize
