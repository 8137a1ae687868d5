// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/text/text_source.h"

#include <utility>

#include "stages/shared/text/raw_file.h"

namespace braise::text {
namespace {

class PlainSource final : public TextSource {
 public:
  explicit PlainSource(RawFile file) : file_(std::move(file)) {}

  std::string_view next() override { return file_.read(); }
  bool can_seek() const override { return true; }
  void seek(std::uint64_t offset) override { file_.seek(offset); }
  std::string sha256() override { return file_.sha256(); }
  FileIdentity identity() const override { return file_.identity(); }

 private:
  RawFile file_;
};

}  // namespace

std::unique_ptr<TextSource> open_text(const std::filesystem::path& path, SourceOptions options) {
  RawFile file(path, std::move(options));
  const std::string suffix = path.extension().string();
  if (suffix == ".gz" || suffix == ".dz") return open_gzip(std::move(file));
  if (suffix == ".zst") return open_zstd(std::move(file));
  return std::make_unique<PlainSource>(std::move(file));
}

std::string uncompressed_name(const std::string& name) {
  for (const std::string_view suffix : {".gz", ".dz", ".zst"}) {
    if (name.ends_with(suffix)) return name.substr(0, name.size() - suffix.size());
  }
  return name;
}

}  // namespace braise::text
