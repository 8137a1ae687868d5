// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/checkpoint/part.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <future>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "kernels/core/error.h"
#include "stages/shared/hdf5/hdf5_file.h"
#include "stages/shared/io/file.h"

namespace braise::checkpoint {
namespace {
namespace fs = std::filesystem;

// Written at once, and the disk set to work on it: small enough to give up soon.
constexpr std::size_t kSliceBytes = std::size_t{8} << 20;

// Enough for a disk of more than 2 GB/s, and few beside a training's own.
constexpr int kHashThreads = 2;

// HDF5's headers, names and links, of a file and of each object in it: a generous bound.
constexpr std::uint64_t kFileOverhead = 64 * 1024;
constexpr std::uint64_t kObjectOverhead = 4 * 1024;

hdf5::Element element_of(core::Dtype dtype) {
  switch (dtype) {
    case core::Dtype::kFloat32:
      return hdf5::Element::float32;
    case core::Dtype::kBfloat16:
      return hdf5::Element::bfloat16;
    case core::Dtype::kFloat16:
      return hdf5::Element::float16;
    case core::Dtype::kInt8:
      return hdf5::Element::int8;
    case core::Dtype::kInt32:
      return hdf5::Element::int32;
    case core::Dtype::kInt4:
      break;
  }
  throw core::Error("a checkpoint holds no " + std::string(core::name(dtype)));
}

/// A file that is removed unless it has got its name.
class Unpublished {
 public:
  explicit Unpublished(const fs::path& path)
      : path_(path), temporary_(path.parent_path() / ("." + path.filename().string() + ".tmp")) {
    // What an earlier save of this attempt may have left after a failure.
    ::unlink(temporary_.c_str());
  }
  ~Unpublished() {
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
  }
  Unpublished(const Unpublished&) = delete;
  Unpublished& operator=(const Unpublished&) = delete;

  const fs::path& temporary() const { return temporary_; }
  void publish() {
    io::publish_file(temporary_, path_);
    temporary_.clear();
  }

 private:
  fs::path path_, temporary_;
};

/// Makes the groups that tensors lie in.
class Groups {
 public:
  explicit Groups(hdf5::Writer& file) : file_(file) {}
  void make_for(const std::string& path) {
    for (std::size_t slash = path.find('/'); slash != std::string::npos; slash = path.find('/', slash + 1)) {
      const std::string group = "/" + path.substr(0, slash);
      if (made_.insert(group).second) file_.group(group);
    }
  }

 private:
  hdf5::Writer& file_;
  std::set<std::string> made_;
};

/// An HDF5 file that is made in memory, sparse: HDF5 copes badly with a full disk.
class MemoryFile {
 public:
  MemoryFile() : file_(::mkostemp(path_, O_CLOEXEC)) {
    if (!file_) core::fail_errno(std::string("cannot create ") + path_);
    try {
      writer_.emplace(path_, hdf5::Existing::kReplace);
    } catch (const core::Error&) {
      ::unlink(path_);
      throw;
    }
    // HDF5 wants a name, but only to begin with.
    ::unlink(path_);
  }

  hdf5::Writer& writer() { return *writer_; }

  /// Ends the writing, and gives the length.
  std::uint64_t close() {
    writer_->close();
    struct stat status {};
    if (::fstat(file_.get(), &status) != 0) core::fail_errno(std::string("cannot look at ") + path_);
    return static_cast<std::uint64_t>(status.st_size);
  }

  void read(std::span<std::byte> to, std::uint64_t offset) const { io::read_at(file_.get(), to, offset, path_); }

