// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/model/part.h"

#include <algorithm>
#include <map>
#include <utility>

namespace braise::model {
namespace {

using core::Shape;

/// Part `index` of `count` of [0, size).
Extent even(std::int64_t size, std::int64_t index, std::int64_t count) {
  return {size * index / count, size * (index + 1) / count};
}

Extent moved(const Extent& extent, std::int64_t by) {
  return {extent.begin + by, extent.end + by};
}

Extent times(const Extent& extent, std::int64_t factor) {
  return {extent.begin * factor, extent.end * factor};
}

std::int64_t total(const std::vector<Extent>& extents) {
  std::int64_t size = 0;
  for (const Extent& extent : extents) size += extent.size();
  return size;
}

/// Those parts of `wanted` that lie in [begin, end), counted from begin.
std::vector<Extent> within(const std::vector<Extent>& wanted, std::int64_t begin, std::int64_t end) {
  std::vector<Extent> found;
  for (const Extent& extent : wanted) {
    const Extent inside{std::max(extent.begin, begin) - begin, std::min(extent.end, end) - begin};
    if (inside.begin < inside.end) found.push_back(inside);
  }
  return found;
}

/// The one of a dimension's numbers up to the width that go with it: "1, 2 or 3".
std::string widths(const std::function<bool(std::int64_t)>& fits, std::int64_t most) {
  std::vector<std::int64_t> good;
  for (std::int64_t width = 1; width <= most; ++width) {
    if (fits(width)) good.push_back(width);
  }
  std::string text;
  for (std::size_t i = 0; i < good.size(); ++i) {
    text += (i == 0 ? "" : i + 1 == good.size() ? " or " : ", ") + std::to_string(good[i]);
  }
  return "take " + text;
}

bool kv_fits(const Config& config, std::int64_t width) {
  return config.kv_heads % width == 0 || width % config.kv_heads == 0;
}

/// How a parameter is cut: which outputs and inputs of a product, or which rows.
class Cutter {
 public:
  Cutter(const Config& config, const Part& part) : config_(config), shares_(shares_of(config, part)) {
    const std::int64_t d = config.head_size;
    const std::int64_t q = config.heads * d;
    const std::int64_t kv = config.kv_heads * d;
    heads_ = times(shares_.heads, d);
    qkv_ = {heads_, moved(times(shares_.kv_heads, d), q), moved(times(shares_.kv_heads, d), q + kv)};
    if (config.qkv_by_head) qkv_ = {times(heads_, 3)};
    up_ = {shares_.intermediate};
    if (config.gated) up_.push_back(moved(shares_.intermediate, config.intermediate));
  }

  Cut cut(const ParameterSpec& spec) const {
    switch (spec.role) {
      case Role::kTokens:
      case Role::kHead:
        return rows(spec, {shares_.vocabulary});
      case Role::kQkvWeight:
      case Role::kQkvBias:
        return outputs(spec, qkv_);
      case Role::kUpWeight:
      case Role::kUpBias:
        return outputs(spec, up_);
      case Role::kOWeight:
        return inputs(spec, heads_);
      case Role::kDownWeight:
        return inputs(spec, shares_.intermediate);
      default:
        return rows(spec, {{0, spec.shape[0]}});
    }
  }

 private:
  bool outputs_first() const { return config_.family != Family::kGpt2; }

  static Cut rows(const ParameterSpec& spec, std::vector<Extent> rows) {
    Cut cut{spec.shape, std::move(rows), {}};
    if (spec.shape.rank() == 2) cut.columns = {{0, spec.shape[1]}};
    return cut;
  }

  static Cut columns(const ParameterSpec& spec, std::vector<Extent> columns) {
    return {spec.shape, {{0, spec.shape[0]}}, std::move(columns)};
  }

  /// `wanted` counts the outputs of all parameters of the product, of which this one has some.
  Cut outputs(const ParameterSpec& spec, const std::vector<Extent>& wanted) const {
    const bool matrix = spec.shape.rank() == 2;
    if (matrix && !outputs_first()) return columns(spec, within(wanted, 0, spec.shape[1]));
    const std::int64_t first = spec.offset / (matrix ? spec.shape[1] : 1);
    return rows(spec, within(wanted, first, first + spec.shape[0]));
  }

  Cut inputs(const ParameterSpec& spec, const Extent& wanted) const {
    return outputs_first() ? columns(spec, {wanted}) : rows(spec, {wanted});
  }

