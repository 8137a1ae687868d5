// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "kernels/core/arena.h"
#include "kernels/core/ledger.h"
#include "stages/api/stage.h"
#include "stages/shared/checkpoint/checkpoint.h"
#include "stages/shared/checkpoint/saver.h"
#include "stages/shared/data/dataset.h"
#include "stages/shared/data/prefetcher.h"
#include "stages/shared/telemetry/train_metrics.h"
#include "stages/train/data_config.h"
#include "stages/train/grid.h"
#include "stages/train/pace.h"
#include "stages/train/trainer.h"

namespace braise::train {

/// One attempt at a training job, as one rank does it: from the newest good checkpoint of earlier attempts, or the
/// beginning, to the last step or a request to stop. Every member is collective.
class Training {
 public:
  explicit Training(stages::StageContext& context);

  stages::Ending run(stages::Outputs& outputs);

 private:
  // Beginning.
  void compare_tiers();
  void open_data();
  model::Config model_config();
  void begin_state();
  void begin_from_recipe();
  void continue_from(const std::filesystem::path& path);
  void begin_telemetry();

  // Going on.
  void seek(std::uint64_t next_sequence);
  void take_step();
  bool handle_not_finite(const StepOutcome& outcome);
  void roll_back(const std::string& where);
  bool validates_after(std::int64_t step) const;
  std::optional<double> validate();
  void save(std::optional<double> metric);
  void load_state(const checkpoint::Checkpoint& checkpoint);
  nlohmann::json metadata() const;
  std::optional<double> needed_s();
  void tell(const nlohmann::json& line);
  void exchange_peaks();
  bool is_first_rank() const { return comm_.rank() == 0; }

  // Ending.
  void finish(stages::Outputs& outputs);
  void tell_end();

  stages::StageContext& context_;
  comm::Communicator& comm_;
  const Settings settings_;
  std::unique_ptr<Grid> grid_;
  Lanes lanes_;
  DataConfig data_config_;
  core::MemoryLedger ledger_;
  core::Arena device_;
  core::Arena host_;
  std::unique_ptr<core::Stream> stream_;
  std::unique_ptr<data::Dataset> dataset_;
  std::unique_ptr<telemetry::Profile> profile_;
  std::unique_ptr<Trainer> trainer_;
  std::unique_ptr<checkpoint::Saver> saver_;
  std::unique_ptr<data::Prefetcher> prefetcher_;
  std::optional<telemetry::TrainMetrics> metrics_;  ///< on rank 0
  std::optional<telemetry::EventFile> events_;      ///< on rank 0
  Pace pace_;                                       ///< as rank 0 knows it
  telemetry::MemoryPeaks peaks_;                    ///< of all ranks
  nlohmann::json model_json_;                       ///< config.json
  std::string origin_;                              ///< what the training began from, for messages

  std::int64_t steps_ = 0;                 ///< of the whole training
  std::int64_t end_ = 0;                   ///< the last step of this job
  std::int64_t step_ = 0;                  ///< finished
  std::int64_t tokens_ = 0;                ///< trained on
  std::uint64_t next_sequence_ = 0;        ///< of the data
  std::int64_t saved_step_ = -1;           ///< of the last checkpoint of this attempt, or that it began from
  std::optional<double> validation_loss_;  ///< the last
  std::optional<double> best_loss_;        ///< the least validation loss
  int rollbacks_ = 0;                      ///< to the same checkpoint, one after another
};

}  // namespace braise::train
