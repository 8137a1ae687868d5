// SPDX-License-Identifier: Apache-2.0
#include "runner/recipe/draw.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "kernels/core/portable_math.h"
#include "kernels/core/random.h"

namespace braise::recipe {
namespace {

using yaml::Node;

double number(const Node& node) {
  return node.to_json().get<double>();
}

/// One of `count` numbers from 0, each as likely up to 2^-53 count.
std::uint64_t index_of(double fraction, double count) {
  return static_cast<std::uint64_t>(std::min(std::floor(fraction * count), count - 1));
}

/// As a person would write it. Rounding may lead out of the bounds: then the bound itself.
Node rounded(double value, const Node& low, const Node& high) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.6g", value);
  const double written = std::strtod(text.data(), nullptr);
  if (written < number(low)) return low;
  return written > number(high) ? high : Node::scalar(text.data(), false, low.mark());
}

}  // namespace

std::optional<Distribution> Distribution::from_node(const Node& map, std::string& problem, std::string& remedy) {
  if (map.entries().size() != 1) {
    problem = "is drawn from several distributions";
    remedy = "give one of them";
    return std::nullopt;
  }
  const Node::Entry& entry = map.entries().front();
  Distribution distribution;
  distribution.values = entry.value.items();
  if (entry.key == "choice") {
    distribution.kind = Kind::choice;
    if (!distribution.values.empty()) return distribution;
    problem = "has no values to choose from";
    remedy = "give some";
    return std::nullopt;
  }
  distribution.kind = entry.key == "uniform"       ? Kind::uniform
                      : entry.key == "log_uniform" ? Kind::log_uniform
                                                   : Kind::integer;
  const bool two = distribution.values.size() == 2;
  if (!two || number(distribution.values[0]) >= number(distribution.values[1])) {
    problem = "has no lower and higher bound";
    remedy = "give `" + entry.key + ": [lowest, highest]`";
    return std::nullopt;
  }
  if (distribution.kind == Kind::log_uniform && number(distribution.values[0]) <= 0) {
    problem = "begins at " + distribution.values[0].text();
    remedy = "the bounds of `log_uniform` must be above 0";
    return std::nullopt;
  }
  return distribution;
}

Node draw(const Distribution& distribution, std::uint64_t seed, const std::string& path, std::uint64_t sample) {
  const core::RandomStream stream(seed, core::Purpose::kSweep, core::name_hash(path));
  const std::array<std::uint32_t, 4> words = stream.block(sample);
  const std::uint64_t bits = (std::uint64_t{words[1]} << 32 | words[0]) >> 11;
  const double fraction = static_cast<double>(bits) * 0x1p-53;  // in [0, 1)
  const std::vector<Node>& values = distribution.values;
  if (distribution.kind == Distribution::Kind::choice) {
    return values[index_of(fraction, static_cast<double>(values.size()))];
  }
  const double low = number(values[0]), high = number(values[1]);
  switch (distribution.kind) {
    case Distribution::Kind::integer: {
      const auto drawn = static_cast<std::int64_t>(low) + static_cast<std::int64_t>(index_of(fraction, high - low + 1));
      return Node::scalar(std::to_string(drawn), false, values[0].mark());
    }
    case Distribution::Kind::log_uniform: {
      const double from = core::portable::log(low), to = core::portable::log(high);
      return rounded(core::portable::exp(from + (to - from) * fraction), values[0], values[1]);
    }
    default:
      return rounded(low + (high - low) * fraction, values[0], values[1]);
  }
}

}  // namespace braise::recipe
