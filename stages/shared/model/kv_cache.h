// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/attention/attention.h"
#include "kernels/core/arena.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"
#include "stages/shared/model/config.h"

namespace braise::model {

/// New tokens of one cached sequence.
struct Extension {
  std::int64_t sequence = 0;  ///< of the cache
  std::int64_t tokens = 0;    ///< at least 1
};

/// The keys and values of some sequences in every layer, so that a sequence grows without computing what came before
/// again. Contiguous: each sequence has room for as many positions. Decoder::extend fills it.
class KvCache {
 public:
  /// Memory of category kKv, from an arena that must outlive it: kv_cache_bytes of it. Sequences are empty.
  /// Errors: core::Error where there is no sequence or position, and for other dtypes than floating-point ones.
  KvCache(core::Arena& arena, const Config& config, core::Dtype dtype, std::int64_t sequences, std::int64_t positions);

  /// Whether it can be of a decoder with that configuration and dtype.
  bool fits(const Config& config, core::Dtype dtype) const;

  std::int64_t sequences() const { return static_cast<std::int64_t>(lengths_.size()); }
  std::int64_t positions() const { return positions_; }  ///< room of each sequence

  /// Tokens a sequence has. Errors: core::Error where there is no such sequence.
  std::int64_t length(std::int64_t sequence) const;

  /// Empties a sequence: its place is free for another. Errors: as length.
  void clear(std::int64_t sequence);

  /// The positions of the new tokens, one extension after another.
  /// Errors: core::Error for a sequence that there is not or that comes twice, no new tokens, or no room for them.
  std::vector<std::int32_t> positions_of(std::span<const Extension> extensions) const;

  /// Attention of new tokens in one layer. Their rows, one extension after another: q and o are [1, N, H, D], k and v
  /// [1, N, G, D]. Stores k and v behind what the sequences have, and lets each query see its sequence up to itself,
  /// with the bits that a pass over the whole sequence gives it.
  void attend(core::Stream& stream, std::int64_t layer, std::span<const Extension> extensions,
              const core::TensorView& o, const core::ConstTensorView& q, const core::ConstTensorView& k,
              const core::ConstTensorView& v, float scale, const attention::Mask& mask);

  /// Counts the new tokens in, once every layer has them.
  void advance(std::span<const Extension> extensions);

 private:
  /// The first `length` positions of a sequence: [1, T, G, D].
  core::TensorView view(const core::Tensor& of, std::int64_t layer, std::int64_t sequence, std::int64_t length) const;

  std::int64_t positions_;
  std::vector<std::int64_t> lengths_;
  core::Tensor keys_;  ///< [layers, sequences, G, positions, D]: a head's keys lie together
  core::Tensor values_;
};

}  // namespace braise::model
