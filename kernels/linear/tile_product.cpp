// SPDX-License-Identifier: Apache-2.0
#include "kernels/linear/tile_product.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <mutex>
#include <oneapi/dnnl/dnnl.hpp>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "kernels/core/copy_cpu.h"
#include "kernels/core/error.h"
#include "kernels/core/parallel.h"
#include "kernels/core/tier.h"
#include "kernels/linear/tier.h"

namespace braise::linear::cpu {
namespace {

using core::Dtype;
using core::Tier;

/// oneDNN's kernels for AVX-512 take the right operand in blocks of 64 columns, and pairs of rows for bf16; below, as
/// plain rows.
bool blocked() {
  static const bool blocked = core::settle_tier() >= Tier::kAvx512;
  return blocked;
}

std::int64_t padded_depth(Multiplicand multiplicand, std::int64_t depth) {
  if (!blocked()) return depth;
  return rounded_up(depth, multiplicand == Multiplicand::kBfloat16 ? 32 : 16);
}

dnnl::engine& engine() {
  static dnnl::engine engine = [] {
    static constexpr std::array kIsa{dnnl::cpu_isa::sse41, dnnl::cpu_isa::avx2, dnnl::cpu_isa::avx512_core,
                                     dnnl::cpu_isa::avx512_core_bf16, dnnl::cpu_isa::avx512_core_amx};
    const Tier tier = core::settle_tier();
    if (dnnl::set_max_cpu_isa(kIsa[static_cast<std::size_t>(tier)]) != dnnl::status::success) {
      throw core::Error("oneDNN was used before the tier " + std::string(core::name(tier)) + " was settled");
    }
    return dnnl::engine(dnnl::engine::kind::cpu, 0);
  }();
  return engine;
}

using Key = std::tuple<Multiplicand, std::int64_t, std::int64_t, std::int64_t, core::Accumulate>;

/// A primitive for one thread, shared by all of them.
class Primitive {
 public:
  explicit Primitive(const Key& key) {
    const auto& [multiplicand, rows, columns, depth, accumulate] = key;
    using memory = dnnl::memory;
    const bool bf16 = multiplicand == Multiplicand::kBfloat16;
    const auto type = bf16 ? memory::data_type::bf16 : memory::data_type::f32;
    const auto packing = !blocked() ? memory::format_tag::ab
                         : bf16     ? memory::format_tag::BA16a64b2a
                                    : memory::format_tag::BA16a64b;
    const memory::desc a({rows, depth}, type, memory::format_tag::ab);
    const memory::desc b({depth, columns}, type, packing);
    const memory::desc c({rows, columns}, memory::data_type::f32, memory::format_tag::ab);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (accumulate == core::Accumulate::kAdd) {
      dnnl::post_ops operations;
      operations.append_sum(1.0f);
      attributes.set_post_ops(operations);
    }
    descriptor_ = dnnl::matmul::primitive_desc(dnnl::matmul::desc(a, b, c), attributes, engine());
    primitive_ = dnnl::matmul(descriptor_);
  }

  /// The primitive for a key, made once. oneDNN plans for as many threads as OpenMP would give, so it is made under
  /// one.
  static const Primitive& of(const Key& key) {
    static std::mutex mutex;
    static std::map<Key, Primitive> primitives;
    const std::scoped_lock lock(mutex);
    const auto found = primitives.find(key);
    if (found != primitives.end()) return found->second;
    const core::OneThread one;
    try {
      return primitives.try_emplace(key, key).first->second;
    } catch (const dnnl::error& error) {
      throw core::Error(std::string("oneDNN has no matrix product for a tile of ") + std::to_string(std::get<1>(key)) +
                        " x " + std::to_string(std::get<2>(key)) + " x " + std::to_string(std::get<3>(key)) + ": " +
                        error.what());
    }
  }

  const dnnl::matmul::primitive_desc& descriptor() const { return descriptor_; }
  const dnnl::matmul& primitive() const { return primitive_; }

