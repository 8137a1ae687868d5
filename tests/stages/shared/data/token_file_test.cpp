// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/data/token_file.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"
#include "stages/shared/text/tokenizer.h"
#include "stages/tokenize/token_file.h"
#include "tests/stages/shared/data/data_files.h"

namespace braise::data {
namespace {

namespace fs = std::filesystem;
using test::Documents;
using test::TokenContent;
using test::Values;

TokenContent some_content() {
  TokenContent content;
  content.train = {test::numbered({3, 1, 700}), {}, test::numbered({2000, 5}, 704)};
  content.validation = {{}, test::numbered({10, 20}, 5000), test::numbered({7}, 5030)};
  return content;
}

Values read(const TokenFile& file, Side side, std::uint64_t begin, std::uint64_t count) {
  Values values(count, -1);
  file.read(side, begin, values);
  return values;
}

TEST_CASE("the shards are one stream") {
  const test::TemporaryFolder folder;
  for (const auto element : {hdf5::Element::uint16, hdf5::Element::uint32}) {
    TokenContent content = some_content();
    content.element = element;
    content.end_of_document = 77;
    const TokenFile file(test::write_token_files(folder.path() / hdf5::name_of(element), content), "", true);
    CHECK(file.vocabulary_size() == 1 << 20);
    CHECK(file.end_of_document() == 77u);
    CHECK(nlohmann::json::parse(file.tokenizer()) == content.tokenizer);
    for (const Side side : {Side::kTrain, Side::kValidation}) {
      const Documents documents = test::all_of(side == Side::kTrain ? content.train : content.validation);
      const std::vector<std::uint32_t> expected = test::joined(documents);
      const auto offsets = file.document_offsets(side);
      CHECK(file.tokens(side) == expected.size());
      CHECK(file.documents(side) == documents.size());
      CHECK(std::vector<std::uint64_t>(offsets.begin(), offsets.end()) == test::offsets_of(documents));
      for (const std::size_t count :
           {std::size_t{1}, std::size_t{2}, std::size_t{30}, expected.size() - 3, expected.size()}) {
        for (std::size_t begin = 0; begin + count <= expected.size(); ++begin) {
          file.will_read(side, begin, count);
          const Values got = read(file, side, begin, count);
          const bool same = std::equal(got.begin(), got.end(), expected.begin() + static_cast<std::ptrdiff_t>(begin));
          if (!same) FAIL("tokens from " << begin << ", " << count);
        }
      }
      CHECK_THROWS_AS(read(file, side, expected.size(), 1), core::Error);
      CHECK_THROWS_AS(read(file, side, 0, expected.size() + 1), core::Error);
      CHECK_THROWS_AS(read(file, side, ~std::uint64_t{0}, 2), core::Error);
      CHECK(read(file, side, expected.size(), 0).empty());
    }
  }
}

/// Token files as the stage itself makes them.
TEST_CASE("what stages/tokenize writes is read") {
  const test::TemporaryFolder folder;
  const auto tokenizer = text::make_tokenizer({{"kind", "bytes"}, {"end_of_document", true}});
  const std::vector<std::string> texts = {"one\n", "the second\n", "3\n", "and the fourth of them\n", "5", "six\n"};
  std::vector<tokenize::ShardPart> parts;
  nlohmann::json shards = nlohmann::json::array();
  Values train, validation;
  for (std::size_t shard = 0; shard < 2; ++shard) {
    tokenize::ShardTokens tokens(*tokenizer, {0.5, tokenize::Validation::Take::tail}, 3);
    for (std::size_t i = 3 * shard; i < 3 * shard + 3; ++i) tokens.add(i, texts[i]);
    const std::string name = "tokens.0000" + std::to_string(shard) + ".h5";
    tokens.write(folder.path() / name);
    parts.push_back({name, tokens.counts()});
    const io::FileDigest digest = io::digest_file(folder.path() / name);
    shards.push_back({{"file", name},
                      {"bytes", digest.bytes},
                      {"sha256", digest.sha256},
                      {"train_tokens", tokens.counts().train.tokens},
                      {"validation_tokens", tokens.counts().validation.tokens}});
  }
  const fs::path master = folder.path() / "tokens.h5";
  tokenize::write_master_file(
      master, *tokenizer, parts,
      {{"config", {{"tokenizer", {{"kind", "bytes"}, {"end_of_document", true}}}}}, {"shards", shards}});
  const TokenFile file(master, "", true);
  CHECK(file.vocabulary_size() == 257);
  CHECK(file.end_of_document() == 256u);
  const Values all = read(file, Side::kTrain, 0, file.tokens(Side::kTrain));
  const Values held_out = read(file, Side::kValidation, 0, file.tokens(Side::kValidation));
  CHECK(all.size() + held_out.size() == std::accumulate(texts.begin(), texts.end(), std::size_t{0},
                                                        [](auto n, const auto& text) { return n + text.size(); }) +
                                            file.documents(Side::kTrain) + file.documents(Side::kValidation));
  std::string text;
  for (const std::int32_t token : all) text += token == 256 ? '|' : static_cast<char>(token);
  for (const std::int32_t token : held_out) text += token == 256 ? '|' : static_cast<char>(token);
  // Each document's beginning for training, its end for validation.
  CHECK_THAT(text, Catch::StartsWith("o"));
  CHECK(std::count(text.begin(), text.end(), '|') ==
        static_cast<std::ptrdiff_t>(file.documents(Side::kTrain) + file.documents(Side::kValidation)));
  const auto offsets = file.document_offsets(Side::kTrain);
  for (std::size_t i = 1; i < offsets.size(); ++i) CHECK(all[offsets[i] - 1] == 256);
}

/// The error of opening files that one change has spoilt.
struct Spoilt {
  test::TemporaryFolder folder;
  TokenContent content = some_content();
  fs::path master = test::write_token_files(folder.path() / "tokens", content);

