// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "kernels/comm/collectives.h"
#include "kernels/comm/communicator.h"
#include "kernels/core/arena.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace braise::model {

/// The ranks that share each block of a model. Between its products a block's rows (tokens) are dealt to them, so that
/// norms, dropout and sums with the stream are computed once; before a product all have all rows. Every member is
/// collective unless it says otherwise.
class TensorAxis {
 public:
  /// `kv_copies`: ranks next to each other that have the same heads of keys and values. The communicator and the stream
  /// must outlive it, and no other Collectives is on the communicator.
  TensorAxis(comm::Communicator& comm, core::Stream& stream, int kv_copies);
  ~TensorAxis();

  int rank() const { return all_.rank(); }   ///< not collective
  int width() const { return all_.size(); }  ///< not collective

  /// This rank's of so many rows; not collective. Errors: core::Error where a rank would have none.
  comm::Range rows(std::int64_t rows) const;

  /// Rows of all ranks: under way until it is waited for.
  class Gathered {
   public:
    const core::ConstTensorView& wait();

   private:
    friend class TensorAxis;
    core::Tensor own_;
    core::ConstTensorView view_;
    comm::Pending pending_;
  };

  /// local: this rank's rows, [1, r, C], which must stay until it is done. -> shape, of the same dtype.
  Gathered gather(const core::ConstTensorView& local, const core::Shape& shape, const std::string& owner);

  /// What gather gives where there is but one rank: the rows themselves. Not collective.
  static Gathered alone(const core::ConstTensorView& rows);

  /// A sum over the ranks, of which each has its rows: under way until it is waited for.
  class Scattered {
   public:
    /// fp32 [1, r, C].
    core::Tensor wait();

   private:
    friend class TensorAxis;
    core::Tensor terms_, mine_;
    comm::Pending pending_;
  };

  /// terms: fp32 [.., C].
  Scattered scatter_sum(core::Tensor terms, const std::string& owner);

  /// all = every rank's `mine`: [width, ..], of which place `rank` may be `mine`.
  void exchange(const core::ConstTensorView& mine, const core::TensorView& all);

  /// tensors (fp32) = their sums over all ranks, or over those with the same heads of keys and values.
  void sum(std::span<const core::TensorView> tensors);
  void sum_copies(std::span<const core::TensorView> tensors);

 private:
  core::Stream& stream_;
  comm::Collectives all_;
  std::unique_ptr<comm::Communicator> copies_comm_;
  std::unique_ptr<comm::Collectives> copies_;  // none where there are no copies
};

}  // namespace braise::model