 private:
  dnnl::matmul::primitive_desc descriptor_;
  dnnl::matmul primitive_;
};

/// What one thread needs to run a primitive.
class Runner {
 public:
  explicit Runner(const Key& key)
      : primitive_(Primitive::of(key)),
        stream_(engine()),
        scratchpad_(primitive_.descriptor().scratchpad_desc(), engine()),
        a_(primitive_.descriptor().src_desc(), engine(), nullptr),
        b_(primitive_.descriptor().weights_desc(), engine(), nullptr),
        c_(primitive_.descriptor().dst_desc(), engine(), nullptr),
        arguments_{{DNNL_ARG_SRC, a_}, {DNNL_ARG_WEIGHTS, b_}, {DNNL_ARG_DST, c_}, {DNNL_ARG_SCRATCHPAD, scratchpad_}} {
  }

  void run(const void* a, const void* b, float* c) {
    a_.set_data_handle(const_cast<void*>(a));
    b_.set_data_handle(const_cast<void*>(b));
    c_.set_data_handle(c);
    primitive_.primitive().execute(stream_, arguments_);
  }

 private:
  const Primitive& primitive_;
  dnnl::stream stream_;
  dnnl::memory scratchpad_;
  dnnl::memory a_;
  dnnl::memory b_;
  dnnl::memory c_;
  std::unordered_map<int, dnnl::memory> arguments_;
};

/// The elements of any floating-point matrix, for the ways of packing that are rare.
template <class T>
struct Elements {
  const T* data;
  std::int64_t row_stride;
  std::int64_t column_stride;
  float operator()(std::int64_t row, std::int64_t column) const {
    return core::to_float(data[row * row_stride + column * column_stride]);
  }
};

template <class Work>
void with_elements(const core::ConstTensorView& matrix, const Work& work) {
  const std::int64_t rows = matrix.stride(0);
  const std::int64_t columns = matrix.stride(1);
  switch (matrix.dtype()) {
    case Dtype::kFloat32:
      return work(Elements<float>{matrix.data<float>(), rows, columns});
    case Dtype::kBfloat16:
      return work(Elements<core::Bfloat16>{matrix.data<core::Bfloat16>(), rows, columns});
    default:
      return work(Elements<core::Float16>{matrix.data<core::Float16>(), rows, columns});
  }
}

std::uint32_t word_at(const std::byte* place) {
  std::uint32_t word = 0;
  std::memcpy(&word, place, sizeof(word));
  return word;
}

/// to[j * to_stride + i] = the word at from + i * from_bytes + 4 j: a transposition of words in blocks that stay in the
/// first-level cache, four by four in registers.
void transpose_words(std::uint32_t* to, std::int64_t to_stride, const std::byte* from, std::int64_t from_bytes,
                     std::int64_t rows, std::int64_t columns) {
  typedef std::uint32_t Four __attribute__((vector_size(16), aligned(4)));
  constexpr std::int64_t kStrip = 16;  // words of one cache line of the source
  for (std::int64_t j0 = 0; j0 < columns; j0 += kStrip) {
    const std::int64_t j_end = std::min(columns, j0 + kStrip);
    std::int64_t i = 0;
    for (; i + 4 <= rows; i += 4) {
      const std::byte* const source = from + i * from_bytes;
      std::int64_t j = j0;
      for (; j + 4 <= j_end; j += 4) {
        Four row[4];
        for (int r = 0; r < 4; ++r) std::memcpy(&row[r], source + r * from_bytes + 4 * j, sizeof(Four));
        const Four low01 = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5);
        const Four high01 = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7);
        const Four low23 = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5);
        const Four high23 = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
        const Four out[4] = {
            __builtin_shufflevector(low01, low23, 0, 1, 4, 5), __builtin_shufflevector(low01, low23, 2, 3, 6, 7),
            __builtin_shufflevector(high01, high23, 0, 1, 4, 5), __builtin_shufflevector(high01, high23, 2, 3, 6, 7)};
        for (int r = 0; r < 4; ++r) std::memcpy(to + (j + r) * to_stride + i, &out[r], sizeof(Four));
      }
      for (; j < j_end; ++j) {
        for (int r = 0; r < 4; ++r) to[j * to_stride + i + r] = word_at(source + r * from_bytes + 4 * j);
      }
    }
    for (; i < rows; ++i) {
      for (std::int64_t j = j0; j < j_end; ++j) to[j * to_stride + i] = word_at(from + i * from_bytes + 4 * j);
    }
  }
}

