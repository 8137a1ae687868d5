// SPDX-License-Identifier: Apache-2.0
#include "stages/check/work.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <thread>

#include "kernels/comm/communicator.h"
#include "kernels/core/error.h"
#include "stages/check/exchange.h"
#include "stages/check/machine.h"
#include "stages/check/memory.h"
#include "stages/check/node.h"
#include "stages/shared/io/clock.h"
#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"
#include "stages/shared/io/host.h"
#include "stages/shared/machine/gemm.h"

namespace braise::check {
namespace {

using Clock = std::chrono::steady_clock;

constexpr char kMachineFile[] = "artifacts/machine.json";
constexpr int kMachineFormat = 1;
constexpr int kMeasurements = 6;

// How long ranks measure between two agreements.
constexpr double kSliceSeconds = 0.25;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// What a measurement has counted and how long that took: on this rank alone.
struct Count {
  double amount = 0;
  double seconds = 0;
  double rate() const { return amount / seconds; }
};

class Check {
 public:
  explicit Check(stages::StageContext& context)
      : context_(context), comm_(context.comm()), config_(context.job().config), duration_s_(config_.at("duration")) {}

  stages::Ending run(stages::Outputs& outputs);

 private:
  void verify_node();
  bool measure_network();
  bool measure_memory();
  bool measure_gemm();
  std::optional<Count> measure(const std::string& name, bool collective, const std::function<double()>& action);
  void finish_measurement(const std::string& name, const nlohmann::json& value);
  void write_machine(stages::Outputs& outputs);

