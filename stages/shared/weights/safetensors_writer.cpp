// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>
#include <utility>

#include "kernels/core/error.h"
#include "stages/shared/io/file.h"
#include "stages/shared/weights/safetensors.h"
#include "stages/shared/weights/text.h"

namespace braise::weights {
namespace {

namespace fs = std::filesystem;

struct Placed {
  NewTensor tensor;
  std::int64_t bytes = 0;
  std::size_t file = 0;
  std::int64_t offset = 0;  // in the file
  bool written = false;
};

struct File {
  fs::path path;
  fs::path temporary;
  io::FileDescriptor file;  // until it has its name
};

/// "model-00002-of-00003.safetensors" from "model.safetensors".
std::string shard_name(const fs::path& path, std::size_t shard, std::size_t shards) {
  char number[64];
  std::snprintf(number, sizeof number, "-%05zu-of-%05zu", shard + 1, shards);
  return path.stem().string() + number + path.extension().string();
}

std::string json_text(const std::string& text) {
  return nlohmann::json(text).dump();
}

void write_at(const File& file, std::span<const std::byte> bytes, std::int64_t offset) {
  while (!bytes.empty()) {
    const ssize_t put = ::pwrite(file.file.get(), bytes.data(), bytes.size(), offset);
    if (put < 0) {
      if (errno == EINTR) continue;
      core::fail_errno("cannot write " + file.path.string());
    }
    bytes = bytes.subspan(static_cast<std::size_t>(put));
    offset += put;
  }
}

}  // namespace

struct SafetensorsWriter::State {
  fs::path path;
  std::vector<Placed> tensors;  // in the order of names
  std::vector<File> files;
  std::int64_t total_bytes = 0;

  ~State() {
    for (const File& file : files) {
      if (file.file) ::unlink(file.temporary.c_str());
    }
  }

  [[noreturn]] void fail(const std::string& problem) const { throw core::Error(path.string() + ": " + problem); }

  fs::path index() const { return path.string() + ".index.json"; }

  void take(std::vector<NewTensor> given);
  std::size_t deal(std::int64_t shard_bytes);
  std::string place(std::size_t file, const std::map<std::string, std::string>& metadata);
  void create(std::size_t shards, const std::map<std::string, std::string>& metadata);
  Placed& unwritten(const std::string& name);
};

void SafetensorsWriter::State::take(std::vector<NewTensor> given) {
  std::ranges::sort(given, {}, &NewTensor::name);
  for (std::size_t i = 0; i < given.size(); ++i) {
    const NewTensor& tensor = given[i];
    const std::string label = "tensor " + in_quotes(tensor.name);
    if (!is_utf8(tensor.name)) fail(label + ": its name is not UTF-8");
    if (tensor.name == "__metadata__") fail("no tensor can be named __metadata__");
    if (i > 0 && given[i - 1].name == tensor.name) fail(label + " is given twice");
    const std::int64_t size = tensor.encoding == Encoding::kOther ? 0 : element_bytes(tensor.encoding);
    if (size == 0) fail(label + ": safetensors has no blocks of quantised elements");
    constexpr std::int64_t kMost = std::int64_t{1} << 62;
    if (tensor.shape.elements() > (kMost - total_bytes) / size) fail(label + ": more than 2^62 bytes in all");
    tensors.push_back({tensor, tensor.shape.elements() * size});
    total_bytes += tensors.back().bytes;
  }
}

/// Gives each tensor, in the order of names, its file; returns how many files there are.
std::size_t SafetensorsWriter::State::deal(std::int64_t shard_bytes) {
  std::size_t file = 0;
  std::int64_t held = 0;
  bool empty = true;
  for (Placed& placed : tensors) {
    if (!empty && placed.bytes > shard_bytes - held) {
      ++file;
      held = 0;
    }
    placed.file = file;
    held += placed.bytes;
    empty = false;
  }
  return file + 1;
}

/// Gives each tensor of a file its place; returns what lies before the first.
std::string SafetensorsWriter::State::place(std::size_t file, const std::map<std::string, std::string>& metadata) {
  std::vector<Placed*> inside;
  for (Placed& placed : tensors) {
    if (placed.file == file) inside.push_back(&placed);
  }
  std::ranges::stable_sort(inside, std::greater(),
                           [](const Placed* placed) { return element_bytes(placed->tensor.encoding); });
  std::string header;
  if (!metadata.empty()) header = "\"__metadata__\":" + nlohmann::json(metadata).dump();
  std::int64_t offset = 0;
  for (Placed* const placed : inside) {
    const NewTensor& tensor = placed->tensor;
    std::string shape;
    for (const std::int64_t extent : tensor.shape.extents())
      shape += (shape.empty() ? "" : ",") + std::to_string(extent);
    placed->offset = offset;
    offset += placed->bytes;
    header += (header.empty() ? "" : ",") + json_text(tensor.name) + ":{\"dtype\":\"" +
              std::string(name(tensor.encoding)) + "\",\"shape\":[" + shape + "],\"data_offsets\":[" +
              std::to_string(placed->offset) + "," + std::to_string(offset) + "]}";
  }
  header = "{" + header + "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  if (header.size() > kMostHeaderBytes) {
    fail("the header would have " + std::to_string(header.size()) + " bytes, and at most " +
         std::to_string(kMostHeaderBytes) + " are allowed; smaller shards have shorter ones");
  }
  const auto length = static_cast<std::uint64_t>(header.size());
  std::string start(sizeof length, '\0');
  std::memcpy(start.data(), &length, sizeof length);
  start += header;
  for (Placed* const placed : inside) placed->offset += static_cast<std::int64_t>(start.size());
  return start;
}

