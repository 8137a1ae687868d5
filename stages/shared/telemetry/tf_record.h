// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace braise::telemetry {

/// CRC-32C (Castagnoli). Source: RFC 3720, appendix B.4.
std::uint32_t crc32c(std::string_view bytes);

/// A TFRecord: length (8 bytes, little endian), its masked CRC, the content, its masked CRC. A CRC is masked, so that
/// one of bytes that hold CRCs stays a good one: rotated right by 15 bits, and 0xa282ead8 added.
std::string tf_record(std::string_view content);

/// The content of the record at `offset`, which is moved behind it; nothing where no whole, unharmed record stands
/// there.
std::optional<std::string_view> read_tf_record(std::string_view bytes, std::size_t& offset);

}  // namespace braise::telemetry
