// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/hdf5/hdf5_file.h"

#include <hdf5.h>

#include <algorithm>
#include <utility>

#include "kernels/core/error.h"

namespace braise::hdf5 {
namespace {

static_assert(sizeof(hid_t) == sizeof(std::int64_t));

// Datasets begin at a cache line, whatever their length.
constexpr hsize_t kAlignment = 64;

constexpr Element kElements[] = {Element::uint16,  Element::uint32, Element::uint64,  Element::int8,
                                 Element::int32,   Element::int64,  Element::float16, Element::bfloat16,
                                 Element::float32, Element::float64};

herr_t take_reason(unsigned position, const H5E_error2_t* error, void* reason) {
  // The first entry, upwards, is the innermost: what really happened.
  if (position == 0 && error->desc != nullptr) *static_cast<std::string*>(reason) = error->desc;
  return 0;
}

[[noreturn]] void fail(const std::filesystem::path& path, const std::string& what, core::SourceLocation where) {
  std::string reason = "no reason given";
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_reason, &reason);
  throw core::Error("cannot " + what + " in HDF5 file " + path.string() + ": " + reason, where);
}

/// An HDF5 identifier that is closed with its owner.
class Id {
 public:
  Id(hid_t id, herr_t (*close)(hid_t), const std::filesystem::path& path, const std::string& what,
     core::SourceLocation where = core::SourceLocation::current())
      : id_(id), close_(close) {
    if (id_ < 0) fail(path, what, where);
  }
  Id(Id&& other) noexcept : id_(std::exchange(other.id_, H5I_INVALID_HID)), close_(other.close_) {}
  ~Id() {
    if (id_ >= 0) close_(id_);
  }
  operator hid_t() const { return id_; }

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

void check(herr_t status, const std::filesystem::path& path, const std::string& what,
           core::SourceLocation where = core::SourceLocation::current()) {
  if (status < 0) fail(path, what, where);
}

/// Failures become exceptions with their reason: HDF5 must not print them as well.
void be_quiet() {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

Id access_properties(const std::filesystem::path& path) {
  be_quiet();
  Id properties(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, path, "prepare access");
  check(H5Pset_alignment(properties, 1, kAlignment), path, "set the alignment");
  // New files lie under a name of their own, finished ones never change: there is nothing to lock, and some network
  // file systems refuse locks.
  check(H5Pset_file_locking(properties, 0, 1), path, "switch locking off");
  return properties;
}

/// Times of creation would make equal files differ.
Id without_times(hid_t list_class, const std::filesystem::path& path) {
  Id properties(H5Pcreate(list_class), H5Pclose, path, "prepare creation");
  check(H5Pset_obj_track_times(properties, 0), path, "switch times off");
  return properties;
}

/// A floating-point type of 16 bits: a sign, an exponent, a mantissa, from the top.
Id half_type(std::size_t exponent_bits, std::size_t bias, const std::filesystem::path& path) {
  const std::size_t mantissa_bits = 15 - exponent_bits;
  Id type(H5Tcopy(H5T_IEEE_F32LE), H5Tclose, path, "make a floating-point type");
  check(H5Tset_fields(type, 15, mantissa_bits, exponent_bits, 0, mantissa_bits), path, "lay out a type");
  check(H5Tset_size(type, 2), path, "size a type");
  check(H5Tset_ebias(type, bias), path, "set the bias of a type");
  return type;
}

Id type_of(Element element, const std::filesystem::path& path) {
  const auto copy = [&](hid_t type) { return Id(H5Tcopy(type), H5Tclose, path, "make a type"); };
  switch (element) {
    case Element::uint16:
      return copy(H5T_STD_U16LE);
    case Element::uint32:
      return copy(H5T_STD_U32LE);
    case Element::uint64:
      return copy(H5T_STD_U64LE);
    case Element::int8:
      return copy(H5T_STD_I8LE);
    case Element::int32:
      return copy(H5T_STD_I32LE);
    case Element::int64:
      return copy(H5T_STD_I64LE);
    case Element::float16:
      return half_type(5, 15, path);
    case Element::bfloat16:
      return half_type(8, 127, path);
    case Element::float32:
      return copy(H5T_IEEE_F32LE);
    case Element::float64:
      break;
  }
  return copy(H5T_IEEE_F64LE);
}

Id string_type(std::size_t bytes, const std::filesystem::path& path) {
  Id type(H5Tcopy(H5T_C_S1), H5Tclose, path, "make a string type");
  check(H5Tset_size(type, std::max<std::size_t>(bytes, 1)), path, "size a string type");
  check(H5Tset_cset(type, H5T_CSET_UTF8), path, "set UTF-8");
  check(H5Tset_strpad(type, H5T_STR_NULLPAD), path, "set the padding");
  return type;
}

Id space_of(const Extents& extents, const std::filesystem::path& path) {
  const std::vector<hsize_t> dimensions(extents.begin(), extents.end());
  if (dimensions.empty()) return Id(H5Screate(H5S_SCALAR), H5Sclose, path, "make a dataspace");
  return Id(H5Screate_simple(static_cast<int>(dimensions.size()), dimensions.data(), nullptr), H5Sclose, path,
            "make a dataspace");
}

Id space_of(std::uint64_t elements, const std::filesystem::path& path) {
  return space_of(Extents{elements}, path);
}

/// HDF5 has no empty fixed-length string: it was stored as one NUL.
std::string without_padding(std::string value) {
  value.resize(value.find_last_not_of('\0') + 1);
  return value;
}

/// Memory is measured by the type of one element: a file that holds several, or texts of variable length, would
/// overflow it.
void require_single(hid_t space, hid_t type, H5T_class_t wanted, const std::filesystem::path& path,
                    const std::string& name) {
  if (H5Sget_simple_extent_npoints(space) == 1 && H5Tget_class(type) == wanted && H5Tis_variable_str(type) <= 0) return;
  throw core::Error(path.string() + ": " + name + " is not a single " +
                    (wanted == H5T_STRING ? "text of fixed length" : "whole number"));
}

/// A contiguous range of a dataset's elements.
void select(hid_t space, std::uint64_t begin, std::uint64_t elements, const std::filesystem::path& path) {
  const hsize_t start = begin, count = elements;
  check(H5Sselect_hyperslab(space, H5S_SELECT_SET, &start, nullptr, &count, nullptr), path, "select elements");
}

/// The product of the extents from `dimension` on.
std::uint64_t elements_from(const Extents& extents, std::size_t dimension) {
  std::uint64_t product = 1;
  for (std::size_t i = dimension; i < extents.size(); ++i) product *= extents[i];
  return product;
}

/// The largest box that begins at element `begin` (in row-major order), has no more than `elements`, and lies in one
/// piece in that order.
struct Box {
  std::vector<hsize_t> start, count;
  std::uint64_t elements = 0;
};
Box box_at(const Extents& extents, std::uint64_t begin, std::uint64_t elements) {
  Box box;
  for (std::size_t i = 0; i < extents.size(); ++i) {
    const std::uint64_t stride = elements_from(extents, i + 1);
    box.start.push_back(begin / stride % extents[i]);
  }
  // The outermost dimension of which a whole row begins here and fits; there is one, the last.
  std::size_t outer = 0;
  while (begin % elements_from(extents, outer + 1) != 0 || elements < elements_from(extents, outer + 1)) ++outer;
  const std::uint64_t stride = elements_from(extents, outer + 1);
  box.count.assign(outer, 1);
  box.count.push_back(std::min<std::uint64_t>(extents[outer] - box.start[outer], elements / stride));
  for (std::size_t i = outer + 1; i < extents.size(); ++i) box.count.push_back(extents[i]);
  box.elements = box.count[outer] * stride;
  return box;
}

}  // namespace

std::size_t size_of(Element element) {
  switch (element) {
    case Element::int8:
      return 1;
    case Element::uint16:
    case Element::float16:
    case Element::bfloat16:
      return 2;
    case Element::uint32:
    case Element::int32:
    case Element::float32:
      return 4;
    case Element::uint64:
    case Element::int64:
    case Element::float64:
      return 8;
  }
  return 0;
}

const char* name_of(Element element) {
  switch (element) {
    case Element::uint16:
      return "uint16";
    case Element::uint32:
      return "uint32";
    case Element::uint64:
      return "uint64";
    case Element::int8:
      return "int8";
    case Element::int32:
      return "int32";
    case Element::int64:
      return "int64";
    case Element::float16:
      return "float16";
    case Element::bfloat16:
      return "bfloat16";
    case Element::float32:
      return "float32";
    case Element::float64:
      return "float64";
  }
  return "";
}

Writer::Writer(std::filesystem::path path, Existing existing) : path_(std::move(path)) {
  const Id access = access_properties(path_);
  const Id creation = without_times(H5P_FILE_CREATE, path_);
  const unsigned flags = existing == Existing::kRefuse ? H5F_ACC_EXCL : H5F_ACC_TRUNC;
  file_ = H5Fcreate(path_.c_str(), flags, creation, access);
  if (file_ < 0) fail(path_, "create the file", core::SourceLocation::current());
}

Writer::~Writer() {
  if (file_ >= 0) H5Fclose(file_);
}

void Writer::group(const std::string& path) {
  const Id creation = without_times(H5P_GROUP_CREATE, path_);
  const Id group(H5Gcreate2(file_, path.c_str(), H5P_DEFAULT, creation, H5P_DEFAULT), H5Gclose, path_,
                 "create group " + path);
}

std::uint64_t Writer::dataset(const std::string& path, Element element, std::uint64_t elements) {
  const Id creation = without_times(H5P_DATASET_CREATE, path_);
  check(H5Pset_layout(creation, H5D_CONTIGUOUS), path_, "set the layout of " + path);
  check(H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY), path_, "place " + path);
  // Every element is written, so filling first would only double the work.
  check(H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER), path_, "set the filling of " + path);
  const Id space = space_of(elements, path_);
  const Id type = type_of(element, path_);
  const Id dataset(H5Dcreate2(file_, path.c_str(), type, space, H5P_DEFAULT, creation, H5P_DEFAULT), H5Dclose, path_,
                   "create dataset " + path);
  return elements == 0 ? 0 : H5Dget_offset(dataset);
}

