// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace braise::hdf5 {

/// Types of elements, all little-endian in the file. bfloat16 is stored as the floating-point type that it is (8 bits
/// of exponent, 7 of mantissa), which h5dump shows as numbers and h5py reads as float32.
enum class Element { uint16, uint32, uint64, int8, int32, int64, float16, bfloat16, float32, float64 };

std::size_t size_of(Element element);
const char* name_of(Element element);  ///< "uint16"

/// The extents of a dataset, outermost first; none: a single element.
using Extents = std::vector<std::uint64_t>;

/// A whole one-dimensional dataset of another file, as a piece of a virtual one.
struct VirtualPart {
  std::string file;  ///< relative to the folder of the file that shows it
  std::string dataset;
  std::uint64_t elements = 0;
};

/// What a Writer does with a file that is there.
enum class Existing { kRefuse, kReplace };

/// Writes one new HDF5 file (serial HDF5, by one thread). No times are stored, so equal calls give equal bytes.
/// Datasets are contiguous and uncompressed, and begin at a multiple of 64 bytes, so that they can be mapped. They have
/// their place in the file from the start: what is not written here may be written there once the file is closed.
/// Errors: core::Error with the file's name and HDF5's own reason. (After a full disk HDF5 keeps what it could not
/// write, and complains when the program ends: where that can be, write to memory first.)
class Writer {
 public:
  explicit Writer(std::filesystem::path path, Existing existing = Existing::kRefuse);
  ~Writer();

  void group(const std::string& path);

  /// A one-dimensional dataset, filled by write() or by several. Gives the place of its first byte in the file (of an
  /// empty one, 0).
  std::uint64_t dataset(const std::string& path, Element element, std::uint64_t elements);
  void write(const std::string& path, Element element, std::uint64_t begin, const void* data, std::uint64_t elements);

  /// A dataset of any extents, written at once.
  void whole_dataset(const std::string& path, Element element, const Extents& extents, const void* data);

  /// A dataset that shows others one after the other, in row-major order. Empty parts may be among them. At least one
  /// dimension.
  void virtual_dataset(const std::string& path, Element element, const Extents& extents,
                       const std::vector<VirtualPart>& parts);

  /// A single UTF-8 string, of any length.
  void text(const std::string& path, const std::string& value);

  /// Attributes of an object ("/" is the file itself).
  void attribute(const std::string& path, const std::string& name, const std::string& value);
  void attribute(const std::string& path, const std::string& name, std::uint64_t value);
  void real_attribute(const std::string& path, const std::string& name, double value);

  /// Must be the last call: only a closed file is whole. It is not yet synced to the disk.
  void close();

 private:
  std::filesystem::path path_;
  std::int64_t file_;
};

/// What a reader finds out about a dataset.
struct DatasetInfo {
  Element element = Element::uint64;
  Extents extents;
  std::uint64_t elements = 0;
  bool contiguous = false;
  std::uint64_t file_offset = 0;  ///< of the first byte, where contiguous and not empty
};

/// Reads an HDF5 file. Takes no lock, so that a file can be read wherever it lies.
/// Errors: core::Error as for Writer.
class Reader {
 public:
  explicit Reader(std::filesystem::path path);
  ~Reader();

  bool has(const std::string& path) const;
  DatasetInfo info(const std::string& path) const;
  /// Elements of a one-dimensional dataset of integers, as 64 bits each, whatever they are in the file.
  std::vector<std::uint64_t> read(const std::string& path, std::uint64_t begin, std::uint64_t elements) const;
  std::string text(const std::string& path) const;
  bool has_attribute(const std::string& path, const std::string& name) const;
  std::string text_attribute(const std::string& path, const std::string& name) const;
  std::uint64_t attribute(const std::string& path, const std::string& name) const;

 private:
  std::filesystem::path path_;
  std::int64_t file_;
};

/// The version of the library that is linked: "1.10.8".
std::string library_version();

}  // namespace braise::hdf5
