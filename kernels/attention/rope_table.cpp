// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/attention/rope.h"
#include "kernels/core/copy.h"
#include "kernels/core/parallel.h"
#include "kernels/core/portable_math.h"

namespace braise::attention {
namespace {

namespace portable = core::portable;
constexpr const char* kName = "rope_frequencies";
constexpr std::int64_t kMostPositions = std::int64_t{1} << 20;  // as far as portable::sin_cos goes

void require(bool holds, const char* what) {
  core::require(holds, kName, what);
}

std::vector<double> plain_frequencies(std::int64_t rotary, double base) {
  std::vector<double> radians;
  for (std::int64_t i = 0; i < rotary; i += 2) {
    radians.push_back(1.0 / portable::pow(base, static_cast<double>(i) / static_cast<double>(rotary)));
  }
  return radians;
}

RopeFrequencies scaled(const RopeSettings& settings, std::int64_t, const std::monostate&) {
  return {plain_frequencies(settings.rotary, settings.base), 1.0};
}

RopeFrequencies scaled(const RopeSettings& settings, std::int64_t, const LinearScaling& scaling) {
  require(scaling.factor >= 1, "factor is below 1");
  RopeFrequencies result{plain_frequencies(settings.rotary, settings.base), 1.0};
  for (double& radians : result.radians) radians /= scaling.factor;
  return result;
}

RopeFrequencies scaled(const RopeSettings& settings, std::int64_t positions, const DynamicNtkScaling& scaling) {
  require(scaling.factor >= 1, "factor is below 1");
  require(scaling.original_positions > 0, "original_positions is not positive");
  require(settings.rotary != 2, "dynamic scaling of two channels stretches nothing");
  const double length = static_cast<double>(std::max(positions, scaling.original_positions)) /
                        static_cast<double>(scaling.original_positions);
  const double stretch = scaling.factor * length - (scaling.factor - 1);
  const auto rotary = static_cast<double>(settings.rotary);
  return {plain_frequencies(settings.rotary, settings.base * portable::pow(stretch, rotary / (rotary - 2))), 1.0};
}

RopeFrequencies scaled(const RopeSettings& settings, std::int64_t, const YarnScaling& scaling) {
  require(scaling.factor >= 1, "factor is below 1");
  require(scaling.original_positions > 0, "original_positions is not positive");
  require(scaling.beta_slow > 0 && scaling.beta_fast >= scaling.beta_slow,
          "beta_fast is below beta_slow, or not positive");
  const auto rotary = static_cast<double>(settings.rotary);
  // The pair, as a fraction, that turns so many times over the original positions.
  const auto pair_turning = [&](double turns) {
    const double ratio = static_cast<double>(scaling.original_positions) / (turns * 2 * std::numbers::pi);
    return rotary * portable::log(ratio) / (2 * portable::log(settings.base));
  };
  double low = pair_turning(scaling.beta_fast);
  double high = pair_turning(scaling.beta_slow);
  if (scaling.whole_channels) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, rotary - 1);
  if (low == high) high += 0.001;  // a step instead of a ramp
  RopeFrequencies result{plain_frequencies(settings.rotary, settings.base), 1.0};
  for (std::size_t i = 0; i < result.radians.size(); ++i) {
    const double stretched = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    result.radians[i] = result.radians[i] / scaling.factor * stretched + result.radians[i] * (1 - stretched);
  }
  const auto m = [&](double scale) { return 1 + 0.1 * scale * portable::log(scaling.factor); };
  result.attention_factor = scaling.attention_factor               ? *scaling.attention_factor
                            : scaling.mscale && scaling.mscale_all ? m(*scaling.mscale) / m(*scaling.mscale_all)
                                                                   : m(1);
  return result;
}

RopeFrequencies scaled(const RopeSettings& settings, std::int64_t, const Llama3Scaling& scaling) {
  require(scaling.factor >= 1, "factor is below 1");
  require(scaling.original_positions > 0, "original_positions is not positive");
  require(scaling.low_frequency_factor > 0 && scaling.high_frequency_factor > scaling.low_frequency_factor,
          "high_frequency_factor is not above low_frequency_factor, or that not positive");
  RopeFrequencies result{plain_frequencies(settings.rotary, settings.base), 1.0};
  for (double& radians : result.radians) {
    const double turns = static_cast<double>(scaling.original_positions) * radians / (2 * std::numbers::pi);
    const double kept =
        (turns - scaling.low_frequency_factor) / (scaling.high_frequency_factor - scaling.low_frequency_factor);
    const double share = std::clamp(kept, 0.0, 1.0);
    radians = (1 - share) * radians / scaling.factor + share * radians;
  }
  return result;
}

}  // namespace

RopeFrequencies rope_frequencies(const RopeSettings& settings, std::int64_t positions) {
  require(settings.rotary >= 0 && settings.rotary % 2 == 0, "rotary is odd or negative");
  require(settings.base > 1 && std::isfinite(settings.base), "base is not above 1");
  return std::visit([&](const auto& scaling) { return scaled(settings, positions, scaling); }, settings.scaling);
}

RopeTable make_rope_table(core::Stream& stream, const RopeSettings& settings, std::int64_t positions) {
  core::require(positions >= 0 && positions <= kMostPositions, "make_rope_table", "positions is not in [0, 2^20]");
  const RopeFrequencies frequencies = rope_frequencies(settings, positions);
  const auto pairs = static_cast<std::int64_t>(frequencies.radians.size());
  const core::Shape shape{positions, pairs};
  std::vector<float> cos(static_cast<std::size_t>(shape.elements()));
  std::vector<float> sin(cos.size());
  core::parallel_for(positions, [&](std::int64_t position) {
    for (std::int64_t i = 0; i < pairs; ++i) {
      const double radians = frequencies.radians[static_cast<std::size_t>(i)];
      const auto turned = portable::sin_cos(static_cast<double>(position) * radians);
      const auto at = static_cast<std::size_t>(position * pairs + i);
      cos[at] = static_cast<float>(turned.cos * frequencies.attention_factor);
      sin[at] = static_cast<float>(turned.sin * frequencies.attention_factor);
    }
  });
  const auto tensor_of = [&](const std::vector<float>& values) {
    core::Tensor tensor = stream.arena().tensor(core::Dtype::kFloat32, shape, core::Category::kWorkspace, "rope");
    core::copy(stream, tensor.view, core::ConstTensorView(values.data(), core::Dtype::kFloat32, shape));
    return tensor;
  };
  RopeTable table{tensor_of(cos), tensor_of(sin)};
  stream.synchronize();  // the vectors go
  return table;
}

}  // namespace braise::attention