void Writer::write(const std::string& path, Element element, std::uint64_t begin, const void* data,
                   std::uint64_t elements) {
  if (elements == 0) return;
  const Id dataset(H5Dopen2(file_, path.c_str(), H5P_DEFAULT), H5Dclose, path_, "open dataset " + path);
  const Id file_space(H5Dget_space(dataset), H5Sclose, path_, "get the dataspace of " + path);
  select(file_space, begin, elements, path_);
  const Id memory_space = space_of(elements, path_);
  const Id type = type_of(element, path_);
  check(H5Dwrite(dataset, type, memory_space, file_space, H5P_DEFAULT, data), path_, "write dataset " + path);
}

void Writer::whole_dataset(const std::string& path, Element element, const Extents& extents, const void* data) {
  const Id creation = without_times(H5P_DATASET_CREATE, path_);
  const Id space = space_of(extents, path_);
  const Id type = type_of(element, path_);
  const Id dataset(H5Dcreate2(file_, path.c_str(), type, space, H5P_DEFAULT, creation, H5P_DEFAULT), H5Dclose, path_,
                   "create dataset " + path);
  check(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data), path_, "write dataset " + path);
}

void Writer::virtual_dataset(const std::string& path, Element element, const Extents& extents,
                             const std::vector<VirtualPart>& parts) {
  const Id creation = without_times(H5P_DATASET_CREATE, path_);
  const Id space = space_of(extents, path_);
  const Id type = type_of(element, path_);
  std::uint64_t begin = 0;
  for (const VirtualPart& part : parts) {
    const Id part_space = space_of(part.elements, path_);
    for (std::uint64_t shown = 0; shown < part.elements;) {
      const Box box = box_at(extents, begin, part.elements - shown);
      check(H5Sselect_hyperslab(space, H5S_SELECT_SET, box.start.data(), nullptr, box.count.data(), nullptr), path_,
            "select elements");
      select(part_space, shown, box.elements, path_);
      check(H5Pset_virtual(creation, space, part.file.c_str(), part.dataset.c_str(), part_space), path_,
            "show " + part.file + " in " + path);
      shown += box.elements;
      begin += box.elements;
    }
  }
  // HDF5 has no virtual dataset without parts: an empty one is like any other.
  check(H5Sselect_all(space), path_, "select elements");
  const Id dataset(H5Dcreate2(file_, path.c_str(), type, space, H5P_DEFAULT, creation, H5P_DEFAULT), H5Dclose, path_,
                   "create virtual dataset " + path);
}