 private:
  char path_[32] = "/dev/shm/braise-XXXXXX";
  io::FileDescriptor file_;
  std::optional<hdf5::Writer> writer_;
};

/// Bytes of a file, and where they belong.
struct Segment {
  std::uint64_t offset = 0;
  Content content;
  std::uint64_t bytes() const { return static_cast<std::uint64_t>(content.bytes()); }
};

/// Makes a part with all its datasets but their content, and tells where that belongs.
std::vector<std::uint64_t> make_frame(hdf5::Writer& file, std::int64_t rank, std::span<const Piece> pieces) {
  file.attribute("/", "format", std::string("braise checkpoint part"));
  file.attribute("/", "version", std::uint64_t{kFormatVersion});
  file.attribute("/", "rank", static_cast<std::uint64_t>(rank));
  Groups groups(file);
  std::vector<std::uint64_t> offsets;
  for (const Piece& piece : pieces) {
    groups.make_for(piece.path);
    offsets.push_back(file.dataset(dataset_name(piece.path, piece.begin), element_of(piece.data.dtype()),
                                   static_cast<std::uint64_t>(piece.data.elements())));
  }
  return offsets;
}

/// Creates a file and takes the disk space of all of it, so that a full disk is met before any work, where the file
/// system can.
io::FileDescriptor create_file(const fs::path& path, std::uint64_t bytes) {
  io::FileDescriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!file) core::fail_errno("cannot create " + path.string());
  int result = 0;
  do {
    result = ::fallocate(file.get(), 0, 0, static_cast<off_t>(bytes));
  } while (result != 0 && errno == EINTR);
  if (result != 0 && errno != EOPNOTSUPP)
    core::fail_errno("cannot take " + std::to_string(bytes) + " bytes for " + path.string());
  return file;
}

void write_segments(int fd, std::span<const Segment> segments, const std::atomic<bool>& give_up, const fs::path& name) {
  std::uint64_t begun = 0;  // bytes up to here the disk is at work on
  std::vector<std::byte> buffer;
  for (const Segment& segment : segments) {
    for (std::uint64_t begin = 0; begin < segment.bytes(); begin += kSliceBytes) {
      if (give_up) throw core::Error("writing " + name.string() + " was given up");
      const std::uint64_t count = std::min<std::uint64_t>(kSliceBytes, segment.bytes() - begin);
      const auto slice =
          segment.content.look_at(static_cast<std::int64_t>(begin), static_cast<std::int64_t>(count), buffer);
      io::write_at(fd, slice, segment.offset + begin, name);
      const std::uint64_t end = segment.offset + begin + slice.size();
      if (end >= begun + kSliceBytes) {
        // Only a hint: errors show at fsync.
        ::sync_file_range(fd, static_cast<off_t>(begun), static_cast<off_t>(end - begun), SYNC_FILE_RANGE_WRITE);
        begun = end;
      }
    }
  }
}

/// The file that shows whole tensors; the parts must lie beside it. No file is left of one that fails.
FileRecord write_master(const fs::path& folder, const Manifest& manifest, const nlohmann::json& metadata) {
  const fs::path path = folder / kMasterName;
  MemoryFile memory;
  hdf5::Writer& file = memory.writer();
  file.attribute("/", "format", std::string("braise checkpoint"));
  file.attribute("/", "version", std::uint64_t{kFormatVersion});
  file.attribute("/", "step", static_cast<std::uint64_t>(manifest.step));
  file.attribute("/", "attempt", manifest.attempt);
  file.attribute("/", "weights_digest", manifest.weights_digest);
  if (manifest.metric) file.real_attribute("/", "metric", *manifest.metric);

  file.group("/metadata");
  for (const auto& [key, value] : metadata.items()) {
    const std::string name = "/metadata/" + key;
    if (value.is_number_unsigned()) {
      const auto number = value.get<std::uint64_t>();
      file.whole_dataset(name, hdf5::Element::uint64, {}, &number);
    } else if (value.is_number_integer()) {
      const auto number = value.get<std::int64_t>();
      file.whole_dataset(name, hdf5::Element::int64, {}, &number);
    } else if (value.is_number_float()) {
      const auto number = value.get<double>();
      file.whole_dataset(name, hdf5::Element::float64, {}, &number);
    } else {
      file.text(name, value.is_string() ? value.get<std::string>() : value.dump(2));
    }
  }

  Groups groups(file);
  for (const TensorRecord& tensor : manifest.tensors) {
    const TensorInfo& info = tensor.info;
    groups.make_for(info.path);
    const std::string name = "/" + info.path;
    const hdf5::Extents extents(info.shape.extents().begin(), info.shape.extents().end());
    if (extents.empty()) {
      // HDF5 has no virtual scalar: this one is a copy.
      const PieceRecord& piece = tensor.pieces.front();
      const fs::path part = folder / manifest.files[piece.file].name;
      const io::FileDescriptor fd(::open(part.c_str(), O_RDONLY | O_CLOEXEC));
      if (!fd) core::fail_errno("cannot open " + part.string());
      std::vector<std::byte> value(static_cast<std::size_t>(core::bits(info.dtype) / 8));
      io::read_at(fd.get(), value, piece.offset, part);
      file.whole_dataset(name, element_of(info.dtype), extents, value.data());
    } else {
      std::vector<hdf5::VirtualPart> parts;
      for (const PieceRecord& piece : tensor.pieces) {
        parts.push_back({manifest.files[piece.file].name, dataset_name(info.path, piece.range.begin),
                         static_cast<std::uint64_t>(piece.range.elements())});
      }
      file.virtual_dataset(name, element_of(info.dtype), extents, parts);
    }
    file.attribute(name, "digest", info.digest);
  }
  std::vector<std::byte> bytes(memory.close());
  memory.read(bytes, 0);
  Unpublished temporary(path);
  {
    const io::FileDescriptor fd = create_file(temporary.temporary(), bytes.size());
    io::write_at(fd.get(), bytes, 0, path);
  }
  temporary.publish();
  return {kMasterName, bytes.size(), io::to_hex(io::sha256_bytes(bytes)), ""};
}

}  // namespace

