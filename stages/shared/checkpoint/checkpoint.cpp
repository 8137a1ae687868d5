// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/checkpoint/checkpoint.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "stages/shared/checkpoint/manifest.h"
#include "stages/shared/io/file.h"

namespace braise::checkpoint {
namespace {
namespace fs = std::filesystem;

constexpr std::size_t kBufferBytes = std::size_t{1} << 20;

io::FileDescriptor open_to_read(const fs::path& path) {
  io::FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) core::fail_errno("cannot open " + path.string());
  return file;
}

std::string range_text(std::int64_t begin, std::int64_t end) {
  return "[" + std::to_string(begin) + ", " + std::to_string(end) + ")";
}

using Progress = std::function<void(std::uint64_t done, std::uint64_t all)>;

}  // namespace

struct Checkpoint::State {
  fs::path folder;
  FileInfo manifest_file;
  Manifest manifest;
  nlohmann::json metadata;
  std::vector<TensorInfo> infos;

  fs::path path_of(std::size_t file) const { return folder / manifest.files[file].name; }

  const TensorRecord& record(std::string_view path) const {
    const auto found = std::ranges::lower_bound(
        manifest.tensors, path, {}, [](const TensorRecord& tensor) { return std::string_view(tensor.info.path); });
    if (found == manifest.tensors.end() || found->info.path != path) {
      throw core::Error(folder.string() + " has no tensor " + std::string(path));
    }
    return *found;
  }

  /// Reads one chunk's part of a piece, and gives its leaves.
  std::vector<io::Sha256Bytes> read_chunk(int fd, const TensorRecord& tensor, const PieceRecord& piece,
                                          std::int64_t chunk, std::span<std::byte> to) const {
    const std::int64_t element_bytes = core::bits(tensor.info.dtype) / 8;
    const Range part = in_chunk(chunk, piece.range);
    const std::uint64_t offset =
        piece.offset + static_cast<std::uint64_t>((part.begin - piece.range.begin) * element_bytes);
    const fs::path path = path_of(piece.file);
    io::read_at(fd, to, offset, path);
    std::vector<io::Sha256Bytes> leaves = leaves_of(to, element_bytes);
    if (digest_of(leaves) != piece.digests.chunks[static_cast<std::size_t>(chunk - chunks_of(piece.range).begin)]) {
      throw core::Error(path.string() + " is damaged: bytes " +
                        range_text(static_cast<std::int64_t>(offset), static_cast<std::int64_t>(offset + to.size())) +
                        ", elements " + range_text(part.begin, part.end) + " of " + tensor.info.path +
                        ", do not have the digest they should");
    }
    return leaves;
  }

  void check_frame(std::size_t file) const {
    const fs::path path = path_of(file);
    const io::FileDescriptor fd = open_to_read(path);
    io::Sha256 digest;
    std::vector<std::byte> buffer(kBufferBytes);
    for (const Range& gap : frame_of(manifest, file)) {
      for (std::int64_t begin = gap.begin; begin < gap.end;) {
        const auto some = static_cast<std::size_t>(std::min<std::int64_t>(kBufferBytes, gap.end - begin));
        io::read_at(fd.get(), std::span(buffer).first(some), static_cast<std::uint64_t>(begin), path);
        digest.update(buffer.data(), some);
        begin += static_cast<std::int64_t>(some);
      }
    }
    if (digest.finish() != manifest.files[file].frame_sha256) {
      throw core::Error(path.string() + " is damaged: what lies around its tensors does not have the digest it should");
    }
  }

  void check_master() const {
    if (io::digest_file(path_of(0)).sha256 != manifest.files[0].sha256) {
      throw core::Error(path_of(0).string() + " is damaged: it does not have the digest it should");
    }
  }

  void check_tensor(const TensorRecord& tensor, const std::function<void(std::size_t bytes)>& done) const {
    const std::int64_t element_bytes = core::bits(tensor.info.dtype) / 8;
    const std::int64_t elements = tensor.info.shape.elements();
    std::vector<std::byte> buffer;
    std::vector<io::Sha256Bytes> chunks, leaves;
    for (const PieceRecord& piece : tensor.pieces) {
      const io::FileDescriptor fd = open_to_read(path_of(piece.file));
      const Range touched = chunks_of(piece.range);
      for (std::int64_t chunk = touched.begin; chunk < touched.end; ++chunk) {
        const Range part = in_chunk(chunk, piece.range);
        buffer.resize(static_cast<std::size_t>(part.elements() * element_bytes));
        for (const io::Sha256Bytes& leaf : read_chunk(fd.get(), tensor, piece, chunk, buffer)) leaves.push_back(leaf);
        if (part.end == in_chunk(chunk, Range{0, elements}).end) {
          chunks.push_back(digest_of(leaves));
          leaves.clear();
        }
        done(buffer.size());
      }
    }
    if (io::to_hex(digest_of(chunks)) != tensor.info.digest) {
      throw core::Error((folder / kManifestName).string() + ": the digest of " + tensor.info.path +
                        " is not that of its bytes");
    }
  }
};