  const Config& config_;
  const Shares shares_;
  Extent heads_;
  std::vector<Extent> qkv_, up_;
};

}  // namespace

Part whole_of(const Config& config) {
  return {0, 1, {0, config.layers}};
}

Part part_of(const Config& config, int tensor, int tensor_width, int stage, int stages) {
  const auto first = [&](std::int64_t s) { return (config.layers * s + stages - 1) / stages; };
  return {tensor, tensor_width, {first(stage), first(stage + 1)}};
}

std::vector<SplitProblem> split_problems(const Config& config, int tensor_width, int stages) {
  std::vector<SplitProblem> problems;
  const std::int64_t width = tensor_width;
  const auto fault = [&](const std::string& problem, const std::function<bool(std::int64_t)>& fits) {
    problems.push_back({"tensor", "is " + std::to_string(width) + ", " + problem, widths(fits, width)});
  };
  if (width > 1 && config.qk_norm_whole) {
    problems.push_back({"tensor",
                        "is " + std::to_string(width) +
                            ", but the norms of q and k go over all heads together, which "
                            "no rank would have",
                        "take 1"});
    return problems;
  }
  const auto all = [&](std::int64_t w) {
    return config.heads % w == 0 && kv_fits(config, w) && config.intermediate % w == 0 && config.vocabulary >= w;
  };
  if (config.heads % width != 0) {
    fault("which does not divide the " + std::to_string(config.heads) + " heads", all);
  } else if (!kv_fits(config, width)) {
    fault("which neither divides the " + std::to_string(config.kv_heads) +
              " heads of keys and values nor is a multiple of them",
          all);
  }
  if (config.fused && config.kv_heads < width) {
    problems.push_back({"tensor",
                        "is " + std::to_string(width) + ", more than the " + std::to_string(config.kv_heads) +
                            " heads of keys and values, which are one parameter with the queries",
                        "take at most " + std::to_string(config.kv_heads)});
  }
  if (config.intermediate % width != 0) {
    fault("which does not divide the feed-forward width of " + std::to_string(config.intermediate), all);
  }
  if (config.vocabulary < width) {
    fault("more than the " + std::to_string(config.vocabulary) + " tokens of the vocabulary", all);
  }
  if (stages > config.layers) {
    problems.push_back({"pipeline",
                        "is " + std::to_string(stages) + ", more than the " + std::to_string(config.layers) + " layers",
                        "take at most " + std::to_string(config.layers)});
  }
  return problems;
}

Shares shares_of(const Config& config, const Part& part) {
  Shares shares;
  shares.vocabulary = even(config.vocabulary, part.tensor, part.tensor_width);
  shares.heads = even(config.heads, part.tensor, part.tensor_width);
  shares.intermediate = even(config.intermediate, part.tensor, part.tensor_width);
  if (part.tensor_width > config.kv_heads) {
    shares.kv_copies = part.tensor_width / static_cast<int>(config.kv_heads);
    const std::int64_t head = part.tensor / shares.kv_copies;
    shares.kv_heads = {head, head + 1};
  } else {
    shares.kv_heads = even(config.kv_heads, part.tensor, part.tensor_width);
  }
  return shares;
}

Shape Cut::shape() const {
  return logical.rank() == 1 ? Shape{total(rows)} : Shape{total(rows), total(columns)};
}

bool Cut::whole() const {
  return shape() == logical;
}

void Cut::for_each_run(const std::function<void(std::int64_t, std::int64_t, std::int64_t)>& visit) const {
  const std::int64_t width = logical.rank() == 1 ? 1 : logical[1];
  const std::vector<Extent> all{{0, 1}};
  std::int64_t local = 0, first = 0, length = 0;
  for (const Extent& of_rows : rows) {
    for (std::int64_t row = of_rows.begin; row < of_rows.end; ++row) {
      for (const Extent& of_columns : logical.rank() == 1 ? all : columns) {
        const std::int64_t begin = row * width + of_columns.begin;
        if (begin != first + length) {
          if (length > 0) visit(local, first, length);
          local += length;
          first = begin;
          length = 0;
        }
        length += of_columns.size();
      }
    }
  }
  if (length > 0) visit(local, first, length);
}

bool is_first_with(const Config& config, const Part& part, const PartSpec& one) {
  if (one.spec.role == Role::kTokens && part.blocks.begin > 0) return false;  // a tied head
  if (part.tensor == 0) return true;
  if (one.cut.whole()) return false;
  const bool of_keys = (one.spec.role == Role::kQkvWeight || one.spec.role == Role::kQkvBias) && one.spec.offset > 0;
  return !of_keys || part.tensor % shares_of(config, part).kv_copies == 0;
}

std::vector<PartSpec> part_specs(const Config& config, const Part& part) {
  const bool embeds = part.blocks.begin == 0;
  const bool has_head = part.blocks.end == config.layers;
  const auto wanted = [&](const ParameterSpec& spec) {
    if (spec.layer >= 0) return spec.layer >= part.blocks.begin && spec.layer < part.blocks.end;
    if (spec.role == Role::kTokens) return embeds || (has_head && config.tied);
    return spec.role == Role::kPositions ? embeds : has_head;
  };
  const Cutter cutter(config, part);
  std::map<std::pair<std::int64_t, Role>, std::int64_t> taken;
  std::vector<PartSpec> specs;
  for (const ParameterSpec& spec : parameter_specs(config)) {
    if (!wanted(spec)) continue;
    PartSpec mine{spec, cutter.cut(spec), 0};
    std::int64_t& before = taken[{spec.layer, spec.role}];
    mine.offset = before;
    before += mine.cut.shape().elements();
    specs.push_back(std::move(mine));
  }
  return specs;
}

}  // namespace braise::model