  fs::path shard(const std::string& number) const { return master.parent_path() / ("tokens.0000" + number + ".h5"); }
  std::string error(bool verify = false) const {
    return test::error_of([&] { TokenFile file(master, "", verify); });
  }
};

/// Replaces one HDF5 file by another that `write` fills.
void rewrite(const fs::path& path, const std::function<void(hdf5::Writer&)>& write) {
  fs::remove(path);
  hdf5::Writer file(path);
  write(file);
  file.close();
}

TEST_CASE("files that are not token files") {
  Spoilt files;
  const fs::path text = files.folder.write("text.h5", "no HDF5 at all");
  CHECK_THAT(test::error_of([&] { TokenFile file(text); }), Catch::Contains(text.string()));
  CHECK_THAT(test::error_of([&] { TokenFile file(files.folder.path()); }), Catch::Contains("is a folder"));
  CHECK_THAT(test::error_of([&] { TokenFile file(files.folder.path() / "none.h5"); }), Catch::Contains("none.h5"));
  const fs::path other = files.folder.path() / "other.h5";
  rewrite(other, [](hdf5::Writer& file) { file.text("/note", "hello"); });
  CHECK_THAT(test::error_of([&] { TokenFile file(other); }), Catch::Contains("other.h5: is not a token file"));
  rewrite(other, [](hdf5::Writer& file) {
    file.attribute("/", "format", std::string("x\ny"));
    file.attribute("/", "version", std::uint64_t{1});
  });
  CHECK_THAT(test::error_of([&] { TokenFile file(other); }), Catch::Contains("is of format \"x\\ny\""));
  rewrite(other, [](hdf5::Writer& file) {
    file.attribute("/", "format", std::string("braise tokens"));
    file.attribute("/", "version", std::uint64_t{2});
  });
  CHECK_THAT(test::error_of([&] { TokenFile file(other); }), Catch::Contains("is of version 2"));
  rewrite(other, [](hdf5::Writer& file) {
    file.attribute("/", "format", std::string("braise tokens"));
    file.attribute("/", "version", std::string("1"));
  });
  CHECK_THAT(test::error_of([&] { TokenFile file(other); }), Catch::Contains("version is not a single whole number"));
  // A shard is no master.
  CHECK_THAT(test::error_of([&] { TokenFile file(files.shard("0")); }), Catch::Contains("/provenance"));
}

TEST_CASE("shards that are missing, cut, damaged or of another text") {
  Spoilt files;
  CHECK(files.error(true).empty());
  const std::string whole = io::read_file(files.shard("2"));
  const auto put = [&](const std::string& bytes) { std::ofstream(files.shard("2"), std::ios::binary) << bytes; };

  put(whole.substr(0, whole.size() - 1));
  CHECK_THAT(files.error(), Catch::Contains("tokens.00002.h5: has " + std::to_string(whole.size() - 1) +
                                            " bytes, not " + std::to_string(whole.size())));
  put("");
  CHECK_THAT(files.error(), Catch::Contains("tokens.00002.h5: has 0 bytes"));

  // Any one byte that is not as it was is found by its digest, and only asked for.
  std::string damaged = whole;
  damaged[whole.size() - 3] = static_cast<char>(damaged[whole.size() - 3] ^ 1);
  put(damaged);
  CHECK(files.error(false).empty());
  CHECK_THAT(files.error(true), Catch::Contains("tokens.00002.h5: has SHA-256 ") && Catch::Contains("damaged"));

  fs::remove(files.shard("2"));
  CHECK_THAT(files.error(), Catch::Contains("tokens.00002.h5"));
  fs::create_directory(files.shard("2"));
  CHECK_THAT(files.error(), Catch::Contains("tokens.00002.h5 is a folder"));
}

TEST_CASE("verifying tells how far it is") {
  Spoilt files;
  std::vector<std::string> notes;
  const TokenFile file(files.master, "", true, [&](const std::string& note) { notes.push_back(note); });
  REQUIRE(notes.size() == 4);
  CHECK(file.sha256() == io::digest_file(files.master).sha256);
  CHECK_THAT(notes[3], Catch::StartsWith("verify ") && Catch::Contains("tokens.00002.h5, 0 bytes of"));
}

TEST_CASE("a master that does not fit its shards") {
  const auto error = [](const std::function<void(test::MasterParts&)>& falsify) {
    const test::TemporaryFolder folder;
    const fs::path master = test::write_token_files(folder.path(), some_content(), falsify);
    return test::error_of([&] { TokenFile file(master); });
  };
  CHECK(error({}).empty());
  using Parts = test::MasterParts;
  CHECK_THAT(error([](Parts& parts) { parts.offsets[0][0] = 1; }), Catch::Contains("does not begin with 0"));
  CHECK_THAT(error([](Parts& parts) { parts.offsets[0][2] = parts.offsets[0][1]; }),
             Catch::Contains("tokens.h5: /train/document_offsets does not grow at document 1"));
  CHECK_THAT(error([](Parts& parts) { parts.offsets[0][2] = ~std::uint64_t{0}; }),
             Catch::Contains("does not grow at document 2"));
  CHECK_THAT(error([](Parts& parts) { ++parts.offsets[1].back(); }),
             Catch::Contains("/validation/document_offsets ends with 38, but the shards have 37 tokens"));
  CHECK_THAT(error([](Parts& parts) { parts.offsets[1].pop_back(); }), Catch::Contains("has 3 offsets"));
  CHECK_THAT(error([](Parts& parts) { parts.offsets[1].clear(); }), Catch::Contains("has 0 offsets"));
  CHECK_THAT(error([](Parts& parts) { ++parts.offsets[0][3]; }),
             Catch::Contains("lets a document cross from one shard into tokens.00001.h5"));

  CHECK_THAT(error([](Parts& parts) { parts.provenance = "text"; }),
             Catch::Contains("tokens.h5: its /provenance is not"));
  CHECK_THAT(error([](Parts& parts) { parts.provenance.erase("shards"); }), Catch::Contains("/provenance"));
  CHECK_THAT(error([](Parts& parts) { parts.provenance["shards"] = {1}; }), Catch::Contains("/provenance"));
  CHECK_THAT(error([](Parts& parts) { parts.provenance["shards"][0]["bytes"] = "many"; }),
             Catch::Contains("/provenance"));
  CHECK_THAT(error([](Parts& parts) { parts.provenance["shards"][0]["bytes"] = -1; }), Catch::Contains("bytes, not"));
  CHECK_THAT(error([](Parts& parts) { parts.provenance["shards"] = nlohmann::json::array(); }),
             Catch::Contains("the shards have 0 documents"));
  for (const char* name : {"../tokens.00000.h5", "/etc/passwd", "", "..", ".", "a/b"}) {
    CHECK_THAT(error([&](Parts& parts) { parts.provenance["shards"][0]["file"] = name; }),
               Catch::Contains("which is not a file beside it"));
  }
  CHECK_THAT(error([](Parts& parts) { parts.provenance["shards"][2]["train_tokens"] = 2004; }),
             Catch::Contains("tokens.00002.h5: /train/tokens has 2005 tokens, not 2004"));
  CHECK_THAT(error([](Parts& parts) { std::swap(parts.provenance["shards"][0], parts.provenance["shards"][2]); }),
             !Catch::Matches(""));
}

/// Puts another file in a shard's place, and into the provenance.
std::string error_with_shard(const std::function<void(hdf5::Writer&)>& write) {
  const test::TemporaryFolder folder;
  TokenContent content;
  content.train = {test::numbered({10})};
  content.vocabulary_size = 100;
  const fs::path master = test::write_token_files(folder.path(), content, [&](test::MasterParts& parts) {
    const fs::path shard = folder.path() / "tokens.00000.h5";
    rewrite(shard, write);
    const io::FileDigest digest = io::digest_file(shard);
    parts.provenance["shards"][0]["bytes"] = digest.bytes;
    parts.provenance["shards"][0]["sha256"] = digest.sha256;
  });
  return test::error_of([&] {
    const TokenFile file(master, "", true);
    read(file, Side::kTrain, 0, file.tokens(Side::kTrain));
  });
}

TEST_CASE("shards that are not what they should be") {
  TokenContent content;
  content.vocabulary_size = 100;
  const std::vector<std::uint32_t> tokens = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
  const auto side = [](hdf5::Writer& file, const std::string& group, const std::vector<std::uint32_t>& values) {
    file.group(group);
    test::write_tokens(file, group, hdf5::Element::uint32, values);
    test::write_offsets(file, group,
                        values.empty() ? std::vector<std::uint64_t>{0} : std::vector<std::uint64_t>{0, values.size()});
  };
  const auto with_tokens = [&](const std::vector<std::uint32_t>& values) {
    return error_with_shard([&](hdf5::Writer& file) {
      test::write_header(file, content);
      side(file, "/train", values);
      side(file, "/validation", {});
    });
  };
  CHECK(with_tokens(tokens).empty());
  auto bad = tokens;
  bad[7] = 100;
  CHECK_THAT(with_tokens(bad),
             Catch::Contains("tokens.00000.h5: element 7 of /train/tokens is 100, but the vocabulary has 100"));
  bad[7] = 0xffffffff;
  CHECK_THAT(with_tokens(bad), Catch::Contains("element 7 of /train/tokens is 4294967295"));
  CHECK_THAT(with_tokens({1}), Catch::Contains("has 1 tokens, not 10"));

  CHECK_THAT(error_with_shard([&](hdf5::Writer& file) {
               TokenContent other = content;
               other.vocabulary_size = 101;
               test::write_header(file, other);
               side(file, "/train", tokens);
               side(file, "/validation", {});
             }),
             Catch::Contains("is of another tokenizer than its master"));
  CHECK_THAT(error_with_shard([&](hdf5::Writer& file) {
               test::write_header(file, content);
               side(file, "/train", tokens);
             }),
             Catch::Contains("tokens.00000.h5"));
  CHECK_THAT(error_with_shard([&](hdf5::Writer& file) {
               test::write_header(file, content);
               file.group("/train");
               file.dataset("/train/tokens", hdf5::Element::uint64, 10);
               test::write_offsets(file, "/train", {0, 10});
               side(file, "/validation", {});
             }),
             Catch::Contains("has 64 bits a token"));
  // Tokens that lie in another file: what a master shows.
  CHECK_THAT(error_with_shard([&](hdf5::Writer& file) {
               test::write_header(file, content);
               file.group("/train");
               file.virtual_dataset("/train/tokens", hdf5::Element::uint32, {10}, {{"elsewhere.h5", "/t", 10}});
               test::write_offsets(file, "/train", {0, 10});
               side(file, "/validation", {});
             }),
             Catch::Contains("/train/tokens does not lie in the file as one piece"));
}

TEST_CASE("vocabularies that cannot be") {
  for (const std::uint64_t size : {std::uint64_t{0}, std::uint64_t{1} << 31, ~std::uint64_t{0}}) {
    const test::TemporaryFolder folder;
    TokenContent content = some_content();
    content.vocabulary_size = size;
    const fs::path master = test::write_token_files(folder.path(), content);
    CHECK_THAT(test::error_of([&] { TokenFile file(master); }), Catch::Contains("has a vocabulary of"));
  }
  const test::TemporaryFolder folder;
  TokenContent content = some_content();
  content.end_of_document = content.vocabulary_size;
  const fs::path master = test::write_token_files(folder.path(), content);
  CHECK_THAT(test::error_of([&] { TokenFile file(master); }), Catch::Contains("is not in its vocabulary"));
}

TEST_CASE("a shard that is cut or written to while it is mapped is an error") {
  Spoilt files;
  // More than a page, so that some of it is gone altogether.
  files.content.train[2] = test::numbered({20000}, 704);
  files.master = test::write_token_files(files.folder.path() / "large", files.content);
  const std::uint64_t begin = 704;
  for (const std::uint64_t left : {std::uint64_t{0}, std::uint64_t{10000}, fs::file_size(files.shard("2")) - 1}) {
    const std::string whole = io::read_file(files.shard("2"));
    const TokenFile file(files.master);
    CHECK(read(file, Side::kTrain, begin, 20000).back() == 20703);
    fs::resize_file(files.shard("2"), left);
    for (const std::uint64_t at : {begin, begin + 19990}) {
      CHECK_THAT(test::error_of([&] { read(file, Side::kTrain, at, 10); }), Catch::Contains(files.shard("2").string()));
    }
    file.will_read(Side::kTrain, begin, 20000);
    CHECK(read(file, Side::kTrain, 0, 700).back() == 699);
    std::ofstream(files.shard("2"), std::ios::binary) << whole;
    CHECK_THAT(test::error_of([&] { read(file, Side::kTrain, begin, 10); }), Catch::Contains("must not change"));
  }
  // A shard that is deleted stays as it is for whoever has it.
  const TokenFile file(files.master);
  fs::remove(files.shard("2"));
  CHECK(read(file, Side::kTrain, begin, 20000).back() == 20703);
}

TEST_CASE("masters and shards that are cut anywhere, or have any byte another, are an error") {
  Spoilt files;
  files.content.train = {test::numbered({3, 8}), test::numbered({5}, 11)};
  files.content.validation = {};
  files.master = test::write_token_files(files.folder.path() / "small", files.content);
  const std::string digest = io::digest_file(files.master).sha256;
  for (const fs::path& path : {files.master, files.shard("0")}) {
    const std::string whole = io::read_file(path);
    const auto error = [&](const std::string& bytes, const std::string& sha256) {
      fs::remove(path);
      std::ofstream(path, std::ios::binary) << bytes;
      return test::error_of([&] { TokenFile file(files.master, sha256, true); });
    };
    for (std::size_t length = 0; length < whole.size(); length += 97)
      CHECK_THAT(error(whole.substr(0, length), ""), Catch::Contains(path.string()));
    for (std::size_t at = 0; at < whole.size(); at += 13) {
      std::string bytes = whole;
      bytes[at] = static_cast<char>(bytes[at] ^ 0x55);
      CHECK_THAT(error(bytes, digest), Catch::Contains(path.string() + ": has SHA-256"));
    }
    CHECK(error(whole, digest).empty());
  }
}

}  // namespace
}  // namespace braise::data
