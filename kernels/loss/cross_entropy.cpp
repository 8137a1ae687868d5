// SPDX-License-Identifier: Apache-2.0
#include "kernels/loss/cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "kernels/core/arena.h"
#include "kernels/core/copy.h"
#include "kernels/core/error.h"
#include "kernels/loss/cross_entropy_cpu.h"

namespace braise::loss {
namespace {

using core::ConstTensorView;
using core::Dtype;
using core::Shape;
using core::TensorView;

/// Tokens whose gradients are in memory at one time.
constexpr std::int64_t kChunk = 8192;

void require_row(const char* operation, const char* argument, const ConstTensorView& tensor, Dtype dtype,
                 std::int64_t rows) {
  core::require_tensor(operation, argument, tensor, dtype, Shape{rows});
  core::require(tensor.contiguous(), operation, "targets, losses, log_sums and gradients must be contiguous");
}

void check(const char* operation, const ConstTensorView& x, const linear::PackedMatrix& w,
           const ConstTensorView& targets, const CrossEntropy& settings, const core::VocabularyPart& part) {
  core::require(x && x.rank() == 2, operation, "x must be [M, C]");
  core::require_tensor(operation, "x", x, w.dtype(), Shape{x.extent(0), w.depth()});
  require_row(operation, "targets", targets, Dtype::kInt32, x.extent(0));
  core::require(w.columns() > 0, operation, "the vocabulary is empty");
  core::require(settings.label_smoothing >= 0 && settings.label_smoothing <= 1, operation,
                "label_smoothing must be in [0, 1]");
  core::require(settings.z_loss >= 0, operation, "z_loss must not be negative");
  core::require(settings.logit_cap >= 0 && std::isfinite(settings.logit_cap), operation,
                "logit_cap must be finite and not negative");
  core::require(part.first >= 0 && part.first + w.columns() <= part.vocabulary, operation,
                "the head goes beyond the vocabulary that it is a part of");
  const std::int32_t* const target = targets.data<std::int32_t>();
  for (std::int64_t row = 0; row < x.extent(0); ++row) {
    if (target[row] == settings.ignore || (target[row] >= 0 && target[row] < part.vocabulary)) continue;
    throw core::Error(std::string(operation) + ": the target of row " + std::to_string(row) + " is " +
                      std::to_string(target[row]) + "; it must be from 0 to " + std::to_string(part.vocabulary - 1) +
                      ", or " + std::to_string(settings.ignore) + " to ignore the row");
  }
}

/// What `part` says, with the vocabulary as a number.
core::VocabularyPart whole(const core::VocabularyPart& part, const linear::PackedMatrix& w) {
  return {part.first, part.vocabulary == 0 ? w.columns() : part.vocabulary};
}

}  // namespace

void partial_cross_entropy(core::Stream& stream, const TensorView& partials, const ConstTensorView& x,
                           const linear::PackedMatrix& w, const ConstTensorView& targets, const CrossEntropy& settings,
                           const core::VocabularyPart& part) {
  constexpr const char* kName = "partial_cross_entropy";
  check(kName, x, w, targets, settings, whole(part, w));
  core::require_tensor(kName, "partials", partials, Dtype::kFloat32, Shape{x.extent(0), kPartials});
  core::require(partials.contiguous(), kName, "partials must be contiguous");
  core::require_cpu(stream, kName);
  cpu::partial(stream, partials, x, w, targets, settings, whole(part, w));
}

void combine_cross_entropy(core::Stream& stream, const TensorView& losses, const TensorView& log_sums,
                           const ConstTensorView& partials, const ConstTensorView& targets,
                           const CrossEntropy& settings, std::int64_t vocabulary) {
  constexpr const char* kName = "combine_cross_entropy";
  core::require(partials && partials.rank() == 3 && partials.extent(0) > 0 && partials.contiguous(), kName,
                "partials must be [parts, M, 4], contiguous");
  const std::int64_t rows = partials.extent(1);
  core::require_tensor(kName, "partials", partials, Dtype::kFloat32, Shape{partials.extent(0), rows, kPartials});
  require_row(kName, "losses", losses, Dtype::kFloat32, rows);
  require_row(kName, "log_sums", log_sums, Dtype::kFloat32, rows);
  require_row(kName, "targets", targets, Dtype::kInt32, rows);
  core::require_cpu(stream, kName);
  cpu::combine(losses, log_sums, partials, targets, settings, vocabulary);
}

void linear_cross_entropy_forward(core::Stream& stream, const TensorView& losses, const TensorView& log_sums,
                                  const ConstTensorView& x, const linear::PackedMatrix& w,
                                  const ConstTensorView& targets, const CrossEntropy& settings) {
  constexpr const char* kName = "linear_cross_entropy_forward";
  check(kName, x, w, targets, settings, whole({}, w));
  require_row(kName, "losses", losses, Dtype::kFloat32, x.extent(0));
  require_row(kName, "log_sums", log_sums, Dtype::kFloat32, x.extent(0));
  core::require_cpu(stream, kName);
  const core::Tensor partials =
      stream.arena().tensor(Dtype::kFloat32, Shape{1, x.extent(0), kPartials}, core::Category::kWorkspace, kName);
  cpu::partial(stream, partials.view.select(0, 0), x, w, targets, settings, whole({}, w));
  cpu::combine(losses, log_sums, partials.view, targets, settings, w.columns());
}

void linear_cross_entropy_backward(core::Stream& stream, const TensorView& dx, const TensorView& dw,
                                   const ConstTensorView& gradients, const ConstTensorView& log_sums,
                                   const ConstTensorView& x, const linear::PackedMatrix& w,
                                   const ConstTensorView& weight, const ConstTensorView& targets,
                                   const CrossEntropy& settings, const core::VocabularyPart& part) {
  constexpr const char* kName = "linear_cross_entropy_backward";
  check(kName, x, w, targets, settings, whole(part, w));
  const std::int64_t rows = x.extent(0);
  const std::int64_t channels = w.depth();
  const std::int64_t tokens = w.columns();
  core::require_tensor(kName, "dx", dx, dx.dtype() == Dtype::kFloat32 ? dx.dtype() : x.dtype(), x.shape());
  core::require_tensor(kName, "dw", dw, Dtype::kFloat32, Shape{tokens, channels});
  core::require_tensor(kName, "weight", weight, x.dtype(), Shape{tokens, channels});
  core::require(dx.rows_contiguous() && dw.rows_contiguous(), kName, "the rows of dx and dw must be contiguous");
  require_row(kName, "gradients", gradients, Dtype::kFloat32, rows);
  require_row(kName, "log_sums", log_sums, Dtype::kFloat32, rows);
  core::require_cpu(stream, kName);

  const auto workspace = [&](Dtype dtype, const Shape& shape) {
    return stream.arena().tensor(dtype, shape, core::Category::kWorkspace, "cross_entropy");
  };
  const core::Tensor dz = workspace(x.dtype(), Shape{rows, std::min(kChunk, tokens)});
  core::Tensor own;
  if (dx.dtype() != Dtype::kFloat32) own = workspace(Dtype::kFloat32, Shape{rows, channels});
  const TensorView sums = own.view ? own.view : dx;
  linear::Epilogue epilogue;
  for (std::int64_t begin = 0; begin < tokens; begin += kChunk) {
    const std::int64_t end = std::min(tokens, begin + kChunk);
    const TensorView chunk = dz.view.slice(1, 0, end - begin);
    cpu::logit_gradients(stream, chunk, gradients, log_sums, x, w, targets, settings, whole(part, w), begin, end);
    epilogue.accumulate = begin == 0 ? core::Accumulate::kOverwrite : core::Accumulate::kAdd;
    linear::matmul(stream, sums, chunk, weight.slice(0, begin, end), epilogue);
    epilogue.accumulate = core::Accumulate::kAdd;
    linear::matmul(stream, dw.slice(0, begin, end), chunk.transposed(0, 1), x, epilogue);
  }
  if (own.view) core::copy(stream, dx, sums);
}

}  // namespace braise::loss