const std::byte* bytes_at(const core::ConstTensorView& matrix, std::int64_t row, std::int64_t column) {
  return static_cast<const std::byte*>(matrix.raw()) +
         (row * matrix.stride(0) + column * matrix.stride(1)) * (core::bits(matrix.dtype()) / 8);
}

/// One block of columns [begin, begin + width) of b into rows of `pitch` words. bf16: words are pairs of rows.
void pack_block(Multiplicand multiplicand, std::uint32_t* to, std::int64_t pitch, const core::ConstTensorView& b,
                std::int64_t begin, std::int64_t width, std::int64_t depth_padded) {
  const std::int64_t depth = b.extent(0);
  const bool pairs = multiplicand == Multiplicand::kBfloat16;
  const std::int64_t whole = pairs ? depth / 2 : depth;  // rows of words that are all source
  const std::int64_t rows = pairs ? depth_padded / 2 : depth_padded;
  const bool same = b.dtype() == (pairs ? Dtype::kBfloat16 : Dtype::kFloat32);
  if (same && b.stride(0) == 1 && depth > 1) {
    transpose_words(to, pitch, bytes_at(b, 0, begin), b.stride(1) * (core::bits(b.dtype()) / 8), width, whole);
  } else if (same && b.stride(1) == 1 && pairs) {
    for (std::int64_t p = 0; p < whole; ++p) {
      const auto* const even = reinterpret_cast<const std::uint16_t*>(bytes_at(b, 2 * p, begin));
      const auto* const odd = reinterpret_cast<const std::uint16_t*>(bytes_at(b, 2 * p + 1, begin));
      std::uint32_t* const row = to + p * pitch;
      for (std::int64_t j = 0; j < width; ++j) row[j] = even[j] | static_cast<std::uint32_t>(odd[j]) << 16;
    }
  } else if (same && b.stride(1) == 1) {
    for (std::int64_t p = 0; p < whole; ++p) {
      std::memcpy(to + p * pitch, bytes_at(b, p, begin), static_cast<std::size_t>(width) * 4);
    }
  } else {
    with_elements(b, [&](const auto& element) {
      for (std::int64_t p = 0; p < whole; ++p) {
        for (std::int64_t j = 0; j < width; ++j) {
          to[p * pitch + j] =
              pairs ? core::to_bfloat16(element(2 * p, begin + j)).bits |
                          static_cast<std::uint32_t>(core::to_bfloat16(element(2 * p + 1, begin + j)).bits) << 16
                    : std::bit_cast<std::uint32_t>(element(p, begin + j));
        }
      }
    });
  }
  if (pairs && depth % 2 != 0) {
    with_elements(b, [&](const auto& element) {
      for (std::int64_t j = 0; j < width; ++j)
        to[whole * pitch + j] = core::to_bfloat16(element(depth - 1, begin + j)).bits;
    });
  }
  for (std::int64_t p = whole + (pairs ? depth % 2 : 0); p < rows; ++p) std::fill_n(to + p * pitch, width, 0u);
  const std::int64_t block = std::min(kColumnBlock, pitch);
  for (std::int64_t p = 0; p < rows; ++p) std::fill_n(to + p * pitch + width, block - width, 0u);
}

}  // namespace

Multiplicand multiplicand(Dtype stored) {
  return stored == Dtype::kBfloat16 && core::settle_tier() >= Tier::kAvx512Bf16 ? Multiplicand::kBfloat16
                                                                                : Multiplicand::kFloat32;
}

std::int64_t bytes_of(Multiplicand multiplicand) {
  return multiplicand == Multiplicand::kBfloat16 ? 2 : 4;
}

bool on_amx(Multiplicand multiplicand) {
  static const bool amx = core::settle_tier() >= Tier::kAmx;
  return amx && multiplicand == Multiplicand::kBfloat16;
}