  stages::StageContext& context_;
  comm::Communicator& comm_;
  const nlohmann::json& config_;
  const double duration_s_;
  int finished_ = 0;
  nlohmann::json mine_;     ///< this rank's results
  nlohmann::json network_;  ///< the job's
};

/// Repeats `action`, which gives how much it did, for the duration; nothing where a stop was asked for. A `collective`
/// action is repeated equally often on every rank.
std::optional<Count> Check::measure(const std::string& name, bool collective, const std::function<double()>& action) {
  context_.operation("measure " + name);
  action();  // warms caches, connections and generated code
  Count count;
  std::int64_t batch = 1;
  for (;;) {
    comm_.barrier();
    const Clock::time_point start = Clock::now();
    const double left_s = std::min(kSliceSeconds, duration_s_ - count.seconds);
    if (collective) {
      for (std::int64_t i = 0; i < batch; ++i) count.amount += action();
    } else {
      do {
        count.amount += action();
      } while (seconds_since(start) < left_s);
    }
    const double slice_s = seconds_since(start);
    count.seconds += slice_s;
    context_.operation("wait for the other ranks after measuring " + name);
    // Agreed, in nanoseconds, so that all ranks take the same decisions.
    const double slowest_s = static_cast<double>(comm_.all_max(static_cast<std::int64_t>(slice_s * 1e9))) * 1e-9;
    const double most_left_s =
        static_cast<double>(comm_.all_max(static_cast<std::int64_t>((duration_s_ - count.seconds) * 1e9))) * 1e-9;
    if (context_.poll_request(0) == stages::Request::stop) return std::nullopt;
    if (most_left_s <= 0) return count;
    // As many as fit the next slice; at most ten times as many as now, as one slice alone may mislead.
    const double fits = static_cast<double>(batch) * std::min(kSliceSeconds, most_left_s) / std::max(slowest_s, 1e-9);
    batch = std::max<std::int64_t>(1, static_cast<std::int64_t>(std::min(fits, 10.0 * static_cast<double>(batch))));
    context_.operation("measure " + name);
  }
}

void Check::finish_measurement(const std::string& name, const nlohmann::json& value) {
  ++finished_;
  if (value.is_null()) {
    context_.log(name + ": not supported");
    context_.metric({{"step", finished_}, {"steps", kMeasurements}});
  } else {
    context_.log(name + ": " + value.dump());
    context_.metric({{"step", finished_}, {"steps", kMeasurements}, {"values", {{name, value}}}});
  }
}

/// Looks at what a node must have before anything is measured on it. Every rank for itself; collective.
void Check::verify_node() {
  context_.operation("wait for the other ranks' nodes");
  const std::string node = io::node_name();
  const std::vector<std::string> nodes = comm_.all_gather(node);
  const auto workers = static_cast<int>(std::count(nodes.begin(), nodes.end(), node));
  const auto all = [&](const char* key) {
    return config_.at(key).get<std::uint64_t>() * static_cast<unsigned>(workers);
  };
  context_.operation("look at the memory and the scratch folder");
  if (const std::uint64_t needed = all("free_memory"); needed > 0) verify_memory(needed, workers);
  const std::uint64_t written = config_.at("scratch_size");
  if (const std::uint64_t needed = all("free_disk") + all("scratch_size"); needed > 0) {
    verify_room(context_.scratch_dir(), needed, workers);
  }
  if (written > 0) verify_disk(context_.scratch_dir(), written, comm_.rank());
  context_.log("node " + node + ": " + std::to_string(written) + " bytes went to " + context_.scratch_dir().string() +
               " and back");
}

bool Check::measure_network() {
  const std::optional<Count> barrier = measure("barrier", true, [this] {
    comm_.barrier();
    return 1.0;
  });
  if (!barrier) return false;
  const bool alone = comm_.size() == 1;
  network_["barrier_s"] = alone ? nlohmann::json() : nlohmann::json(barrier->seconds / barrier->amount);
  finish_measurement("barrier_s", network_["barrier_s"]);

  const std::size_t message_bytes = config_.at("message_size");
  const double others = comm_.size() - 1;
  Exchange exchange(comm_, message_bytes);
  context_.operation("verify the exchange of all ranks with all");
  exchange.verify(0);
  const std::optional<Count> all_to_all = measure("all_to_all", true, [&] {
    exchange.run();
    return static_cast<double>(message_bytes) * others * comm_.size();
  });
  if (!all_to_all) return false;
  context_.operation("verify the exchange of all ranks with all once more");
  exchange.verify(1);
  network_["message_bytes"] = message_bytes;
  network_["all_to_all_bytes_per_s"] = alone ? nlohmann::json() : nlohmann::json(all_to_all->rate());
  finish_measurement("all_to_all_bytes_per_s", network_["all_to_all_bytes_per_s"]);
  return true;
}

bool Check::measure_memory() {
  context_.operation("touch the memory");
  MemoryArray array(config_.at("memory_size"));
  const std::optional<Count> read = measure("memory_read", false, [&] { return static_cast<double>(array.read()); });
  if (!read) return false;
  mine_["memory_read_bytes_per_s"] = read->rate();
  finish_measurement("memory_read_bytes_per_s", mine_["memory_read_bytes_per_s"]);
  const std::optional<Count> copy = measure("memory_copy", false, [&] { return static_cast<double>(array.copy()); });
  if (!copy) return false;
  mine_["memory_copy_bytes_per_s"] = copy->rate();
  finish_measurement("memory_copy_bytes_per_s", mine_["memory_copy_bytes_per_s"]);
  return true;
}

bool Check::measure_gemm() {
  const int side = config_.at("gemm_size");
  const auto measure_precision = [&](const char* key, machine::Gemm::Precision precision) {
    mine_[key] = nullptr;
    const bool supported = machine::Gemm::supports(precision);
    // Hosts may differ, but a measurement is taken part in by all ranks or none: those without support sit idle.
    if (comm_.all_max(supported ? 1 : 0) == 1) {
      context_.operation(std::string("prepare ") + key);
      const std::unique_ptr<machine::Gemm> gemm =
          supported ? std::make_unique<machine::Gemm>(side, precision) : nullptr;
      const std::optional<Count> count = measure(key, false, [&] {
        if (gemm) return gemm->run();
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        return 0.0;
      });
      if (!count) return false;
      if (supported) mine_[key] = count->rate();
    }
    finish_measurement(key, mine_[key]);
    return true;
  };
  return measure_precision("gemm_fp32_flops", machine::Gemm::Precision::fp32) &&
         measure_precision("gemm_bf16_flops", machine::Gemm::Precision::bf16);
}

/// Collective; rank 0 writes.
void Check::write_machine(stages::Outputs& outputs) {
  const nlohmann::json host = describe_host();
  mine_["rank"] = comm_.rank();
  mine_["host"] = host.at("host");
  context_.operation("wait for the other ranks' results");
  nlohmann::json hosts = nlohmann::json::array(), ranks = nlohmann::json::array();
  std::set<std::string> seen;
  for (const std::string& text : comm_.all_gather(nlohmann::json{{"host", host}, {"rank", mine_}}.dump())) {
    const nlohmann::json theirs = nlohmann::json::parse(text);
    if (seen.insert(theirs.at("host").at("host")).second) hosts.push_back(theirs.at("host"));
    ranks.push_back(theirs.at("rank"));
  }
  if (comm_.rank() != 0) return;
  const nlohmann::json machine = {{"machine", kMachineFormat},
                                  {"time", io::format_utc(io::utc_us())},
                                  {"braise", context_.job().braise_version},
                                  {"threads_per_rank", context_.job().resources.threads},
                                  {"hosts", hosts},
                                  {"ranks", ranks},
                                  {"network", network_}};
  const std::filesystem::path path = context_.attempt_dir() / kMachineFile;
  io::create_directories_durably(path.parent_path());
  io::write_file_durably(path, machine.dump(2) + "\n");
  const io::FileDigest digest = io::digest_file(path);
  outputs["machine"].files.push_back({kMachineFile, digest.bytes, digest.sha256});
}

stages::Ending Check::run(stages::Outputs& outputs) {
  verify_node();
  if (!measure_network() || !measure_memory() || !measure_gemm()) {
    context_.log("stopping as asked");
    return stages::Ending::stopped;
  }
  write_machine(outputs);
  return stages::Ending::completed;
}

}  // namespace

stages::Ending run(stages::StageContext& context, stages::Outputs& outputs) {
  return Check(context).run(outputs);
}

}  // namespace braise::check
