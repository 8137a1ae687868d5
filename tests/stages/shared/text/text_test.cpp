// SPDX-License-Identifier: Apache-2.0
#include <sys/stat.h>
#include <zlib.h>
#include <zstd.h>

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "stages/shared/io/digest.h"
#include "stages/shared/text/document_reader.h"
#include "stages/shared/text/text_source.h"
#include "stages/shared/text/tokenizer.h"
#include "tests/support/support.h"

namespace braise::text {
namespace {

using Catch::Contains;
using test::TemporaryFolder;

std::string gzip(const std::string& text) {
  z_stream stream{};
  REQUIRE(deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string packed(deflateBound(&stream, text.size()) + 32, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  REQUIRE(deflate(&stream, Z_FINISH) == Z_STREAM_END);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

std::string zstd(const std::string& text) {
  std::string packed(ZSTD_compressBound(text.size()), '\0');
  packed.resize(ZSTD_compress(packed.data(), packed.size(), text.data(), text.size(), 3));
  return packed;
}

/// Text that does not compress to nothing, longer than every buffer.
std::string long_text() {
  std::string text;
  std::uint32_t state = 1;
  while (text.size() < 3'000'000) {
    state = state * 1664525 + 1013904223;
    text += "word" + std::to_string(state >> 12) + (state % 7 == 0 ? "\n" : " ");
  }
  return text;
}

std::string read_all(const std::filesystem::path& path) {
  const auto source = open_text(path, {});
  std::string text;
  for (std::string_view piece = source->next(); !piece.empty(); piece = source->next()) text += piece;
  CHECK(source->next().empty());
  return text;
}

std::vector<std::string> documents_of(const std::filesystem::path& path, DocumentFormat format) {
  DocumentReader reader(path, format, {});
  std::vector<std::string> documents;
  for (std::string document; reader.next(document);) documents.push_back(document);
  return documents;
}

using Kind = DocumentFormat::Kind;

TEST_CASE("text is read whole, compressed or not") {
  const TemporaryFolder folder;
  const std::string text = long_text();
  CHECK(read_all(folder.write("a.txt", text)) == text);
  CHECK(read_all(folder.write("a.txt.gz", gzip(text))) == text);
  CHECK(read_all(folder.write("a.dict.dz", gzip(text))) == text);
  CHECK(read_all(folder.write("a.zst", zstd(text))) == text);
  CHECK(read_all(folder.write("members.gz", gzip(text) + gzip("") + gzip("end"))) == text + "end");
  CHECK(read_all(folder.write("frames.zst", zstd(text) + zstd("") + zstd("end"))) == text + "end");
  CHECK(read_all(folder.write("empty.txt", "")) == "");
  CHECK(read_all(folder.write("empty.gz", gzip(""))) == "");
  CHECK(read_all(folder.write("empty.zst", zstd(""))) == "");
}

TEST_CASE("text that fills the decompression buffer exactly is read to its end") {
  const TemporaryFolder folder;
  for (const std::size_t size : {256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1, 512 * 1024}) {
    const std::string text(size, 'a');
    CHECK(read_all(folder.write("a.gz", gzip(text))) == text);
    CHECK(read_all(folder.write("a.zst", zstd(text))) == text);
  }
}

TEST_CASE("a truncated archive is an error that tells the file and the byte") {
  const TemporaryFolder folder;
  const std::string text = long_text();
  for (const std::string& packed : {gzip(text), zstd(text)}) {
    const std::string name = packed == gzip(text) ? "cut.gz" : "cut.zst";
    for (const std::size_t size : {std::size_t{0}, std::size_t{5}, packed.size() / 2, packed.size() - 1}) {
      const auto path = folder.write(name, packed.substr(0, size));
      CHECK_THROWS_WITH(read_all(path),
                        Contains(path.string()) && Contains("is truncated at byte " + std::to_string(size)));
    }
  }
  const auto second = folder.write("second.gz", gzip("one") + gzip("two").substr(0, 12));
  CHECK_THROWS_WITH(read_all(second), Contains("truncated"));
}

TEST_CASE("a corrupt archive is an error that tells the file and the byte") {
  const TemporaryFolder folder;
  const std::string text = long_text();
  std::string flipped = gzip(text);
  flipped[flipped.size() / 2] = static_cast<char>(~flipped[flipped.size() / 2]);
  const auto gz = folder.write("bad.gz", flipped);
  CHECK_THROWS_WITH(read_all(gz), Contains(gz.string()) && Contains("gzip data is corrupt") && Contains("at byte "));

  std::string wrong_sum = gzip(text);
  wrong_sum[wrong_sum.size() - 6] = static_cast<char>(~wrong_sum[wrong_sum.size() - 6]);
  CHECK_THROWS_WITH(read_all(folder.write("sum.gz", wrong_sum)), Contains("incorrect data check"));

  CHECK_THROWS_WITH(read_all(folder.write("not.gz", "plain text")),
                    Contains("gzip data is corrupt") && Contains("at byte "));
  CHECK_THROWS_WITH(read_all(folder.write("not.zst", "plain text")), Contains("zstd data is corrupt"));

  std::string broken = zstd(text);
  for (std::size_t i = broken.size() / 2; i < broken.size() / 2 + 64; ++i) broken[i] = static_cast<char>(~broken[i]);
  const auto zst = folder.write("bad.zst", broken);
  CHECK_THROWS_WITH(read_all(zst), Contains(zst.string()) && Contains("zstd data is corrupt"));
}

TEST_CASE("what follows an archive is an error, not left out") {
  const TemporaryFolder folder;
  const auto path = folder.write("a.gz", gzip("text") + "garbage");
  CHECK_THROWS_WITH(read_all(path), Contains("what follows the gzip data is not gzip data at byte " +
                                             std::to_string(gzip("text").size())));
  CHECK_THROWS_AS(read_all(folder.write("a.zst", zstd("text") + "garbage")), core::Error);
}

TEST_CASE("only regular files are read") {
  const TemporaryFolder folder;
  CHECK_THROWS_WITH(read_all(folder.path() / "missing.txt"), Contains("missing.txt: No such file"));
  CHECK_THROWS_WITH(read_all(folder.path()), Contains("is not a regular file"));
  const auto fifo = folder.path() / "fifo";
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  CHECK_THROWS_WITH(read_all(fifo), Contains("is not a regular file"));
}

TEST_CASE("a file's digest and progress are those of its own bytes") {
  const TemporaryFolder folder;
  const std::string packed = gzip(long_text());
  const auto path = folder.write("a.gz", packed);
  std::uint64_t progress = 0;
  DocumentReader reader(path, {}, {.digest = true, .on_progress = [&](std::uint64_t bytes) { progress = bytes; }});
  std::string document;
  REQUIRE(reader.next(document));
  CHECK(document == long_text());
  REQUIRE_FALSE(reader.next(document));
  CHECK(reader.sha256() == io::sha256(packed));
  CHECK(progress == packed.size());
  CHECK(reader.identity().bytes == packed.size());
}

TEST_CASE("a text file is cut into files, paragraphs or lines; blank ones are dropped") {
  const TemporaryFolder folder;
  const auto path = folder.write("a.txt", "\n \none\ntwo\n\n\n \t\r\nthree\r\n\r\nfour");
  CHECK(documents_of(path, {Kind::text, DocumentUnit::file, ""}) ==
        std::vector<std::string>{"\n \none\ntwo\n\n\n \t\r\nthree\r\n\r\nfour"});
  CHECK(documents_of(path, {Kind::text, DocumentUnit::paragraph, ""}) ==
        std::vector<std::string>{"one\ntwo\n\n", "three\r\n\r\n", "four"});
  CHECK(documents_of(path, {Kind::text, DocumentUnit::line, ""}) ==
        std::vector<std::string>{"one\n", "two\n", "three\r\n", "four"});
  for (const DocumentUnit unit : {DocumentUnit::file, DocumentUnit::paragraph, DocumentUnit::line}) {
    CHECK(documents_of(folder.write("blank.txt", "\n \n\t"), {Kind::text, unit, ""}).empty());
    CHECK(documents_of(folder.write("empty.txt", ""), {Kind::text, unit, ""}).empty());
    const std::string bytes = std::string("\0\xff\xfe", 3);
    CHECK(documents_of(folder.write("bytes.txt", bytes), {Kind::text, unit, ""}) == std::vector<std::string>{bytes});
  }
}

TEST_CASE("lines longer than the buffers are whole") {
  const TemporaryFolder folder;
  const std::string line(1'000'000, 'x');
  CHECK(documents_of(folder.write("a.txt", line + "\n" + line), {Kind::text, DocumentUnit::line, ""}) ==
        std::vector<std::string>{line + "\n", line});
}

TEST_CASE("each JSON line gives a document") {
  const TemporaryFolder folder;
  const std::string lines =
      "{\"text\": \"one\\nline\", \"id\": 1}\n\n{\"id\": {\"text\": \"inner\"}, \"text\": \"\xc3\xa9\\u00e9\"}\r\n"
      "{\"text\": \"\"}\n{\"text\": \"last\"}";
  const std::vector<std::string> expected = {"one\nline", "\xc3\xa9\xc3\xa9", "last"};
  for (const char* name : {"a.jsonl", "a.ndjson"}) {
    CHECK(documents_of(folder.write(name, lines), {Kind::automatic, DocumentUnit::file, "text"}) == expected);
  }
  CHECK(documents_of(folder.write("a.jsonl.gz", gzip(lines)), {Kind::automatic, DocumentUnit::file, "text"}) ==
        expected);
  CHECK(documents_of(folder.write("a.jsonl.zst", zstd(lines)), {Kind::automatic, DocumentUnit::line, "text"}) ==
        expected);
  CHECK(documents_of(folder.write("a.txt", lines), {Kind::json_lines, DocumentUnit::file, "text"}) == expected);
  CHECK(documents_of(folder.write("a.jsonl", lines), {Kind::text, DocumentUnit::file, "text"}) ==
        std::vector<std::string>{lines});
}

TEST_CASE("a line that gives no document is an error that tells file, line and key") {
  const TemporaryFolder folder;
  const auto fails_with = [&](const std::string& line, const std::string& what) {
    const auto path = folder.write("bad.jsonl", "{\"content\": \"good\"}\n\n" + line + "\n{\"content\": \"good\"}\n");
    CHECK_THROWS_WITH(documents_of(path, {Kind::automatic, DocumentUnit::file, "content"}),
                      Contains(path.string() + ":3: ") && Contains("\"content\"") && Contains(what));
  };
  fails_with("{\"content\": \"torn", "is not a line of JSON (at byte ");
  fails_with("{\"content\": \"not UTF-8 \xff\"}", "is not a line of JSON");
  fails_with("{\"content\": \"a\"} {\"content\": \"b\"}", "is not a line of JSON");
  fails_with("{\"text\": \"a\"}", "has no key");
  fails_with("{\"Content\": \"a\"}", "has no key");
  fails_with("[\"content\"]", "is array, not a JSON object");
  fails_with("\"content\"", "is string, not a JSON object");
  fails_with("{\"content\": 5}", "is number, not a string");
  fails_with("{\"content\": null}", "is null, not a string");
  fails_with(std::string(200'000, '['), "is not a line of JSON");
}

TEST_CASE("reading goes on from every position between two documents") {
  const TemporaryFolder folder;
  const auto path = folder.write("a.txt", "one\n\n\ntwo\nthree\n\n \nfour\n");
  const DocumentFormat format = {Kind::text, DocumentUnit::paragraph, ""};
  const std::vector<std::string> all = documents_of(path, format);
  for (std::size_t start = 0; start <= all.size(); ++start) {
    DocumentReader before(path, format, {});
    std::string document;
    for (std::size_t i = 0; i < start; ++i) REQUIRE(before.next(document));
    DocumentReader after(path, format, {});
    REQUIRE(after.can_seek());
    after.seek(before.position());
    for (std::size_t i = start; i < all.size(); ++i) {
      REQUIRE(after.next(document));
      CHECK(document == all[i]);
    }
    CHECK_FALSE(after.next(document));
  }
}

TEST_CASE("line numbers in errors go on after a seek") {
  const TemporaryFolder folder;
  const auto path = folder.write("a.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\"}\n{}\n");
  const DocumentFormat format = {Kind::automatic, DocumentUnit::file, "text"};
  DocumentReader before(path, format, {});
  std::string document;
  REQUIRE(before.next(document));
  DocumentReader after(path, format, {});
  after.seek(before.position());
  REQUIRE(after.next(document));
  CHECK(document == "b");
  CHECK_THROWS_WITH(after.next(document), Contains("a.jsonl:3: "));
}

TEST_CASE("the byte tokenizer gives every byte, and 256 to end documents") {
  const auto with_end = make_tokenizer({{"kind", "bytes"}, {"end_of_document", true}});
  const auto without_end = make_tokenizer({{"kind", "bytes"}, {"end_of_document", false}});
  std::vector<std::uint32_t> tokens = {7};
  with_end->encode(std::string("a\0\xff", 3), tokens);
  CHECK(tokens == std::vector<std::uint32_t>{7, 'a', 0, 255});
  CHECK(with_end->kind() == "bytes");
  CHECK(with_end->vocabulary_size() == 257);
  CHECK(with_end->end_of_document() == 256u);
  CHECK(without_end->vocabulary_size() == 256);
  CHECK(without_end->end_of_document() == std::nullopt);
  CHECK_THROWS_WITH(make_tokenizer({{"kind", "bpe"}}), Contains("'bpe'"));
}

TEST_CASE("the byte tokenizer gives back every text, and nothing for the end of a document") {
  const auto with_end = make_tokenizer({{"kind", "bytes"}, {"end_of_document", true}});
  const auto without_end = make_tokenizer({{"kind", "bytes"}, {"end_of_document", false}});
  std::string every;
  for (int byte = 0; byte < 256; ++byte) every += static_cast<char>(byte);
  std::vector<std::uint32_t> tokens;
  with_end->encode(every, tokens);
  std::string text = "before";
  with_end->decode(tokens, text);
  CHECK(text == "before" + every);
  text.clear();
  with_end->decode(std::vector<std::uint32_t>{72, 256, 105, 256}, text);
  CHECK(text == "Hi");
  CHECK_THROWS_WITH(with_end->decode(std::vector<std::uint32_t>{257}, text), Contains("no token 257"));
  CHECK_THROWS_WITH(without_end->decode(std::vector<std::uint32_t>{256}, text), Contains("no token 256"));
}

}  // namespace
}  // namespace braise::text
