// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/core/dtype.h"
#include "kernels/core/shape.h"
#include "kernels/core/tensor.h"
#include "stages/shared/checkpoint/piece.h"

namespace braise::comm {
class Communicator;
}

namespace braise::checkpoint {

/// A logical tensor of a checkpoint.
struct TensorInfo {
  std::string path;  ///< "parameters/model.norm.weight"
  core::Dtype dtype = core::Dtype::kFloat32;
  core::Shape shape;
  std::string digest;  ///< of its logical bytes (digest.h): equal tensors have equal digests, whatever the layout
};

/// A file of a checkpoint.
struct FileInfo {
  std::string name;
  std::uint64_t bytes = 0;
};

/// The same with the SHA-256 of its content.
struct LinkedFile {
  std::string name;
  std::uint64_t bytes = 0;
  std::string sha256;
};

/// What of a checkpoint must be there: kManifest alone tells its digests, and is all that a light archive has of it.
enum class Needs : std::uint8_t { kData, kManifest };

/// A finished checkpoint: a folder whose manifest is there. Its manifest is checked when it is opened, its data when
/// they are read. Layout-free: any rank of any later layout reads any range. Threads may use it at once.
/// Errors of all members: core::Error naming the file, and what is wrong in it.
class Checkpoint {
 public:
  /// Reads the manifest, and checks that it is what was written, that its tensors are whole, and that the files have
  /// the bytes they should, unless only the manifest is needed.
  explicit Checkpoint(const std::filesystem::path& folder, Needs needs = Needs::kData);
  ~Checkpoint();
  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;

  const std::filesystem::path& folder() const;
  std::int64_t step() const;
  const std::string& attempt() const;         ///< the token of the attempt that wrote it
  const std::string& weights_digest() const;  ///< one digest of all tensors under "parameters/"
  std::optional<double> metric() const;
  const nlohmann::json& metadata() const;  ///< as it was given to Saver::save

  std::span<const TensorInfo> tensors() const;          ///< in the order of their paths' bytes
  const TensorInfo* find(std::string_view path) const;  ///< null where there is none
  const TensorInfo& tensor(std::string_view path) const;

  /// The files, the manifest last.
  std::vector<FileInfo> files() const;

  /// destination = elements [begin, begin + destination.elements()) of the tensor, from the files of the ranks that
  /// wrote them, checked against their digests. The destination: contiguous, in the machine's memory, of the tensor's
  /// dtype, of any shape. It is undefined after an error.
  void read(std::string_view path, std::int64_t begin, const core::TensorView& destination) const;

  /// Reads the parts of all files that hold no tensor: with read() of every tensor, no byte is left unchecked.
  void verify_frames() const;

  /// Reads everything. `progress`, if any, is told the bytes done and of all.
  void verify(const std::function<void(std::uint64_t done, std::uint64_t all)>& progress = {}) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// A folder that looks like a finished checkpoint.
struct Candidate {
  std::filesystem::path folder;
  std::int64_t step = 0;
};

/// Finished checkpoints of a lineage of attempts (the folders of attempts, latest first), by names alone: newest step
/// first; of equal steps, the later attempt's, and in an attempt the later one.
std::vector<Candidate> find_checkpoints(std::span<const std::filesystem::path> attempt_dirs);

/// Loads the newest good checkpoint: for one candidate after the other, rank 0 checks the frames and every rank calls
/// `load`, which reads what the rank needs; where any rank meets an error, all go on to the next, and `log` is told, on
/// every rank, which checkpoint is passed over and why. Nothing where there is no candidate. `load` must not be
/// collective and may be called again after it failed. Collective.
/// Errors: core::Error where there are candidates and none is good: to begin anew is for a person to decide.
std::optional<Checkpoint> load_newest(comm::Communicator& comm, std::span<const std::filesystem::path> attempt_dirs,
                                      const std::function<void(const Checkpoint&)>& load,
                                      const std::function<void(std::string_view)>& log);

/// Makes `folder` (which must not exist) the same checkpoint by hard links, manifest last and durable: so that it
/// outlives retention, as an output of the stage. Reads all files; gives them, the manifest first.
std::vector<LinkedFile> link_checkpoint(const Checkpoint& checkpoint, const std::filesystem::path& folder);

}  // namespace braise::checkpoint
