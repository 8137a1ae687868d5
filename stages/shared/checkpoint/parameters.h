// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "kernels/core/device.h"
#include "stages/shared/checkpoint/checkpoint.h"

namespace braise::checkpoint {

/// The folder of the checkpoint that a path names: a folder with a manifest, or the manifest itself. Nothing where it
/// names none.
std::optional<std::filesystem::path> folder_of(const std::filesystem::path& path);

/// destination = a parameter: its master weights where the checkpoint has them, else the parameter as it was computed
/// with, in the destination's floating-point dtype. Errors: core::Error naming the checkpoint, where it has no such
/// parameter or one of another shape, or is damaged.
void read_parameter(core::Stream& stream, const Checkpoint& checkpoint, const std::string& name,
                    const core::TensorView& destination);

}  // namespace braise::checkpoint
