// SPDX-License-Identifier: Apache-2.0
#include "stages/tokenize/shard_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <utility>

#include "kernels/core/error.h"
#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"

namespace braise::tokenize {
namespace fs = std::filesystem;
namespace {

nlohmann::json side_to_json(const SideCounts& counts) {
  return {{"tokens", counts.tokens}, {"documents", counts.documents}};
}

SideCounts side_from_json(const nlohmann::json& json) {
  return {json.at("tokens"), json.at("documents")};
}

}  // namespace

nlohmann::json FinishedShard::to_json() const {
  return {{"bytes", bytes},
          {"sha256", sha256},
          {"train", side_to_json(counts.train)},
          {"validation", side_to_json(counts.validation)}};
}

FinishedShard FinishedShard::from_json(const nlohmann::json& json) {
  return {
      json.at("bytes"), json.at("sha256"), {side_from_json(json.at("train")), side_from_json(json.at("validation"))}};
}

ShardStore::ShardStore(stages::StageContext& context, fs::path artifacts)
    : context_(context), artifacts_(std::move(artifacts)) {}

FinishedShard ShardStore::write(std::size_t index, const Shard& shard, const ShardTokens& tokens) {
  require_space(artifacts_, tokens.file_bytes());
  const fs::path path = artifacts_ / shard_file(index);
  const fs::path temporary = artifacts_ / ("." + shard_file(index) + ".tmp");
  context_.operation("write shard " + std::to_string(index));
  tokens.write(temporary);
  context_.operation("digest shard " + std::to_string(index));
  const io::FileDigest digest = io::digest_file(temporary);
  context_.operation("publish shard " + std::to_string(index));
  publish_read_only(temporary, path);
  const FinishedShard finished = {digest.bytes, digest.sha256, tokens.counts()};
  record(index, shard, finished);
  return finished;
}

std::optional<FinishedShard> ShardStore::take_over(std::size_t index, const Shard& shard) {
  for (const fs::path& attempt : context_.earlier_attempts()) {
    const fs::path earlier = attempt / "artifacts";
    if (!fs::exists(earlier / shard_manifest(index))) continue;
    try {
      if (std::optional<FinishedShard> taken = take_over_from(earlier, index, shard)) return taken;
    } catch (const core::Error& error) {
      context_.log("shard " + std::to_string(index) + " of attempt " + attempt.filename().string() +
                   " cannot be taken over and is made anew: " + error.what());
    } catch (const nlohmann::json::exception& error) {
      context_.log("shard " + std::to_string(index) + " of attempt " + attempt.filename().string() +
                   " is made anew, its manifest is damaged: " + error.what());
    }
  }
  return std::nullopt;
}

std::optional<FinishedShard> ShardStore::take_over_from(const fs::path& earlier, std::size_t index,
                                                        const Shard& shard) {
  const std::string attempt = earlier.parent_path().filename().string();
  context_.operation("verify shard " + std::to_string(index) + " of attempt " + attempt);
  const nlohmann::json manifest = nlohmann::json::parse(io::read_file(earlier / shard_manifest(index)));
  if (manifest.at("made_of") != identity(index, shard)) {
    context_.log("shard " + std::to_string(index) + " of attempt " + attempt +
                 " was made of something else: it is made anew");
    return std::nullopt;
  }
  const FinishedShard finished = FinishedShard::from_json(manifest);
  const fs::path file = earlier / shard_file(index);
  const io::FileDigest digest = io::digest_file(file);
  if (digest.bytes != finished.bytes || digest.sha256 != finished.sha256) {
    throw core::Error(file.string() + " is damaged: its sha256 is " + digest.sha256 + ", not " + finished.sha256);
  }
  const fs::path here = artifacts_ / shard_file(index);
  if (::link(file.c_str(), here.c_str()) != 0) core::fail_errno("cannot link " + file.string());
  record(index, shard, finished);
  context_.log("shard " + std::to_string(index) + " taken over from attempt " + attempt);
  return finished;
}

/// What a shard was made of. Equal identities give equal files.
nlohmann::json ShardStore::identity(std::size_t index, const Shard& shard) const {
  return {{"fingerprint", context_.job().fingerprint},
          {"shard", index},
          {"first_document", shard.first_document},
          {"documents", shard.documents},
          {"text_bytes", shard.text_bytes}};
}

/// Not synced: a manifest that a crash of the machine loses or spoils costs a shard, nothing else.
void ShardStore::record(std::size_t index, const Shard& shard, const FinishedShard& finished) const {
  nlohmann::json manifest = finished.to_json();
  manifest["made_of"] = identity(index, shard);
  const fs::path path = artifacts_ / shard_manifest(index);
  const fs::path temporary = artifacts_ / ("." + shard_manifest(index) + ".tmp");
  const io::FileDescriptor file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!file) core::fail_errno("cannot create " + temporary.string());
  io::write_all(file.get(), manifest.dump() + "\n", path);
  if (::rename(temporary.c_str(), path.c_str()) != 0) core::fail_errno("cannot rename " + temporary.string());
}

void require_space(const fs::path& folder, std::uint64_t bytes) {
  struct statvfs status {};
  if (::statvfs(folder.c_str(), &status) != 0) core::fail_errno("cannot tell the free space of " + folder.string());
  const std::uint64_t available = std::uint64_t{status.f_bavail} * status.f_frsize;
  if (available < bytes) {
    throw core::Error("the file system of " + folder.string() + " is too full: " + std::to_string(bytes) +
                      " bytes are needed, " + std::to_string(available) + " are free");
  }
}

void publish_read_only(const fs::path& temporary, const fs::path& path) {
  if (::chmod(temporary.c_str(), 0444) != 0) core::fail_errno("cannot make " + temporary.string() + " read-only");
  io::publish_file(temporary, path);
}

}  // namespace braise::tokenize