std::int64_t row_count(Multiplicand multiplicand, std::int64_t rows) {
  if (on_amx(multiplicand)) return rows;
  // Found by trying all powers of two on each tier (the tests hold these against each other): with 32 or 8 rows
  // oneDNN's fp32 kernels for AVX2 sum in another order.
  const std::int64_t least = blocked() ? 8 : 4;
  for (const std::int64_t count : {least, std::int64_t{16}, std::int64_t{64}}) {
    if (rows <= count) return count;
  }
  return kTileRows;
}

std::int64_t tile_depth(Multiplicand multiplicand) {
  return on_amx(multiplicand) ? 1024 : 4096;
}

std::int64_t packed_elements(Multiplicand multiplicand, std::int64_t depth, std::int64_t columns) {
  return padded_depth(multiplicand, depth) * columns;
}

void pack_columns(Multiplicand multiplicand, void* packed, const core::ConstTensorView& b, std::int64_t depth,
                  std::int64_t width, std::int64_t begin, std::int64_t end) {
  const std::int64_t rows = padded_depth(multiplicand, depth);
  if (on_amx(multiplicand)) {
    // Whole blocks, of which the last panel may have no column of b.
    amx::pack_right(packed, b, rows, begin, end);
    const std::int64_t filled = rounded_up(end, amx::kPanel);
    const std::int64_t past = rounded_up(end, kColumnBlock);
    std::memset(static_cast<std::byte*>(packed) + filled * rows * 2, 0,
                static_cast<std::size_t>((past - filled) * rows * 2));
    return;
  }
  for (std::int64_t at = begin; at < end; at += kColumnBlock) {
    const std::int64_t columns = std::min(kColumnBlock, end - at);
    auto* const bytes = static_cast<std::byte*>(packed);
    if (blocked()) {
      auto* const to = reinterpret_cast<std::uint32_t*>(bytes + at * rows * bytes_of(multiplicand));
      pack_block(multiplicand, to, kColumnBlock, b, at, columns, rows);
    } else {
      const std::int64_t tile = at / kTileColumns * kTileColumns;
      const std::int64_t pitch = std::min(kTileColumns, width - tile);
      auto* const to = reinterpret_cast<std::uint32_t*>(bytes) + tile * rows + (at - tile);
      pack_block(multiplicand, to, pitch, b, at, columns, rows);
    }
  }
}

const void* packed_tile(Multiplicand multiplicand, const void* packed, std::int64_t depth, std::int64_t begin) {
  return static_cast<const std::byte*>(packed) + begin * padded_depth(multiplicand, depth) * bytes_of(multiplicand);
}

std::byte* columns_of_tile(Multiplicand multiplicand, std::byte* tile, std::int64_t depth, std::int64_t column) {
  const std::int64_t rows = blocked() ? padded_depth(multiplicand, depth) : 1;
  return tile + column * rows * bytes_of(multiplicand);
}

Left left_rows(const void* rows, std::int64_t row_bytes) {
  return Left{rows, row_bytes, 2 * amx::kDepth, amx::kRows * row_bytes};
}

std::int64_t left_elements(Multiplicand multiplicand, std::int64_t rows, std::int64_t depth) {
  if (!on_amx(multiplicand)) return rows * depth;
  return rounded_up(rows, amx::kRows) * padded_depth(multiplicand, depth);
}