Checkpoint::Checkpoint(const fs::path& folder, Needs needs) : state_(std::make_unique<State>()) {
  const fs::path path = folder / kManifestName;
  const std::string text = io::read_file(path);
  state_->folder = folder;
  state_->manifest_file = {kManifestName, text.size()};
  state_->manifest = parse_manifest(text, path.string());
  state_->metadata = nlohmann::json::parse(state_->manifest.metadata);
  for (const FileRecord& file : state_->manifest.files) {
    if (needs == Needs::kManifest) break;
    const fs::path name = folder / file.name;
    struct stat status {};
    if (::stat(name.c_str(), &status) != 0) core::fail_errno("cannot look at " + name.string());
    if (!S_ISREG(status.st_mode)) throw core::Error(name.string() + " is not a file");
    if (static_cast<std::uint64_t>(status.st_size) != file.bytes) {
      throw core::Error(name.string() + " is damaged: it has " + std::to_string(status.st_size) + " bytes, not " +
                        std::to_string(file.bytes));
    }
  }
  for (const TensorRecord& tensor : state_->manifest.tensors) state_->infos.push_back(tensor.info);
}

Checkpoint::~Checkpoint() = default;
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;

const fs::path& Checkpoint::folder() const {
  return state_->folder;
}
std::int64_t Checkpoint::step() const {
  return state_->manifest.step;
}
const std::string& Checkpoint::attempt() const {
  return state_->manifest.attempt;
}
const std::string& Checkpoint::weights_digest() const {
  return state_->manifest.weights_digest;
}
std::optional<double> Checkpoint::metric() const {
  return state_->manifest.metric;
}
const nlohmann::json& Checkpoint::metadata() const {
  return state_->metadata;
}
std::span<const TensorInfo> Checkpoint::tensors() const {
  return state_->infos;
}

const TensorInfo* Checkpoint::find(std::string_view path) const {
  const auto found = std::ranges::lower_bound(state_->infos, path, {},
                                              [](const TensorInfo& info) { return std::string_view(info.path); });
  return found == state_->infos.end() || found->path != path ? nullptr : &*found;
}

const TensorInfo& Checkpoint::tensor(std::string_view path) const {
  return state_->record(path).info;
}

std::vector<FileInfo> Checkpoint::files() const {
  std::vector<FileInfo> files;
  for (const FileRecord& file : state_->manifest.files) files.push_back({file.name, file.bytes});
  files.push_back(state_->manifest_file);
  return files;
}

void Checkpoint::read(std::string_view path, std::int64_t begin, const core::TensorView& destination) const {
  const TensorRecord& tensor = state_->record(path);
  const std::int64_t element_bytes = core::bits(tensor.info.dtype) / 8;
  const Range wanted{begin, begin + destination.elements()};
  const auto refuse = [&](const std::string& what) {
    throw core::Error(state_->folder.string() + ": " + tensor.info.path + " is " +
                      std::string(core::name(tensor.info.dtype)) + "[" + tensor.info.shape.text() + "], " + what);
  };
  if (destination.dtype() != tensor.info.dtype || !destination.contiguous() || destination.device() != core::kCpu) {
    refuse("and cannot be read as " + destination.text());
  }
  if (begin < 0 || wanted.end > tensor.info.shape.elements()) {
    refuse("which has no elements " + range_text(wanted.begin, wanted.end));
  }
  auto* const to = static_cast<std::byte*>(destination.raw());
  std::vector<std::byte> buffer;
  for (const PieceRecord& piece : tensor.pieces) {
    const Range here{std::max(wanted.begin, piece.range.begin), std::min(wanted.end, piece.range.end)};
    if (here.begin >= here.end) continue;
    const io::FileDescriptor fd = open_to_read(state_->path_of(piece.file));
    const Range chunks = chunks_of(here);
    for (std::int64_t chunk = chunks.begin; chunk < chunks.end; ++chunk) {
      const Range part = in_chunk(chunk, piece.range);
      const Range used = in_chunk(chunk, here);
      const auto bytes = static_cast<std::size_t>(part.elements() * element_bytes);
      std::byte* const place = to + (used.begin - wanted.begin) * element_bytes;
      if (used == part) {
        state_->read_chunk(fd.get(), tensor, piece, chunk, {place, bytes});
        continue;
      }
      // Only whole chunks can be checked.
      buffer.resize(bytes);
      state_->read_chunk(fd.get(), tensor, piece, chunk, buffer);
      std::memcpy(place, buffer.data() + (used.begin - part.begin) * element_bytes,
                  static_cast<std::size_t>(used.elements() * element_bytes));
    }
  }
}

void Checkpoint::verify_frames() const {
  state_->check_master();
  for (std::size_t file = 1; file < state_->manifest.files.size(); ++file) state_->check_frame(file);
}

void Checkpoint::verify(const Progress& progress) const {
  std::uint64_t all = 0, done = 0;
  for (const TensorInfo& info : state_->infos)
    all += static_cast<std::uint64_t>(info.shape.elements() * (core::bits(info.dtype) / 8));
  verify_frames();
  for (const TensorRecord& tensor : state_->manifest.tensors) {
    state_->check_tensor(tensor, [&](std::size_t bytes) {
      done += bytes;
      if (progress) progress(done, all);
    });
  }
}

}  // namespace braise::checkpoint