PartRecord write_part(const fs::path& folder, std::int64_t rank, std::span<const Piece> pieces,
                      const std::atomic<bool>& give_up) {
  const fs::path path = folder / part_name(rank);
  Unpublished file(path);
  MemoryFile frame;
  const std::vector<std::uint64_t> offsets = make_frame(frame.writer(), rank, pieces);
  const std::uint64_t frame_end = frame.close();

  std::uint64_t bytes = frame_end;
  std::vector<Segment> segments;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    if (pieces[i].data.elements() == 0) continue;
    segments.push_back({offsets[i], pieces[i].data});
    bytes = std::max(bytes, offsets[i] + segments.back().bytes());
  }
  std::ranges::sort(segments, {}, &Segment::offset);
  std::vector<Segment> gaps;
  std::vector<std::vector<std::byte>> gap_bytes;
  io::Sha256 frame_digest;
  std::uint64_t next = 0;
  const auto gap_until = [&](std::uint64_t end) {
    if (end <= next) return;
    std::vector<std::byte>& part = gap_bytes.emplace_back(end - next);
    if (next < frame_end) frame.read(std::span(part).first(std::min(end, frame_end) - next), next);
    frame_digest.update(part.data(), part.size());
    const core::Shape shape{static_cast<std::int64_t>(part.size())};
    gaps.push_back({next, core::ConstTensorView(part.data(), core::Dtype::kInt8, shape)});
  };
  for (const Segment& segment : segments) {
    gap_until(segment.offset);
    next = segment.offset + segment.bytes();
  }
  gap_until(bytes);
  segments.insert(segments.end(), gaps.begin(), gaps.end());
  std::ranges::sort(segments, {}, &Segment::offset);

  const io::FileDescriptor fd = create_file(file.temporary(), bytes);
  // Hashing takes a processor about as long as the disk takes, so it is done meanwhile.
  auto range_digests = std::async(std::launch::async, [&] {
    std::vector<RangeContent> ranges;
    for (const Piece& piece : pieces) {
      ranges.push_back({piece.data, {piece.begin, piece.begin + piece.data.elements()}, piece.shape.elements()});
    }
    return digests_of(ranges, kHashThreads);
  });
  write_segments(fd.get(), segments, give_up, path);
  file.publish();

  PartRecord record;
  record.file = {path.filename().string(), bytes, "", frame_digest.finish()};
  std::vector<RangeDigests> digests = range_digests.get();
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const Piece& piece = pieces[i];
    TensorRecord& tensor = record.tensors.emplace_back();
    tensor.info = {piece.path, piece.data.dtype(), piece.shape, ""};
    tensor.pieces.push_back({0, {piece.begin, piece.begin + piece.data.elements()}, offsets[i], std::move(digests[i])});
  }
  return record;
}

Saved finish_checkpoint(const fs::path& folder, std::vector<PartRecord> parts, const Manifest& head) {
  Manifest manifest = joined(std::move(parts));
  manifest.step = head.step;
  manifest.attempt = head.attempt;
  manifest.sequence = head.sequence;
  manifest.metric = head.metric;
  manifest.metadata = head.metadata;
  manifest.files.front() = write_master(folder, manifest, nlohmann::json::parse(manifest.metadata));
  const std::string text = to_text(manifest);
  io::write_file_durably(folder / kManifestName, text);
  Saved saved{manifest.step, folder, static_cast<std::int64_t>(text.size()), 0, manifest.weights_digest};
  for (const FileRecord& file : manifest.files) saved.bytes += static_cast<std::int64_t>(file.bytes);
  return saved;
}

std::uint64_t part_bytes(std::span<const Piece> pieces) {
  std::uint64_t bytes = kFileOverhead;
  for (const Piece& piece : pieces)
    bytes += static_cast<std::uint64_t>(piece.data.bytes()) + kDataAlignment + kObjectOverhead;
  return bytes;
}

std::uint64_t master_bytes(std::uint64_t pieces, std::uint64_t metadata_bytes) {
  // Metadata stands in the manifest too, and chunks' digests are some hundredths of a percent of what they are of.
  return 2 * (kFileOverhead + pieces * kObjectOverhead + metadata_bytes);
}

}  // namespace braise::checkpoint