void pack_left(Multiplicand multiplicand, void* packed, const core::ConstTensorView& a, std::int64_t rows,
               std::int64_t depth) {
  if (on_amx(multiplicand)) return amx::pack_left(packed, a, padded_depth(multiplicand, depth));
  const std::int64_t columns = a.extent(1);
  const std::int64_t given = a.extent(0);
  const std::int64_t size = bytes_of(multiplicand);
  const bool same = a.dtype() == (multiplicand == Multiplicand::kBfloat16 ? Dtype::kBfloat16 : Dtype::kFloat32);
  auto* const to = static_cast<std::byte*>(packed);
  const std::int64_t whole = columns == depth ? given : 0;  // rows that leave no gap
  std::memset(to + whole * depth * size, 0, static_cast<std::size_t>((rows - whole) * depth * size));
  if (same && (a.stride(1) == 1 || columns == 1)) {
    for (std::int64_t i = 0; i < given; ++i) {
      std::memcpy(to + i * depth * size, bytes_at(a, i, 0), static_cast<std::size_t>(columns * size));
    }
  } else if (same && a.stride(0) == 1) {
    const std::array<std::int64_t, 2> strides{depth, 1};
    core::cpu::copy(core::TensorView(to, a.dtype(), a.shape(), strides), a);  // its transposition is the fastest
  } else {
    with_elements(a, [&](const auto& element) {
      for (std::int64_t i = 0; i < given; ++i) {
        for (std::int64_t k = 0; k < columns; ++k) {
          if (size == 2) {
            reinterpret_cast<core::Bfloat16*>(to)[i * depth + k] = core::to_bfloat16(element(i, k));
          } else {
            reinterpret_cast<float*>(to)[i * depth + k] = element(i, k);
          }
        }
      }
    });
  }
}

Left packed_left(Multiplicand multiplicand, const void* packed, std::int64_t depth, std::int64_t row) {
  const auto* const bytes = static_cast<const std::byte*>(packed);
  if (!on_amx(multiplicand)) {
    const std::int64_t row_bytes = depth * bytes_of(multiplicand);
    return left_rows(bytes + row * row_bytes, row_bytes);
  }
  const std::int64_t block_bytes = amx::kRows * padded_depth(multiplicand, depth) * 2;
  return Left{bytes + row / amx::kRows * block_bytes, 2 * amx::kDepth, amx::kTileBytes, block_bytes};
}

std::int64_t sums_pitch(Multiplicand multiplicand, std::int64_t columns) {
  return on_amx(multiplicand) ? columns + 16 : columns;
}

std::int64_t operand_pitch(Multiplicand multiplicand, std::int64_t columns) {
  return on_amx(multiplicand) ? columns + amx::kDepth : columns;
}

void prepare_tile(Multiplicand multiplicand, std::int64_t rows, std::int64_t columns, std::int64_t depth,
                  core::Accumulate accumulate) {
  if (on_amx(multiplicand)) return;
  Primitive::of(Key{multiplicand, rows, columns, depth, accumulate});
}

void tile_product(Multiplicand multiplicand, std::int64_t rows, std::int64_t columns, std::int64_t depth, float* c,
                  std::int64_t pitch, const Left& a, const void* b, core::Accumulate accumulate,
                  std::span<const amx::Region> ahead) {
  if (on_amx(multiplicand)) {
    return amx::product(rows, columns, padded_depth(multiplicand, depth), c, pitch, a, b, accumulate, ahead);
  }
  thread_local std::map<Key, Runner> runners;
  const Key key{multiplicand, rows, columns, depth, accumulate};
  auto found = runners.find(key);
  if (found == runners.end()) found = runners.try_emplace(key, key).first;
  // oneDNN shares work among the threads OpenMP would give it now, whatever it planned for; inside of a parallel region
  // that is one.
  const core::OneThread one;
  found->second.run(a.data, b, c);
}

void tile_product_of_rows(Multiplicand multiplicand, std::int64_t rows, std::int64_t columns, std::int64_t depth,
                          std::int64_t begin, std::int64_t end, float* c, std::int64_t pitch, const Left& a,
                          const void* b, core::Accumulate accumulate) {
  if (begin == 0 && end == depth) return tile_product(multiplicand, rows, columns, depth, c, pitch, a, b, accumulate);
  // Rows lie together within a panel of columns alone.
  for (std::int64_t column = 0; column < columns; column += amx::kPanel) {
    const auto* const panel = static_cast<const std::byte*>(b) + column * padded_depth(multiplicand, depth) * 2;
    amx::product(rows, amx::kPanel, end - begin, c + column, pitch, a, panel + begin * amx::kPanel * 2, accumulate);
  }
}

}  // namespace braise::linear::cpu

namespace braise::linear {

core::Tier settle_tier() {
  cpu::engine();
  return core::settle_tier();
}

}  // namespace braise::linear
