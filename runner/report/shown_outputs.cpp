// SPDX-License-Identifier: Apache-2.0
#include "runner/report/shown_outputs.h"

#include <algorithm>
#include <fstream>

#include "kernels/core/error.h"
#include "runner/journal/replay.h"
#include "stages/registry.h"

namespace braise::report {
namespace {
namespace fs = std::filesystem;

// Of one file: a few completions. Of all files: what still fits a person's screen or two.
constexpr std::size_t kLines = 30;
constexpr std::size_t kColumns = 400;
constexpr std::size_t kFiles = 3;

/// As much of a file as can be shown.
std::string read_beginning(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw core::Error("cannot read " + path.string());
  std::string text((kLines + 1) * (kColumns + 1), '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(file.gcount()));
  return text;
}

}  // namespace

std::string beginning(std::string_view text, std::size_t lines, std::size_t columns) {
  text = text.substr(0, text.find_last_not_of('\n') + 1);
  std::string result;
  for (std::size_t line = 0; !text.empty(); ++line) {
    if (line == lines) return result + "...\n";
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::size_t length = std::min(end, columns);
    while (length < end && length > 0 && (static_cast<unsigned char>(text[length]) & 0xc0) == 0x80) --length;
    result += std::string(text.substr(0, length)) + (length < end ? "...\n" : "\n");
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return result;
}

std::string shown_outputs(const plan::Plan& plan, const journal::RunDirectory& run) {
  const journal::RunState state = journal::replay(run);
  std::string text;
  std::size_t files = 0;
  for (const plan::Job& job : plan.jobs) {
    const journal::JobRecord* const record = state.find(job.spec.job);
    const stages::StageDescriptor* const kind = stages::find_kind(job.spec.kind);
    if (record == nullptr || !record->completion || kind == nullptr) continue;
    const plan::Completed& completed = record->completion->completed;
    for (const stages::OutputDeclaration& declared : kind->outputs) {
      const auto output = completed.outputs.find(declared.name);
      if (!declared.shown || output == completed.outputs.end() || files++ >= kFiles) continue;
      const fs::path path = fs::path(completed.attempt_dir) / output->second.files.front().path;
      text +=
          job.spec.job + ": " + path.string() + "\n" + beginning(read_beginning(run.path() / path), kLines, kColumns);
    }
  }
  if (files > kFiles) text += "and " + std::to_string(files - kFiles) + " more such files\n";
  return text;
}

}  // namespace braise::report
