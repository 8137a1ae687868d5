// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "kernels/core/dtype.h"

namespace braise::machine {

/// A product of two square matrices by oneDNN, on OpenMP's threads.
class Gemm {
 public:
  enum class Precision { fp32, bf16 };  ///< bf16: factors of 16 bits, sums and result of 32

  /// Whether this CPU computes with the type itself, not in its place with another.
  static bool supports(Precision precision);

  Gemm(int side, Precision precision);
  ~Gemm();

  /// Computes one product; gives the number of floating-point operations (2 side^3).
  double run();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Floating-point operations a second that this rank reaches in square matrix products of 1024 with so many threads, in
/// the type that products of `dtype` are computed in here: bf16 where it is that and the CPU has it, else fp32.
/// Takes 0.3 s. What ranks of one host reach together is measured by all at once.
double measure_gemm_rate(int threads, core::Dtype dtype);

/// The instruction set that oneDNN uses on this CPU: "avx512_core_bf16".
std::string instruction_set();

}  // namespace braise::machine
