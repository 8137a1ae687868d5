// SPDX-License-Identifier: Apache-2.0
#include <zstd.h>

#include <utility>

#include "stages/shared/text/compressed_source.h"

namespace braise::text {
namespace {

// Corpora are often packed with --long=31: accept every window there is.
constexpr int kWindowLogMax = 31;

class ZstdSource final : public CompressedSource {
 public:
  explicit ZstdSource(RawFile file) : CompressedSource(std::move(file)), stream_(ZSTD_createDStream()) {
    if (stream_ == nullptr) throw core::Error("zstd cannot start");
    if (ZSTD_isError(ZSTD_DCtx_setParameter(stream_, ZSTD_d_windowLogMax, kWindowLogMax)) != 0) {
      throw core::Error("zstd refuses windows of 2 GiB");
    }
  }
  ~ZstdSource() override { ZSTD_freeDStream(stream_); }
  ZstdSource(const ZstdSource&) = delete;
  ZstdSource& operator=(const ZstdSource&) = delete;

  std::string_view next() override {
    for (;;) {
      if (input_.pos == input_.size && !output_left_) {
        const std::string_view bytes = file_.read();
        if (bytes.empty()) {
          if (!frame_ended_) fail("zstd data is truncated", 0);
          return {};
        }
        input_ = {bytes.data(), bytes.size(), 0};
      }
      ZSTD_outBuffer output = {output_.data(), output_.size(), 0};
      const std::size_t code = ZSTD_decompressStream(stream_, &output, &input_);
      if (ZSTD_isError(code) != 0) {
        fail(std::string("zstd data is corrupt (") + ZSTD_getErrorName(code) + ")", input_.size - input_.pos);
      }
      frame_ended_ = code == 0;
      output_left_ = !frame_ended_ && output.pos == output.size;
      if (output.pos > 0) return {output_.data(), output.pos};
    }
  }

 private:
  ZSTD_DStream* stream_;
  ZSTD_inBuffer input_ = {nullptr, 0, 0};
  bool frame_ended_ = false;
  bool output_left_ = false;
};

}  // namespace

std::unique_ptr<TextSource> open_zstd(RawFile file) {
  return std::make_unique<ZstdSource>(std::move(file));
}

}  // namespace braise::text
