// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>

namespace braise::check {

/// Bytes of main memory that processes could still get on this machine.
std::uint64_t available_memory_bytes();

/// Throws unless `needed` bytes of main memory are available. Errors: core::Error with both numbers.
void verify_memory(std::uint64_t needed, int workers);

/// Throws unless the folder has room for `needed` bytes. Errors: core::Error with both numbers.
void verify_room(const std::filesystem::path& folder, std::uint64_t needed, int workers);

/// Writes a file of `bytes` to the folder and its disk, reads it back, and removes it. Errors: core::Error where it
/// cannot be written or read, or differs.
void verify_disk(const std::filesystem::path& folder, std::uint64_t bytes, int rank);

}  // namespace braise::check
