// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/machine/gemm.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <dnnl.hpp>
#include <vector>

#include "kernels/core/error.h"

namespace braise::machine {
namespace {

using dnnl::memory;

[[noreturn]] void fail(const dnnl::error& error, core::SourceLocation where = core::SourceLocation::current()) {
  throw core::Error(std::string("oneDNN: ") + error.what(), where);
}

}  // namespace

struct Gemm::State {
  explicit State(int side) : flops(2.0 * side * side * side), engine(dnnl::engine::kind::cpu, 0), stream(engine) {}

  double flops;
  dnnl::engine engine;
  dnnl::stream stream;
  memory a, b, c;
  dnnl::matmul product;
};

bool Gemm::supports(Precision precision) {
  if (precision == Precision::fp32) return true;
  const dnnl::cpu_isa isa = dnnl::get_effective_cpu_isa();
  return isa == dnnl::cpu_isa::avx512_core_bf16 || isa == dnnl::cpu_isa::avx512_core_amx;
}

Gemm::Gemm(int side, Precision precision) {
  try {
    state_ = std::make_unique<State>(side);
    const auto factor = precision == Precision::fp32 ? memory::data_type::f32 : memory::data_type::bf16;
    const memory::dims shape = {side, side};
    const memory::desc factor_desc(shape, factor, memory::format_tag::ab);
    const memory::desc product_desc(shape, memory::data_type::f32, memory::format_tag::ab);
    state_->a = memory(factor_desc, state_->engine);
    state_->b = memory(factor_desc, state_->engine);
    state_->c = memory(product_desc, state_->engine);
    // All ones, so that no product is denormal or not a number, which some units compute more slowly.
    for (const memory* matrix : {&state_->a, &state_->b}) {
      const std::size_t elements = static_cast<std::size_t>(side) * static_cast<std::size_t>(side);
      if (precision == Precision::fp32) {
        std::fill_n(static_cast<float*>(matrix->get_data_handle()), elements, 1.0f);
      } else {
        std::fill_n(static_cast<std::uint16_t*>(matrix->get_data_handle()), elements, std::uint16_t{0x3F80});
      }
    }
    const dnnl::matmul::desc operation(factor_desc, factor_desc, product_desc);
    state_->product = dnnl::matmul(dnnl::matmul::primitive_desc(operation, state_->engine));
  } catch (const dnnl::error& error) {
    fail(error);
  }
}

Gemm::~Gemm() = default;

double Gemm::run() {
  try {
    state_->product.execute(state_->stream,
                            {{DNNL_ARG_SRC, state_->a}, {DNNL_ARG_WEIGHTS, state_->b}, {DNNL_ARG_DST, state_->c}});
    state_->stream.wait();
  } catch (const dnnl::error& error) {
    fail(error);
  }
  return state_->flops;
}

double measure_gemm_rate(int threads, core::Dtype dtype) {
  constexpr int kSide = 1024;  // smaller ones are slower, larger ones no faster
  constexpr double kSeconds = 0.3;
  using Clock = std::chrono::steady_clock;
  const bool bf16 = dtype == core::Dtype::kBfloat16 && Gemm::supports(Gemm::Precision::bf16);
  const int threads_before = omp_get_max_threads();
  omp_set_num_threads(threads);
  Gemm gemm(kSide, bf16 ? Gemm::Precision::bf16 : Gemm::Precision::fp32);
  gemm.run();  // generates its code and warms the caches
  double flops = 0, seconds = 0;
  const Clock::time_point start = Clock::now();
  do {
    flops += gemm.run();
    seconds = std::chrono::duration<double>(Clock::now() - start).count();
  } while (seconds < kSeconds);
  omp_set_num_threads(threads_before);
  return flops / seconds;
}

std::string instruction_set() {
  switch (dnnl::get_effective_cpu_isa()) {
    case dnnl::cpu_isa::sse41:
      return "sse41";
    case dnnl::cpu_isa::avx:
      return "avx";
    case dnnl::cpu_isa::avx2:
      return "avx2";
    case dnnl::cpu_isa::avx2_vnni:
      return "avx2_vnni";
    case dnnl::cpu_isa::avx512_core:
      return "avx512_core";
    case dnnl::cpu_isa::avx512_core_vnni:
      return "avx512_core_vnni";
    case dnnl::cpu_isa::avx512_core_bf16:
      return "avx512_core_bf16";
    case dnnl::cpu_isa::avx512_core_amx:
      return "avx512_core_amx";
    default:
      throw core::Error("oneDNN runs on an instruction set that this build does not know");
  }
}

}  // namespace braise::machine
