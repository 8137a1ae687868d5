// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/telemetry/event_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstdio>
#include <map>
#include <string>

#include "kernels/core/error.h"
#include "stages/shared/io/clock.h"
#include "stages/shared/telemetry/tf_record.h"

namespace braise::telemetry {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kPrefix = "events.out.tfevents.";

/// A Protocol Buffers message that is being written, field by field. The dozen fields that are needed here take less
/// than protoc and its run-time library would: that one would be linked into every worker.
class Message {
 public:
  Message& integer(int field, std::uint64_t value) {
    varint(key(field, 0));
    varint(value);
    return *this;
  }
  Message& fixed64(int field, double value) { return fixed(field, 1, std::bit_cast<std::uint64_t>(value)); }
  Message& fixed32(int field, float value) { return fixed(field, 5, std::bit_cast<std::uint32_t>(value)); }
  Message& bytes(int field, std::string_view value) {
    varint(key(field, 2));
    varint(value.size());
    text_ += value;
    return *this;
  }
  Message& message(int field, const Message& value) { return bytes(field, value.text_); }
  const std::string& text() const { return text_; }

 private:
  static std::uint64_t key(int field, int wire_type) { return static_cast<std::uint64_t>(field << 3 | wire_type); }
  void varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) text_ += static_cast<char>(value | 0x80);
    text_ += static_cast<char>(value);
  }
  template <class T>
  Message& fixed(int field, int wire_type, T value) {
    varint(key(field, wire_type));
    text_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }

  std::string text_;
};

// Fields of the messages of TensorFlow's event.proto, summary.proto, tensor.proto and tensor_shape.proto.
namespace event {
constexpr int kWallTime = 1, kStep = 2, kFileVersion = 3, kSummary = 5, kSessionLog = 7;
}
namespace session_log {
constexpr int kStatus = 1;
constexpr int kStart = 1;
}  // namespace session_log
namespace summary {
constexpr int kValue = 1;
}
namespace value {
constexpr int kTag = 1, kSimpleValue = 2, kTensor = 8, kMetadata = 9;
}
namespace metadata {
constexpr int kPluginData = 1, kPluginName = 1;
}
namespace tensor {
constexpr int kDtype = 1, kShape = 2, kStringValue = 8;
constexpr int kString = 7;
constexpr int kDimension = 2, kSize = 1;
}  // namespace tensor

Message event_at(std::int64_t step) {
  Message message;
  message.fixed64(event::kWallTime, static_cast<double>(io::utc_us()) / 1e6);
  message.integer(event::kStep, static_cast<std::uint64_t>(step));
  return message;
}

/// "events.out.tfevents.1764144000.host.4711": readers sort files by name, and take those that have "tfevents" in it.
std::string file_name(long long seconds) {
  char host[256] = {};
  if (::gethostname(host, sizeof host - 1) != 0) core::fail_errno("cannot tell the host's name");
  char number[32];
  std::snprintf(number, sizeof number, "%010lld", seconds);
  return std::string(kPrefix) + number + "." + host + "." + std::to_string(::getpid());
}

/// The seconds in a file's name; -1 where it is no event file's.
long long seconds_of(const std::string& name) {
  if (!name.starts_with(kPrefix)) return -1;
  long long seconds = -1;
  std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), seconds);
  return seconds;
}

/// The event files of all the folders, by name; the oldest folder's, which others hold copies of.
std::map<std::string, fs::path> event_files(const std::vector<fs::path>& folders) {
  std::map<std::string, fs::path> files;
  for (const fs::path& folder : folders) {
    if (!fs::is_directory(folder)) continue;
    for (const auto& entry : fs::directory_iterator(folder)) {
      const std::string name = entry.path().filename().string();
      if (seconds_of(name) >= 0) files.emplace(name, entry.path());
    }
  }
  return files;
}

std::string whole_records(const fs::path& path) {
  std::string bytes = io::read_file(path);
  std::size_t end = 0;
  while (read_tf_record(bytes, end)) {
  }
  bytes.resize(end);
  return bytes;
}

}  // namespace

EventFile::EventFile(const fs::path& folder, const std::vector<fs::path>& earlier) {
  io::create_directories_durably(folder);
  long long seconds = io::utc_us() / 1'000'000;
  for (const auto& [name, path] : event_files(earlier)) {
    io::write_file_durably(folder / name, whole_records(path));
    // A clock that was set back, or a start within the same second, must not put this file before them.
    seconds = std::max(seconds, seconds_of(name) + 1);
  }
  path_ = folder / file_name(seconds);
  file_ = io::FileDescriptor(::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666));
  if (!file_) core::fail_errno("cannot create " + path_.string());
  io::sync_directory(folder);
  Message message;
  message.fixed64(event::kWallTime, static_cast<double>(io::utc_us()) / 1e6);
  // From version 2 on, readers heed a session's start.
  message.bytes(event::kFileVersion, "brain.Event:2");
  append(message.text());
}

void EventFile::append(std::string_view event) {
  io::write_all(file_.get(), tf_record(event), path_);
}

void EventFile::restart(std::int64_t resume_step) {
  // Readers forget what was told of this event's step and later ones. A fresh start tells all again, step 0 too.
  Message message = event_at(resume_step == 0 ? 0 : resume_step + 1);
  message.message(event::kSessionLog, Message().integer(session_log::kStatus, session_log::kStart));
  append(message.text());
}

void EventFile::add_scalars(std::int64_t step, std::span<const Scalar> scalars) {
  Message values;
  for (const Scalar& scalar : scalars) {
    values.message(summary::kValue,
                   Message().bytes(value::kTag, scalar.tag).fixed32(value::kSimpleValue, scalar.value));
  }
  append(event_at(step).message(event::kSummary, values).text());
}

void EventFile::add_text(std::int64_t step, std::string_view tag, std::string_view markdown) {
  Message plugin, text, values;
  plugin.message(metadata::kPluginData, Message().bytes(metadata::kPluginName, "text"));
  text.integer(tensor::kDtype, tensor::kString);
  text.message(tensor::kShape, Message().message(tensor::kDimension, Message().integer(tensor::kSize, 1)));
  text.bytes(tensor::kStringValue, markdown);
  values.message(summary::kValue,
                 Message().bytes(value::kTag, tag).message(value::kTensor, text).message(value::kMetadata, plugin));
  append(event_at(step).message(event::kSummary, values).text());
}

}  // namespace braise::telemetry
