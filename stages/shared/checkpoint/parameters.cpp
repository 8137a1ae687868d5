// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/checkpoint/parameters.h"

#include "kernels/core/arena.h"
#include "kernels/core/copy.h"
#include "kernels/core/error.h"
#include "stages/shared/checkpoint/manifest.h"

namespace braise::checkpoint {

std::optional<std::filesystem::path> folder_of(const std::filesystem::path& path) {
  if (path.filename() == kManifestName && std::filesystem::exists(path)) return path.parent_path();
  if (std::filesystem::exists(path / kManifestName)) return path;
  return std::nullopt;
}

void read_parameter(core::Stream& stream, const Checkpoint& checkpoint, const std::string& name,
                    const core::TensorView& destination) {
  const TensorInfo* found = checkpoint.find("master/" + name);
  if (found == nullptr) found = &checkpoint.tensor("parameters/" + name);
  if (found->shape != destination.shape()) {
    throw core::Error(checkpoint.folder().string() + ": " + found->path + " is " + found->shape.text() +
                      ", and the model's is " + destination.shape().text());
  }
  const core::Tensor read = stream.arena().tensor(found->dtype, found->shape, core::Category::kWorkspace, "load");
  checkpoint.read(found->path, 0, read.view);
  core::copy(stream, destination, read.view);
  stream.synchronize();
}

}  // namespace braise::checkpoint
