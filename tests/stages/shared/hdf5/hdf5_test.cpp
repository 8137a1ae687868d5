// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>

#include "kernels/core/error.h"
#include "stages/shared/hdf5/hdf5_file.h"
#include "stages/shared/io/file.h"
#include "tests/support/support.h"

namespace braise::hdf5 {
namespace {

using Catch::Contains;

void write_part(const std::filesystem::path& path, const std::vector<std::uint16_t>& values) {
  Writer file(path);
  file.group("/g");
  file.dataset("/g/d", Element::uint16, values.size());
  file.write("/g/d", Element::uint16, 0, values.data(), values.size());
  file.close();
}

TEST_CASE("what is written is read back") {
  const test::TemporaryFolder folder;
  const auto path = folder.path() / "a.h5";
  {
    Writer file(path);
    file.attribute("/", "format", std::string("caf\xc3\xa9"));
    file.attribute("/", "nothing", std::string());
    file.attribute("/", "count", ~std::uint64_t{0});
    file.group("/g");
    const std::vector<std::uint32_t> values = {1, 2, 0xFFFFFFFF, 4};
    file.dataset("/g/d", Element::uint32, 6);
    file.write("/g/d", Element::uint32, 0, values.data(), 2);
    file.write("/g/d", Element::uint32, 2, values.data(), 4);
    file.dataset("/g/empty", Element::uint64, 0);
    file.text("/long", std::string(200'000, 'x'));
    file.close();
  }
  const Reader file(path);
  CHECK(file.text_attribute("/", "format") == "caf\xc3\xa9");
  CHECK(file.text_attribute("/", "nothing") == "");
  CHECK(file.attribute("/", "count") == ~std::uint64_t{0});
  CHECK(file.read("/g/d", 0, 6) == std::vector<std::uint64_t>{1, 2, 1, 2, 0xFFFFFFFF, 4});
  CHECK(file.read("/g/d", 4, 2) == std::vector<std::uint64_t>{0xFFFFFFFF, 4});
  CHECK(file.info("/g/d").element == Element::uint32);
  CHECK(file.info("/g/d").contiguous);
  CHECK(file.info("/g/empty").elements == 0);
  CHECK(file.text("/long") == std::string(200'000, 'x'));
}

TEST_CASE("a contiguous dataset lies in the file as it is in memory, on a cache line") {
  const test::TemporaryFolder folder;
  for (const std::size_t size : {1, 3, 1000, 100'000}) {
    const auto path = folder.path() / (std::to_string(size) + ".h5");
    std::vector<std::uint16_t> values(size);
    for (std::size_t i = 0; i < size; ++i) values[i] = static_cast<std::uint16_t>(i * 7);
    write_part(path, values);
    const DatasetInfo info = Reader(path).info("/g/d");
    CHECK(info.file_offset % 64 == 0);
    const std::string bytes = io::read_file(path);
    REQUIRE(info.file_offset + size * 2 <= bytes.size());
    CHECK(std::memcmp(bytes.data() + info.file_offset, values.data(), size * 2) == 0);
  }
}

TEST_CASE("equal content gives equal files, whenever they are written") {
  const test::TemporaryFolder folder;
  write_part(folder.path() / "a.h5", {1, 2, 3});
  ::sleep(1);  // HDF5 stores times in seconds
  write_part(folder.path() / "b.h5", {1, 2, 3});
  CHECK(io::read_file(folder.path() / "a.h5") == io::read_file(folder.path() / "b.h5"));
}

TEST_CASE("a virtual dataset shows its parts, wherever the reader stands") {
  const test::TemporaryFolder folder;
  write_part(folder.path() / "part0.h5", {1, 2, 3});
  write_part(folder.path() / "part1.h5", {});
  write_part(folder.path() / "part2.h5", {4});
  {
    Writer file(folder.path() / "all.h5");
    file.virtual_dataset("/d", Element::uint16,
                         {{"part0.h5", "/g/d", 3}, {"part1.h5", "/g/d", 0}, {"part2.h5", "/g/d", 1}});
    file.virtual_dataset("/none", Element::uint16, {{"part1.h5", "/g/d", 0}});
    file.close();
  }
  const Reader file(folder.path() / "all.h5");
  CHECK(file.read("/d", 0, 4) == std::vector<std::uint64_t>{1, 2, 3, 4});
  CHECK_FALSE(file.info("/d").contiguous);
  CHECK(file.info("/none").elements == 0);
}

TEST_CASE("errors tell the file and HDF5's reason") {
  const test::TemporaryFolder folder;
  const auto missing = folder.path() / "missing.h5";
  CHECK_THROWS_WITH(Reader(missing), Contains(missing.string()) && Contains("No such file"));
  const auto text = folder.write("text.h5", "this is not HDF5");
  CHECK_THROWS_WITH(Reader(text), Contains(text.string()) && Contains("cannot open the file"));
  CHECK_THROWS_WITH(Writer(text), Contains("cannot create the file"));
  CHECK(io::read_file(text) == "this is not HDF5");

  const auto path = folder.path() / "a.h5";
  write_part(path, {1, 2, 3});
  const Reader file(path);
  CHECK_THROWS_WITH(file.info("/g/x"), Contains("/g/x"));
  CHECK_THROWS_WITH(file.read("/g/d", 2, 2), Contains("/g/d"));
  CHECK_THROWS_WITH(file.attribute("/", "x"), Contains("attribute x"));
}

}  // namespace
}  // namespace braise::hdf5
