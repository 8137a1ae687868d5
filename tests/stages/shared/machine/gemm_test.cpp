// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/machine/gemm.h"

#include <omp.h>

#include <catch2/catch.hpp>

namespace braise::machine {
namespace {

TEST_CASE("a product's operations are counted") {
  CHECK(Gemm(32, Gemm::Precision::fp32).run() == 2.0 * 32 * 32 * 32);
  if (Gemm::supports(Gemm::Precision::bf16)) CHECK(Gemm(32, Gemm::Precision::bf16).run() == 2.0 * 32 * 32 * 32);
  CHECK_FALSE(instruction_set().empty());
}

TEST_CASE("the rate of products is measured with the threads asked for, which leaves OpenMP's number as it was") {
  omp_set_num_threads(2);
  const double fp32 = measure_gemm_rate(1, core::Dtype::kFloat32);
  CHECK(fp32 > 1e8);
  CHECK(fp32 < 1e15);
  CHECK(omp_get_max_threads() == 2);
  // fp16 is storage: its products are fp32's. Other work on the machine makes rates differ, by far less than a bf16
  // unit does from none.
  const double fp16 = measure_gemm_rate(1, core::Dtype::kFloat16);
  CHECK(fp16 > fp32 / 4);
  CHECK(fp16 < fp32 * 4);
}

}  // namespace
}  // namespace braise::machine
