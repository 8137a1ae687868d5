// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/io/json_lines.h"

#include <fcntl.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "stages/shared/io/json.h"

namespace braise::io {

JsonLinesWriter::JsonLinesWriter(std::filesystem::path path) : path_(std::move(path)) {
  file_ = FileDescriptor(::open(path_.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
  if (!file_) core::fail_errno("cannot open " + path_.string());
  const off_t end = ::lseek(file_.get(), 0, SEEK_END);
  if (end < 0) core::fail_errno("cannot seek " + path_.string());
  char last = '\n';
  if (end > 0 && ::pread(file_.get(), &last, 1, end - 1) != 1) core::fail_errno("cannot read " + path_.string());
  if (last != '\n') write_all(file_.get(), "\n", path_);
  if (end == 0) sync_directory(path_.parent_path());
}

void JsonLinesWriter::append(const nlohmann::json& object, bool durable) {
  write_all(file_.get(), object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n", path_);
  if (durable) sync();
}

void JsonLinesWriter::sync() {
  if (::fdatasync(file_.get()) != 0) core::fail_errno("cannot sync " + path_.string());
}

JsonLines read_json_lines(const std::filesystem::path& path) {
  JsonLines result;
  const std::string text = read_file(path);
  std::size_t line = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    ++line;
    std::size_t end = text.find('\n', begin);
    const bool ended = end != std::string::npos;
    if (!ended) end = text.size();
    // A line without its newline is torn even where it happens to parse: its writer may still be at it.
    if (end > begin) {
      nlohmann::json object = ended ? parse_json(std::string_view(text).substr(begin, end - begin))
                                    : nlohmann::json(nlohmann::json::value_t::discarded);
      if (object.is_object()) {
        result.objects.push_back(std::move(object));
        result.lines.push_back(line);
      } else {
        result.warnings.push_back(path.filename().string() + ":" + std::to_string(line) + ": torn line dropped");
      }
    }
    begin = end + 1;
  }
  return result;
}

}  // namespace braise::io
