// SPDX-License-Identifier: Apache-2.0
#include "stages/tokenize/work.h"

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "kernels/comm/communicator.h"
#include "kernels/core/error.h"
#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"
#include "stages/shared/text/tokenizer.h"
#include "stages/tokenize/corpus.h"
#include "stages/tokenize/settings.h"
#include "stages/tokenize/shard_store.h"
#include "stages/tokenize/shards.h"
#include "stages/tokenize/split.h"
#include "stages/tokenize/token_file.h"

namespace braise::tokenize {
namespace fs = std::filesystem;
namespace {

using Clock = std::chrono::steady_clock;

constexpr char kMasterFile[] = "tokens.h5";

// How long ranks work between two agreements: short enough to stop within the second that mpirun leaves after a TERM,
// long enough to cost nothing.
constexpr auto kSlice = std::chrono::milliseconds(100);

// How often progress is told.
constexpr double kReportSeconds = 1;

/// What a rank has done since its phase began.
struct Progress {
  bool done = false;
  std::uint64_t bytes = 0;   ///< worked through
  std::uint64_t shards = 0;  ///< finished
};

/// The sum over all ranks; `done` where all are. Collective.
Progress sum_over_ranks(stages::StageContext& context, const Progress& mine) {
  context.operation("wait for the other ranks");
  const nlohmann::json json = {mine.done, mine.bytes, mine.shards};
  Progress sum = {true, 0, 0};
  for (const std::string& text : context.comm().all_gather(json.dump())) {
    const nlohmann::json theirs = nlohmann::json::parse(text);
    sum.done = sum.done && theirs[0].get<bool>();
    sum.bytes += theirs[1].get<std::uint64_t>();
    sum.shards += theirs[2].get<std::uint64_t>();
  }
  return sum;
}

/// Runs `advance` (one slice of this rank's work) and `report` (what all ranks have done) in turns until every rank is
/// done. All ranks take the same number of turns, so that requests can be agreed on. Returns false where a stop was
/// asked for.
bool work_in_slices(stages::StageContext& context, const std::function<Progress(Deadline)>& advance,
                    const std::function<void(const Progress&, double elapsed_s)>& report) {
  const Clock::time_point start = Clock::now();
  double next_report_s = 0;
  for (;;) {
    const Progress all = sum_over_ranks(context, advance(Clock::now() + kSlice));
    const double elapsed_s = std::chrono::duration<double>(Clock::now() - start).count();
    if (all.done || elapsed_s >= next_report_s) {
      report(all, elapsed_s);
      next_report_s = elapsed_s + kReportSeconds;
    }
    if (all.done) return true;
    switch (context.poll_request(0)) {
      case stages::Request::none:
        break;
      case stages::Request::checkpoint:
        context.log("checkpoint: what is finished is on the disk already");
        break;
      case stages::Request::stop:
        context.log("stopping as asked: " + std::to_string(all.shards) + " shards finished in this attempt");
        return false;
    }
  }
}

class Tokenize {
 public:
  explicit Tokenize(stages::StageContext& context)
      : context_(context),
        job_(context.job()),
        settings_(settings_from(job_.config)),
        tokenizer_(text::make_tokenizer(job_.config.at("tokenizer"))),
        note_([&context](const std::string& what) { context.operation(what); }),
        rank_(static_cast<std::size_t>(context.comm().rank())),
        artifacts_(context.attempt_dir() / "artifacts") {}

  stages::Ending run(stages::Outputs& outputs) {
    list_files();
    if (!scan()) return stages::Ending::stopped;
    plan();
    io::create_directories_durably(artifacts_);
    if (!make_shards()) return stages::Ending::stopped;
    gather_shards();
    if (rank_ == 0) write_master(outputs);
    return stages::Ending::completed;
  }

 private:
  void list_files();
  bool scan();
  void exchange_scans(const std::vector<int>& owners);
  void plan();
  void require_both_sides(std::uint64_t train, std::uint64_t validation, const char* unit) const;
  bool make_shards();
  void gather_shards();
  void write_master(stages::Outputs& outputs);
  nlohmann::json provenance() const;

