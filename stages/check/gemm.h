// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

namespace braise::check {

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

/// The instruction set that oneDNN uses on this CPU: "avx512_core_bf16".
std::string instruction_set();

}  // namespace braise::check
