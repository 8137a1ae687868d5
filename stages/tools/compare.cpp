// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "kernels/core/error.h"
#include "stages/shared/checkpoint/checkpoint.h"
#include "stages/shared/checkpoint/digest.h"
#include "stages/shared/telemetry/metrics_lines.h"
#include "stages/tools/target.h"
#include "stages/tools/tools.h"
#include "stages/tools/values.h"

namespace braise::tools {
namespace {
namespace fs = std::filesystem;

/// The bits of losses, by step.
using Losses = std::map<std::int64_t, std::uint64_t>;

Losses losses_of(std::vector<fs::path> latest_first) {
  std::ranges::reverse(latest_first);
  Losses losses;
  for (const telemetry::StepLoss& loss : telemetry::read_losses(latest_first)) {
    losses[loss.step] = std::bit_cast<std::uint64_t>(loss.loss);
  }
  return losses;
}

std::string loss_text(std::uint64_t bits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.17g (%016llx)", std::bit_cast<double>(bits),
                static_cast<unsigned long long>(bits));
  return text;
}

/// How far apart two numbers are, in representable numbers between them: of a dtype's own.
double ulps(core::Dtype dtype, std::span<const std::byte> a, std::span<const std::byte> b, std::size_t index) {
  const auto ordered = [&](std::span<const std::byte> bytes) {
    const std::size_t size = static_cast<std::size_t>(core::bits(dtype) / 8);
    std::uint32_t word = 0;
    std::memcpy(&word, bytes.data() + index * size, size);
    const std::uint32_t sign = 1u << (core::bits(dtype) - 1);
    const auto magnitude = static_cast<std::int64_t>(word & (sign - 1));
    return (word & sign) != 0 ? -magnitude : magnitude;
  };
  return static_cast<double>(std::abs(ordered(a) - ordered(b)));
}

/// Prints how two tensors of equal dtype and shape differ, element by element.
void print_difference(const checkpoint::Checkpoint& a, const checkpoint::Checkpoint& b, const std::string& path) {
  const checkpoint::TensorInfo& info = a.tensor(path);
  const auto size = static_cast<std::size_t>(core::bits(info.dtype) / 8);
  const std::int64_t elements = info.shape.elements();
  std::vector<std::byte> from_a, from_b;
  std::int64_t first = -1, different = 0;
  double first_a = 0, first_b = 0, most = 0, most_ulps = 0;
  for (std::int64_t begin = 0; begin < elements; begin += checkpoint::kChunkElements) {
    const std::int64_t count = std::min(checkpoint::kChunkElements, elements - begin);
    for (auto [checkpoint, bytes] : {std::pair(&a, &from_a), std::pair(&b, &from_b)}) {
      bytes->resize(static_cast<std::size_t>(count) * size);
      checkpoint->read(path, begin, core::TensorView(bytes->data(), info.dtype, {count}));
    }
    for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
      if (std::memcmp(from_a.data() + i * size, from_b.data() + i * size, size) == 0) continue;
      const double value_a = value_at(info.dtype, from_a, i), value_b = value_at(info.dtype, from_b, i);
      if (different++ == 0) {
        first = begin + static_cast<std::int64_t>(i);
        first_a = value_a;
        first_b = value_b;
      }
      most = std::fmax(most, std::abs(value_a - value_b));
      if (core::is_float(info.dtype)) most_ulps = std::fmax(most_ulps, ulps(info.dtype, from_a, from_b, i));
    }
  }
  std::printf("  %s: %lld of %lld elements differ, the first is element %lld (%.9g, %.9g); at most by %.9g",
              path.c_str(), static_cast<long long>(different), static_cast<long long>(elements),
              static_cast<long long>(first), first_a, first_b, most);
  if (core::is_float(info.dtype)) std::printf(", %.0f ulp", most_ulps);
  std::printf("\n");
}

std::string type_text(const checkpoint::TensorInfo& info) {
  return std::string(core::name(info.dtype)) + "[" + info.shape.text() + "]";
}

/// Prints the first tensor that differs, in the order of paths: false where there is one.
bool same_tensors(const checkpoint::Checkpoint& a, const checkpoint::Checkpoint& b) {
  std::map<std::string, std::pair<const checkpoint::TensorInfo*, const checkpoint::TensorInfo*>> both;
  for (const checkpoint::TensorInfo& info : a.tensors()) both[info.path].first = &info;
  for (const checkpoint::TensorInfo& info : b.tensors()) both[info.path].second = &info;
  std::size_t different = 0;
  for (const auto& [path, infos] : both) {
    const auto [of_a, of_b] = infos;
    if (of_a != nullptr && of_b != nullptr && of_a->dtype == of_b->dtype && of_a->shape == of_b->shape &&
        of_a->digest == of_b->digest) {
      continue;
    }
    if (different++ > 0) continue;
    if (of_a == nullptr || of_b == nullptr) {
      std::printf("  %s is only in %s\n", path.c_str(), (of_a != nullptr ? a : b).folder().c_str());
    } else if (of_a->dtype != of_b->dtype || of_a->shape != of_b->shape) {
      std::printf("  %s: %s against %s\n", path.c_str(), type_text(*of_a).c_str(), type_text(*of_b).c_str());
    } else {
      try {
        print_difference(a, b, path);
      } catch (const core::Error& error) {
        std::printf("  %s differs; by how much cannot be told: %s\n", path.c_str(), error.what());
      }
    }
  }
  if (different > 1) std::printf("  and %zu more tensors differ\n", different - 1);
  return different == 0;
}