  stages::StageContext& context_;
  const stages::JobSpec& job_;
  const Settings settings_;
  const std::unique_ptr<text::Tokenizer> tokenizer_;
  const Note note_;
  const std::size_t rank_;
  const fs::path artifacts_;

  std::vector<stages::InputFile> files_;
  std::vector<FileScan> scans_;  ///< of all files, on every rank
  std::vector<Shard> shards_;
  std::vector<FinishedShard> finished_;  ///< of all shards, on every rank, after gather_shards()
};

/// The files from outside the run, as planned, then those that other stages left, in the order of the recipe.
void Tokenize::list_files() {
  files_ = job_.inputs;
  const std::string run_dir =
      context_.attempt_dir().parent_path().parent_path().parent_path().parent_path().string() + "/";
  const nlohmann::json& input = job_.config.at("input");
  const nlohmann::json entries = input.is_array() ? input : nlohmann::json::array({input});
  for (const nlohmann::json& entry : entries) {
    const std::string path = entry.is_object() ? entry.at("path") : entry;
    if (!path.starts_with(run_dir)) continue;
    const bool listed = std::any_of(files_.begin(), files_.end(), [&](const auto& file) { return file.path == path; });
    if (!listed) files_.push_back({path, fs::file_size(path), entry.is_object() ? entry.value("sha256", "") : ""});
  }
  if (files_.empty()) throw core::Error("the job has no input files");
}

/// Phase 1: every file is read through once, each by one rank.
bool Tokenize::scan() {
  std::vector<std::uint64_t> bytes;
  std::uint64_t total = 0;
  for (const stages::InputFile& file : files_) {
    bytes.push_back(file.bytes);
    total += file.bytes;
  }
  const std::vector<int> owners = deal_files(bytes, context_.comm().size());
  scans_.resize(files_.size());

  std::size_t next_file = 0;
  std::uint64_t bytes_before = 0;
  std::optional<Scanner> scanner;
  const auto advance = [&](Deadline deadline) -> Progress {
    for (;;) {
      while (!scanner && next_file < files_.size() && owners[next_file] != static_cast<int>(rank_)) ++next_file;
      if (next_file == files_.size()) return {true, bytes_before, 0};
      if (!scanner) scanner.emplace(files_[next_file], settings_.format, note_);
      if (!scanner->advance(deadline)) return {false, bytes_before + scanner->bytes_read(), 0};
      bytes_before += scanner->bytes_read();
      scans_[next_file++] = scanner->result();
      scanner.reset();
      if (Clock::now() >= deadline) return {false, bytes_before, 0};
    }
  };
  const auto report = [&](const Progress& all, double elapsed_s) {
    const double rate = static_cast<double>(all.bytes) / std::max(elapsed_s, 1e-9);
    context_.metric({{"rate", rate},
                     {"unit", "bytes/s"},
                     {"eta_s", static_cast<double>(total - std::min(total, all.bytes)) / std::max(rate, 1.0)},
                     {"values", {{"scanned_bytes", all.bytes}, {"input_bytes", total}}}});
  };
  if (!work_in_slices(context_, advance, report)) return false;
  exchange_scans(owners);
  return true;
}

/// Gives every rank the scans of all.
void Tokenize::exchange_scans(const std::vector<int>& owners) {
  // Each scan is preceded by its length, in decimal and a newline.
  std::string mine;
  for (std::size_t i = 0; i < files_.size(); ++i) {
    if (owners[i] != static_cast<int>(rank_)) continue;
    const std::string bytes = scans_[i].to_bytes();
    mine += std::to_string(bytes.size()) + "\n" + bytes;
  }
  context_.operation("wait for the other ranks' scans");
  const std::vector<std::string> all = context_.comm().all_gather(mine);
  std::vector<std::size_t> taken(all.size(), 0);
  for (std::size_t i = 0; i < files_.size(); ++i) {
    const auto owner = static_cast<std::size_t>(owners[i]);
    std::size_t& begin = taken[owner];
    const std::size_t newline = all[owner].find('\n', begin);
    const std::size_t length = std::stoull(all[owner].substr(begin, newline - begin));
    scans_[i] = FileScan::from_bytes(all[owner].substr(newline + 1, length));
    begin = newline + 1 + length;
  }
}

/// Phase 2: the same on every rank.
void Tokenize::plan() {
  context_.operation("plan the shards");
  shards_ = plan_shards(scans_, settings_.shard_bytes);
  std::uint64_t documents = 0, text_bytes = 0, held_out = 0;
  for (FileScan& scan : scans_) {
    documents += scan.documents;
    text_bytes += scan.text_bytes;
    scan.lengths = LengthList();  // no longer needed, and the largest thing here
  }
  if (documents == 0) throw core::Error("there is no text in the " + std::to_string(files_.size()) + " input files");
  if (settings_.validation.take == Validation::Take::documents) {
    for (std::uint64_t i = 0; i < documents; ++i) {
      held_out += is_validation_document(job_.seed, i, settings_.validation.fraction) ? 1 : 0;
    }
    require_both_sides(documents - held_out, held_out, "documents");
  }
  context_.log(std::to_string(files_.size()) + " files, " + std::to_string(documents) + " documents, " +
               std::to_string(text_bytes) + " bytes of text, " + std::to_string(shards_.size()) + " shards");
}

void Tokenize::require_both_sides(std::uint64_t train, std::uint64_t validation, const char* unit) const {
  const bool wanted = settings_.validation.fraction > 0;
  if (train > 0 && (validation > 0 || !wanted)) return;
  throw core::Error("the split leaves " + std::to_string(train) + " " + unit + " for training and " +
                    std::to_string(validation) +
                    " for validation; use `take: tail`, smaller `documents`, or another `fraction`");
}

/// Phase 3: each rank makes a block of the shards.
bool Tokenize::make_shards() {
  const std::vector<std::size_t> begins = deal_shards(shards_, context_.comm().size());
  const std::size_t end = begins[rank_ + 1];
  std::uint64_t total = 0;
  for (const Shard& shard : shards_) total += shard.text_bytes;
  finished_.resize(shards_.size());

  ShardStore store(context_, artifacts_);
  CorpusReader corpus(files_, scans_, settings_.format, note_);
  std::size_t index = begins[rank_];
  std::optional<ShardTokens> tokens;
  std::uint64_t documents_added = 0, text_added = 0;  // to the shard at hand
  Progress mine;
  std::string document;

  /// Works at shard `index` until it is finished (true) or the time is up.
  const auto advance_shard = [&](Deadline deadline) {
    const Shard& shard = shards_[index];
    if (!tokens) {
      if (std::optional<FinishedShard> taken = store.take_over(index, shard)) {
        finished_[index] = std::move(*taken);
        mine.bytes += shard.text_bytes;
        return true;
      }
      corpus.seek(shard.first_document);
      tokens.emplace(*tokenizer_, settings_.validation, job_.seed);
      documents_added = text_added = 0;
    }
    context_.operation("encode shard " + std::to_string(index));
    while (documents_added < shard.documents) {
      corpus.next(document);
      tokens->add(shard.first_document + documents_added++, document);
      text_added += document.size();
      mine.bytes += document.size();
      if (Clock::now() >= deadline && documents_added < shard.documents) return false;
    }
    corpus.verify();
    if (text_added != shard.text_bytes) throw core::Error("an input file was changed while it was read");
    finished_[index] = store.write(index, shard, *tokens);
    tokens.reset();
    return true;
  };
  const auto advance = [&](Deadline deadline) {
    while (index < end && Clock::now() < deadline) {
      if (!advance_shard(deadline)) return mine;
      ++index;
      ++mine.shards;
    }
    mine.done = index == end;
    return mine;
  };
  const auto report = [&](const Progress& all, double elapsed_s) {
    const double rate = static_cast<double>(all.bytes) / std::max(elapsed_s, 1e-9);
    context_.metric({{"step", all.shards},
                     {"steps", shards_.size()},
                     {"rate", rate},
                     {"unit", "bytes/s"},
                     {"eta_s", static_cast<double>(total - std::min(total, all.bytes)) / std::max(rate, 1.0)},
                     {"values", {{"text_bytes", all.bytes}}}});
  };
  return work_in_slices(context_, advance, report);
}

/// Gives every rank what all know of the finished shards.
void Tokenize::gather_shards() {
  const std::vector<std::size_t> begins = deal_shards(shards_, context_.comm().size());
  nlohmann::json mine = nlohmann::json::array();
  for (std::size_t i = begins[rank_]; i < begins[rank_ + 1]; ++i) mine.push_back(finished_[i].to_json());
  context_.operation("wait for the other ranks' shards");
  std::size_t index = 0;
  for (const std::string& text : context_.comm().all_gather(mine.dump())) {
    for (const nlohmann::json& shard : nlohmann::json::parse(text))
      finished_[index++] = FinishedShard::from_json(shard);
  }
  TokenCounts sum;
  for (const FinishedShard& shard : finished_) {
    sum.train.tokens += shard.counts.train.tokens;
    sum.validation.tokens += shard.counts.validation.tokens;
  }
  require_both_sides(sum.train.tokens, sum.validation.tokens, "tokens");
  context_.log(std::to_string(sum.train.tokens) + " tokens for training, " + std::to_string(sum.validation.tokens) +
               " for validation");
}

/// Phase 4, on rank 0.
void Tokenize::write_master(stages::Outputs& outputs) {
  context_.operation("write the master file");
  std::vector<ShardPart> parts;
  std::uint64_t documents = 0;
  for (std::size_t i = 0; i < finished_.size(); ++i) {
    parts.push_back({shard_file(i), finished_[i].counts});
    documents += finished_[i].counts.train.documents + finished_[i].counts.validation.documents;
  }
  const nlohmann::json origin = provenance();
  // Offsets, the text of the provenance, a mapping for each shard.
  require_space(artifacts_, documents * sizeof(std::uint64_t) + origin.dump().size() + 256 * parts.size() + (64 << 10));
  const fs::path temporary = artifacts_ / (std::string(".") + kMasterFile + ".tmp");
  write_master_file(temporary, *tokenizer_, parts, origin);
  const io::FileDigest digest = io::digest_file(temporary);
  publish_read_only(temporary, artifacts_ / kMasterFile);

  stages::Output& tokens = outputs["tokens"];
  tokens.files.push_back({std::string("artifacts/") + kMasterFile, digest.bytes, digest.sha256});
  for (std::size_t i = 0; i < finished_.size(); ++i) {
    tokens.files.push_back({"artifacts/" + shard_file(i), finished_[i].bytes, finished_[i].sha256});
  }
}

/// Where the tokens come from. Only what decides them: no paths, run or attempt, so that equal jobs give equal files.
nlohmann::json Tokenize::provenance() const {
  nlohmann::json config = job_.config;
  config.erase("input");
  nlohmann::json inputs = nlohmann::json::array(), parts = nlohmann::json::array();
  for (std::size_t i = 0; i < files_.size(); ++i) {
    inputs.push_back({{"name", fs::path(files_[i].path).filename().string()},
                      {"bytes", scans_[i].identity.bytes},
                      {"sha256", scans_[i].sha256},
                      {"documents", scans_[i].documents}});
  }
  for (std::size_t i = 0; i < finished_.size(); ++i) {
    parts.push_back({{"file", shard_file(i)},
                     {"bytes", finished_[i].bytes},
                     {"sha256", finished_[i].sha256},
                     {"train_tokens", finished_[i].counts.train.tokens},
                     {"validation_tokens", finished_[i].counts.validation.tokens}});
  }
  return {{"braise", job_.braise_version},
          {"kind_version", job_.kind_version},
          {"seed", job_.seed},
          {"config", config},
          {"inputs", inputs},
          {"shards", parts}};
}

}  // namespace

stages::Ending run(stages::StageContext& context, stages::Outputs& outputs) {
  return Tokenize(context).run(outputs);
}

}  // namespace braise::tokenize