void SafetensorsWriter::State::create(std::size_t shards, const std::map<std::string, std::string>& metadata) {
  const fs::path folder = path.parent_path();
  for (std::size_t i = 0; i < shards; ++i) {
    const std::string start = place(i, metadata);
    const std::string name = shards == 1 ? path.filename().string() : shard_name(path, i, shards);
    File& file = files.emplace_back();
    file.path = folder / name;
    file.temporary = folder / ("." + name + ".tmp." + std::to_string(::getpid()));
    file.file = io::FileDescriptor(::open(file.temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
    if (!file.file) core::fail_errno("cannot create " + file.temporary.string());
    write_at(file, std::as_bytes(std::span(start)), 0);
  }
}

Placed& SafetensorsWriter::State::unwritten(const std::string& name) {
  const auto found = std::ranges::lower_bound(
      tensors, name, {}, [](const Placed& placed) -> const std::string& { return placed.tensor.name; });
  if (found == tensors.end() || found->tensor.name != name) fail("tensor " + in_quotes(name) + " was not announced");
  if (found->written) fail("tensor " + in_quotes(name) + " is written twice");
  return *found;
}

SafetensorsWriter::SafetensorsWriter(fs::path path, std::vector<NewTensor> tensors,
                                     std::map<std::string, std::string> metadata, std::int64_t shard_bytes)
    : state_(std::make_unique<State>()) {
  state_->path = std::move(path);
  for (const auto& [key, value] : metadata) {
    if (!is_utf8(key) || !is_utf8(value)) state_->fail("metadata " + in_quotes(key) + " is not UTF-8");
  }
  state_->take(std::move(tensors));
  const std::size_t shards = state_->deal(shard_bytes);
  if (fs::exists(state_->index())) state_->fail("an index of a sharded model is there already");
  state_->create(shards, metadata);
}

SafetensorsWriter::~SafetensorsWriter() = default;

void SafetensorsWriter::write(const std::string& name, std::span<const std::byte> bytes) {
  Placed& placed = state_->unwritten(name);
  if (static_cast<std::int64_t>(bytes.size()) != placed.bytes) {
    state_->fail("tensor " + in_quotes(name) + " has " + std::to_string(placed.bytes) + " bytes, and was given " +
                 std::to_string(bytes.size()));
  }
  write_at(state_->files[placed.file], bytes, placed.offset);
  placed.written = true;
}

void SafetensorsWriter::write(const std::string& name, const core::ConstTensorView& tensor) {
  const NewTensor& announced = state_->unwritten(name).tensor;
  const bool fits = tensor && same_dtype(announced.encoding) == tensor.dtype() && tensor.shape() == announced.shape &&
                    tensor.contiguous() && tensor.device() == core::kCpu;
  if (!fits) {
    state_->fail("tensor " + in_quotes(name) + " is announced as " + std::string(weights::name(announced.encoding)) +
                 "[" + announced.shape.text() + "], and was given " + tensor.text() + " on " + tensor.device().text() +
                 "; it must be the same, contiguous, on the cpu");
  }
  write(name, {static_cast<const std::byte*>(tensor.raw()), static_cast<std::size_t>(tensor.bytes())});
}

void SafetensorsWriter::finish() {
  for (const Placed& placed : state_->tensors) {
    if (!placed.written) state_->fail("tensor " + in_quotes(placed.tensor.name) + " was not written");
  }
  for (File& file : state_->files) {
    io::publish_file(file.temporary, file.path);
    file.file.reset();
  }
  if (state_->files.size() == 1) return;
  nlohmann::json index;
  index["metadata"]["total_size"] = state_->total_bytes;
  for (const Placed& placed : state_->tensors) {
    index["weight_map"][placed.tensor.name] = state_->files[placed.file].path.filename().string();
  }
  io::write_file_durably(state_->index(), index.dump(2) + "\n");
}

}  // namespace braise::weights