int compare_checkpoints(const fs::path& path_a, const fs::path& path_b) {
  const checkpoint::Checkpoint a(path_a), b(path_b);
  if (a.step() != b.step()) {
    std::printf("different steps: %lld against %lld\n", static_cast<long long>(a.step()),
                static_cast<long long>(b.step()));
    same_tensors(a, b);
    return kBad;
  }
  std::printf("step %lld\n", static_cast<long long>(a.step()));
  if (!same_tensors(a, b)) return kBad;
  std::printf("identical: %zu tensors, weights digest %s\n", a.tensors().size(), a.weights_digest().c_str());
  return kSuccess;
}

/// The checkpoints of a lineage by step, the one that counts of each.
std::map<std::int64_t, fs::path> checkpoints_of(const std::vector<fs::path>& attempts) {
  std::map<std::int64_t, fs::path> found;
  for (const checkpoint::Candidate& candidate : checkpoint::find_checkpoints(attempts))
    found.emplace(candidate.step, candidate.folder);
  return found;
}

int compare_jobs(const fs::path& name_a, const std::vector<fs::path>& a, const fs::path& name_b,
                 const std::vector<fs::path>& b, std::optional<std::int64_t> through_step) {
  Losses losses_a = losses_of(a), losses_b = losses_of(b);
  std::map<std::int64_t, fs::path> saved_a = checkpoints_of(a), saved_b = checkpoints_of(b);
  if (losses_a.empty() && losses_b.empty() && (saved_a.empty() || saved_b.empty()))
    throw BadInput("there is neither a loss nor a checkpoint in both to compare");
  if (through_step) {
    for (Losses* losses : {&losses_a, &losses_b}) losses->erase(losses->upper_bound(*through_step), losses->end());
    for (auto* saved : {&saved_a, &saved_b}) saved->erase(saved->upper_bound(*through_step), saved->end());
    if (losses_a.empty() || losses_b.empty()) losses_a = losses_b = {};
  }
  int result = kSuccess;
  std::int64_t through = 0;
  auto at_a = losses_a.begin();
  auto at_b = losses_b.begin();
  for (; at_a != losses_a.end() && at_b != losses_b.end(); ++at_a, ++at_b) {
    if (*at_a != *at_b) break;
    through = at_a->first;
  }
  if (at_a != losses_a.end() && at_b != losses_b.end() && at_a->first == at_b->first) {
    std::printf("the losses differ from step %lld on: %s against %s\n", static_cast<long long>(at_a->first),
                loss_text(at_a->second).c_str(), loss_text(at_b->second).c_str());
    result = kBad;
  } else if (at_a != losses_a.end() || at_b != losses_b.end()) {
    const bool a_goes_on = at_a != losses_a.end() && (at_b == losses_b.end() || at_a->first < at_b->first);
    std::printf("the losses are identical through step %lld; step %lld is only in %s\n",
                static_cast<long long>(through), static_cast<long long>((a_goes_on ? at_a : at_b)->first),
                (a_goes_on ? name_a : name_b).c_str());
    result = kBad;
  }

  std::size_t common = 0;
  for (const auto& [step, folder] : saved_a) {
    const auto other = saved_b.find(step);
    if (other == saved_b.end()) continue;
    ++common;
    const checkpoint::Checkpoint of_a(folder, checkpoint::Needs::kManifest);
    const checkpoint::Checkpoint of_b(other->second, checkpoint::Needs::kManifest);
    if (of_a.weights_digest() == of_b.weights_digest() &&
        std::ranges::equal(of_a.tensors(), of_b.tensors(), {}, &checkpoint::TensorInfo::digest,
                           &checkpoint::TensorInfo::digest))
      continue;
    std::printf("the checkpoints differ at step %lld:\n", static_cast<long long>(step));
    same_tensors(of_a, of_b);
    return kBad;
  }
  if (result == kSuccess) {
    if (common > 0)
      through = std::max(through, [&] {
        std::int64_t last = 0;
        for (const auto& [step, folder] : saved_a) {
          if (saved_b.contains(step)) last = step;
        }
        return last;
      }());
    std::printf("identical through step %lld: %zu %s, the checkpoints of %zu %s\n", static_cast<long long>(through),
                losses_a.size(), losses_a.size() == 1 ? "loss" : "losses", common, common == 1 ? "step" : "steps");
  }
  return result;
}

}  // namespace

int compare(const fs::path& a, const fs::path& b, std::optional<std::int64_t> through_step) {
  const auto attempts_or_checkpoint = [](const fs::path& path) {
    if (!fs::exists(path)) throw BadInput("there is no " + path.string());
    return fs::is_directory(path) ? attempts_at(path) : std::vector<fs::path>();
  };
  const std::vector<fs::path> attempts_a = attempts_or_checkpoint(a), attempts_b = attempts_or_checkpoint(b);
  if (!attempts_a.empty() && !attempts_b.empty()) return compare_jobs(a, attempts_a, b, attempts_b, through_step);
  const Target target_a = find_target(a), target_b = find_target(b);
  for (const auto& [target, path] : {std::pair(target_a, a), std::pair(target_b, b)}) {
    if (target.kind != TargetKind::kCheckpoint)
      throw BadInput(path.string() + " is no checkpoint, run, job or attempt");
  }
  return compare_checkpoints(target_a.path, target_b.path);
}

}  // namespace braise::tools