void Writer::text(const std::string& path, const std::string& value) {
  const Id creation = without_times(H5P_DATASET_CREATE, path_);
  const Id space = space_of(Extents{}, path_);
  const Id type = string_type(value.size(), path_);
  const Id dataset(H5Dcreate2(file_, path.c_str(), type, space, H5P_DEFAULT, creation, H5P_DEFAULT), H5Dclose, path_,
                   "create dataset " + path);
  check(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, value.c_str()), path_, "write dataset " + path);
}

void Writer::attribute(const std::string& path, const std::string& name, const std::string& value) {
  const Id object(H5Oopen(file_, path.c_str(), H5P_DEFAULT), H5Oclose, path_, "open " + path);
  const Id space = space_of(Extents{}, path_);
  const Id type = string_type(value.size(), path_);
  const Id attribute(H5Acreate2(object, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose, path_,
                     "create attribute " + name);
  check(H5Awrite(attribute, type, value.c_str()), path_, "write attribute " + name);
}

void Writer::attribute(const std::string& path, const std::string& name, std::uint64_t value) {
  const Id object(H5Oopen(file_, path.c_str(), H5P_DEFAULT), H5Oclose, path_, "open " + path);
  const Id space = space_of(Extents{}, path_);
  const Id attribute(H5Acreate2(object, name.c_str(), H5T_STD_U64LE, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose, path_,
                     "create attribute " + name);
  check(H5Awrite(attribute, H5T_NATIVE_UINT64, &value), path_, "write attribute " + name);
}

void Writer::real_attribute(const std::string& path, const std::string& name, double value) {
  const Id object(H5Oopen(file_, path.c_str(), H5P_DEFAULT), H5Oclose, path_, "open " + path);
  const Id space = space_of(Extents{}, path_);
  const Id attribute(H5Acreate2(object, name.c_str(), H5T_IEEE_F64LE, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose, path_,
                     "create attribute " + name);
  check(H5Awrite(attribute, H5T_NATIVE_DOUBLE, &value), path_, "write attribute " + name);
}

void Writer::close() {
  check(H5Fclose(std::exchange(file_, H5I_INVALID_HID)), path_, "write what is left");
}

Reader::Reader(std::filesystem::path path) : path_(std::move(path)) {
  const Id access = access_properties(path_);
  file_ = H5Fopen(path_.c_str(), H5F_ACC_RDONLY, access);
  if (file_ < 0) fail(path_, "open the file", core::SourceLocation::current());
}

Reader::~Reader() {
  H5Fclose(file_);
}

bool Reader::has(const std::string& path) const {
  return H5Lexists(file_, path.c_str(), H5P_DEFAULT) > 0;
}

DatasetInfo Reader::info(const std::string& path) const {
  const Id dataset(H5Dopen2(file_, path.c_str(), H5P_DEFAULT), H5Dclose, path_, "open dataset " + path);
  const Id space(H5Dget_space(dataset), H5Sclose, path_, "get the dataspace of " + path);
  const Id type(H5Dget_type(dataset), H5Tclose, path_, "get the type of " + path);
  const Id creation(H5Dget_create_plist(dataset), H5Pclose, path_, "get the layout of " + path);
  DatasetInfo info;
  const int rank = H5Sget_simple_extent_ndims(space);
  if (rank < 0) throw core::Error(path_.string() + ": " + path + " holds no numbers");
  std::vector<hsize_t> dimensions(static_cast<std::size_t>(rank));
  check(H5Sget_simple_extent_dims(space, dimensions.data(), nullptr), path_, "get the extents of " + path);
  info.extents.assign(dimensions.begin(), dimensions.end());
  info.elements = static_cast<std::uint64_t>(H5Sget_simple_extent_npoints(space));
  bool known = false;
  for (const Element element : kElements) {
    if (H5Tequal(type, type_of(element, path_)) > 0) {
      info.element = element;
      known = true;
    }
  }
  if (!known) throw core::Error(path_.string() + ": " + path + " holds elements of a type that Braise does not write");
  info.contiguous = H5Pget_layout(creation) == H5D_CONTIGUOUS;
  if (info.contiguous && info.elements > 0) info.file_offset = H5Dget_offset(dataset);
  return info;
}

std::vector<std::uint64_t> Reader::read(const std::string& path, std::uint64_t begin, std::uint64_t elements) const {
  std::vector<std::uint64_t> values(elements);
  if (elements == 0) return values;
  const Id dataset(H5Dopen2(file_, path.c_str(), H5P_DEFAULT), H5Dclose, path_, "open dataset " + path);
  const Id file_space(H5Dget_space(dataset), H5Sclose, path_, "get the dataspace of " + path);
  if (H5Sget_simple_extent_ndims(file_space) != 1)
    throw core::Error(path_.string() + ": " + path + " is not a list of numbers");
  select(file_space, begin, elements, path_);
  const Id memory_space = space_of(elements, path_);
  check(H5Dread(dataset, H5T_NATIVE_UINT64, memory_space, file_space, H5P_DEFAULT, values.data()), path_,
        "read dataset " + path);
  return values;
}

std::string Reader::text(const std::string& path) const {
  const Id dataset(H5Dopen2(file_, path.c_str(), H5P_DEFAULT), H5Dclose, path_, "open dataset " + path);
  const Id space(H5Dget_space(dataset), H5Sclose, path_, "get the dataspace of " + path);
  const Id type(H5Dget_type(dataset), H5Tclose, path_, "get the type of " + path);
  require_single(space, type, H5T_STRING, path_, path);
  std::string value(H5Tget_size(type), '\0');
  check(H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, value.data()), path_, "read dataset " + path);
  return without_padding(std::move(value));
}

bool Reader::has_attribute(const std::string& path, const std::string& name) const {
  const htri_t exists = H5Aexists_by_name(file_, path.c_str(), name.c_str(), H5P_DEFAULT);
  check(exists, path_, "look for attribute " + name);
  return exists > 0;
}

std::string Reader::text_attribute(const std::string& path, const std::string& name) const {
  const Id attribute(H5Aopen_by_name(file_, path.c_str(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose, path_,
                     "open attribute " + name);
  const Id space(H5Aget_space(attribute), H5Sclose, path_, "get the dataspace of attribute " + name);
  const Id type(H5Aget_type(attribute), H5Tclose, path_, "get the type of attribute " + name);
  require_single(space, type, H5T_STRING, path_, "attribute " + name);
  std::string value(H5Tget_size(type), '\0');
  check(H5Aread(attribute, type, value.data()), path_, "read attribute " + name);
  return without_padding(std::move(value));
}

std::uint64_t Reader::attribute(const std::string& path, const std::string& name) const {
  const Id attribute(H5Aopen_by_name(file_, path.c_str(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose, path_,
                     "open attribute " + name);
  const Id space(H5Aget_space(attribute), H5Sclose, path_, "get the dataspace of attribute " + name);
  const Id type(H5Aget_type(attribute), H5Tclose, path_, "get the type of attribute " + name);
  require_single(space, type, H5T_INTEGER, path_, "attribute " + name);
  std::uint64_t value = 0;
  check(H5Aread(attribute, H5T_NATIVE_UINT64, &value), path_, "read attribute " + name);
  return value;
}

std::string library_version() {
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  return std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(release);
}

}  // namespace braise::hdf5
