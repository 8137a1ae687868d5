// SPDX-License-Identifier: Apache-2.0
#include <zlib.h>

#include <utility>

#include "stages/shared/text/compressed_source.h"

namespace braise::text {
namespace {

// Largest window, and "only gzip".
constexpr int kWindowBits = 15 + 16;

class GzipSource final : public CompressedSource {
 public:
  explicit GzipSource(RawFile file) : CompressedSource(std::move(file)) {
    if (inflateInit2(&stream_, kWindowBits) != Z_OK) throw core::Error("zlib cannot start");
  }
  ~GzipSource() override { inflateEnd(&stream_); }
  GzipSource(const GzipSource&) = delete;
  GzipSource& operator=(const GzipSource&) = delete;

  std::string_view next() override {
    for (;;) {
      if (stream_.avail_in == 0 && !output_left_) {
        const std::string_view bytes = file_.read();
        if (bytes.empty()) {
          if (!member_ended_) fail("gzip data is truncated", 0);
          return {};
        }
        stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
        stream_.avail_in = static_cast<uInt>(bytes.size());
      }
      if (member_ended_) {
        inflateReset(&stream_);
        member_ended_ = false;
        first_member_ = false;
      }
      const uInt unread_before = stream_.avail_in;
      stream_.next_out = reinterpret_cast<Bytef*>(output_.data());
      stream_.avail_out = static_cast<uInt>(output_.size());
      const int code = inflate(&stream_, Z_NO_FLUSH);
      // Z_BUF_ERROR only says that there was nothing to do without more input.
      if (code != Z_OK && code != Z_STREAM_END && code != Z_BUF_ERROR) {
        const bool in_header = stream_.total_out == 0 && !first_member_;
        fail(in_header ? "what follows the gzip data is not gzip data"
                       : std::string("gzip data is corrupt (") +
                             (stream_.msg != nullptr ? stream_.msg : "no reason given") + ")",
             in_header ? unread_before : stream_.avail_in);
      }
      member_ended_ = code == Z_STREAM_END;
      output_left_ = !member_ended_ && stream_.avail_out == 0;
      const std::size_t got = output_.size() - stream_.avail_out;
      if (got > 0) return {output_.data(), got};
    }
  }

 private:
  z_stream stream_{};
  bool first_member_ = true;
  bool member_ended_ = false;
  bool output_left_ = false;
};

}  // namespace

std::unique_ptr<TextSource> open_gzip(RawFile file) {
  return std::make_unique<GzipSource>(std::move(file));
}

}  // namespace braise::text
