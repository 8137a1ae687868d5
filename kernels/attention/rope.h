// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <variant>
#include <vector>

#include "kernels/core/arena.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace braise::attention {

/// Positions are divided by `factor`. Source: Chen et al., "Extending context window of large language models via
/// positional interpolation", arXiv 2306.15595, section 3.2.
struct LinearScaling {
  double factor = 1;
};

/// A table for n > original_positions positions has another base, so that the lowest frequency is stretched by
/// factor n / original_positions - (factor - 1), and the highest stays; a shorter one has not. As "dynamic" in Hugging
/// Face transformers.
struct DynamicNtkScaling {
  double factor = 1;
  std::int64_t original_positions = 0;
};

/// Low frequencies are divided by `factor`, high ones stay, with a ramp between the channels that turn beta_slow and
/// beta_fast times over original_positions; and cos and sin are multiplied by an attention factor: the one given, or
/// m(mscale) / m(mscale_all) where both are, or m(1), with m(s) = 1 + 0.1 s ln(factor) (1 if factor <= 1).
/// Source: Peng et al., "YaRN", arXiv 2309.00071, sections 3.2 and 3.4.
struct YarnScaling {
  double factor = 1;
  std::int64_t original_positions = 0;
  double beta_fast = 32;
  double beta_slow = 1;
  std::optional<double> attention_factor = {};
  std::optional<double> mscale = {};
  std::optional<double> mscale_all = {};
  bool whole_channels = true;  ///< the ends of the ramp are rounded outwards to whole channels
};

/// Wavelengths above original_positions / low_frequency_factor are stretched by `factor`, those below
/// original_positions / high_frequency_factor stay, with a blend between. Source: the model code of Llama 3.1.
struct Llama3Scaling {
  double factor = 8;
  double low_frequency_factor = 1;
  double high_frequency_factor = 4;
  std::int64_t original_positions = 8192;
};

/// How a model's rotary embedding reaches further than its first training; monostate: not at all.
using RopeScaling = std::variant<std::monostate, LinearScaling, DynamicNtkScaling, YarnScaling, Llama3Scaling>;

/// A rotary embedding of the first R channels of each head: pair i of them turns by position x frequency i.
struct RopeSettings {
  std::int64_t rotary = 0;  ///< R, even; at most D
  double base = 10000;
  RopeScaling scaling = {};
};

struct RopeFrequencies {
  std::vector<double> radians;  ///< for each pair, the angle from one position to the next
  double attention_factor = 1;
};

/// The frequencies base^(-2 i / R) for i in [0, R / 2), scaled. `positions`: of the table they are for; only
/// DynamicNtkScaling asks. In fp64, with the same bits on every machine (core::portable).
/// Errors: core::Error for an odd or negative R, a base of at most 1, a factor below 1 or other settings out of range.
/// Source: Su et al., "RoFormer", arXiv 2104.09864, section 3.2.2.
RopeFrequencies rope_frequencies(const RopeSettings& settings, std::int64_t positions);

/// cos and sin of each position's angles, times the attention factor.
struct RopeTable {
  core::Tensor cos;  ///< fp32 [positions, R / 2]
  core::Tensor sin;  ///< as cos
};

/// The table for positions 0 to positions - 1 (at most 2^20), computed in fp64 and rounded once: the same bits on every
/// machine. Its memory is of category kWorkspace, on the stream's device. Errors: as rope_frequencies.
RopeTable make_rope_table(core::Stream& stream, const RopeSettings& settings, std::int64_t positions);

/// Which two channels make pair i.
enum class RopePairing : std::uint8_t {
  kHalves,       ///< i and R / 2 + i (Hugging Face's layout of Llama, GPT-NeoX, Qwen ...)
  kInterleaved,  ///< 2 i and 2 i + 1 (the papers', GPT-J's)
};

/// Where the tokens stand: `ids`, int32 [B, T], contiguous, each within the table; or, without them, position
/// first + t for token t of every sequence.
struct RopePositions {
  core::ConstTensorView ids;
  std::int64_t first = 0;
};

/// Turns each pair (a, b) of the first R channels of each head by the angle of its token's position:
///   (a, b) -> (a cos - b sin, b cos + a sin);
/// the other D - R channels are copied.
/// `x`, `y`: floating-point [B, T, H, D], of one shape and dtype, the last dimension contiguous, otherwise any strides.
/// `y` may be the very tensor `x`. The arithmetic is fp32, each result with two roundings, and one to the dtype. The
/// same bits on every tier and thread count. Errors: core::Error for arguments that are not so, R > D, or a position
/// that the table has not. Source: Su et al., arXiv 2104.09864, section 3.4.2.
void rope_forward(core::Stream& stream, const core::TensorView& y, const core::ConstTensorView& x,
                  const RopeTable& table, const RopePositions& positions, RopePairing pairing);

/// The gradient: dx is dy turned back, (a, b) -> (a cos + b sin, b cos - a sin), with the same attention factor.
/// `dx`, `dy`: as y and x of rope_forward.
void rope_backward(core::Stream& stream, const core::TensorView& dx, const core::ConstTensorView& dy,
                   const RopeTable& table, const RopePositions& positions, RopePairing pairing);

}  // namespace braise::attention
