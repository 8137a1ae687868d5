// SPDX-License-Identifier: Apache-2.0
#include <hdf5.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "stages/shared/hdf5/hdf5_file.h"
#include "tests/support/support.h"

namespace braise::hdf5 {
namespace {

using Catch::Contains;

/// Writes what Writer cannot: attributes and a dataset "/list" of `count` texts of `bytes` bytes each (0: of variable
/// length) or numbers.
void write_lists(const std::filesystem::path& path, hsize_t count, std::size_t bytes) {
  const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_EXCL, H5P_DEFAULT, H5P_DEFAULT);
  const hid_t type = H5Tcopy(H5T_C_S1);
  H5Tset_size(type, bytes == 0 ? H5T_VARIABLE : bytes);
  const hid_t space = H5Screate_simple(1, &count, nullptr);
  H5Dclose(H5Dcreate2(file, "/list", type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  H5Aclose(H5Acreate2(file, "texts", type, space, H5P_DEFAULT, H5P_DEFAULT));
  H5Aclose(H5Acreate2(file, "numbers", H5T_STD_U64LE, space, H5P_DEFAULT, H5P_DEFAULT));
  H5Sclose(space);
  H5Tclose(type);
  H5Fclose(file);
}

TEST_CASE("a list where a single text or number is wanted is an error, not memory overwritten") {
  const test::TemporaryFolder folder;
  write_lists(folder.path() / "many.h5", 1000, 4);
  const Reader many(folder.path() / "many.h5");
  CHECK_THROWS_WITH(many.text("/list"), Contains("many.h5: /list is not a single text of fixed length"));
  CHECK_THROWS_WITH(many.text_attribute("/", "texts"), Contains("attribute texts is not a single text"));
  CHECK_THROWS_WITH(many.attribute("/", "numbers"), Contains("attribute numbers is not a single whole number"));

  write_lists(folder.path() / "variable.h5", 1, 0);
  const Reader variable(folder.path() / "variable.h5");
  CHECK_THROWS_WITH(variable.text("/list"), Contains("/list is not a single text of fixed length"));
  CHECK_THROWS_WITH(variable.text_attribute("/", "texts"), Contains("not a single text"));
  CHECK_THROWS_WITH(variable.attribute("/", "texts"), Contains("not a single whole number"));
  CHECK(variable.attribute("/", "numbers") == 0);
  CHECK_THROWS_WITH(variable.text_attribute("/", "numbers"), Contains("not a single text"));

  CHECK(variable.has_attribute("/", "numbers"));
  CHECK(!variable.has_attribute("/", "none"));
  CHECK(!variable.has_attribute("/list", "numbers"));
  CHECK_THROWS_WITH(variable.has_attribute("/nowhere", "x"), Contains("look for attribute x"));
}

}  // namespace
}  // namespace braise::hdf5
