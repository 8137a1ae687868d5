// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/io/digest.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/random.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "kernels/core/error.h"
#include "stages/shared/io/file.h"

namespace braise::io {
namespace {

std::string to_hex(const unsigned char* data, std::size_t bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(2 * bytes);
  for (std::size_t i = 0; i < bytes; ++i) {
    text += kDigits[data[i] >> 4];
    text += kDigits[data[i] & 15];
  }
  return text;
}

}  // namespace

struct Sha256::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  if (state_->context == nullptr || EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) != 1) {
    throw core::Error("libcrypto has no SHA-256");
  }
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::update(const void* data, std::size_t bytes) {
  if (EVP_DigestUpdate(state_->context, data, bytes) != 1) throw core::Error("SHA-256 failed");
}

std::string Sha256::finish() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  if (EVP_DigestFinal_ex(state_->context, digest, &length) != 1) throw core::Error("SHA-256 failed");
  return to_hex(digest, length);
}

std::string sha256(std::string_view text) {
  Sha256 digest;
  digest.update(text);
  return digest.finish();
}

Sha256Bytes sha256_bytes(std::span<const std::byte> data) {
  // Looking the algorithm up takes about as long as hashing a KiB.
  static const std::unique_ptr<EVP_MD, decltype(&EVP_MD_free)> algorithm(EVP_MD_fetch(nullptr, "SHA256", nullptr),
                                                                         EVP_MD_free);
  thread_local const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  Sha256Bytes digest;
  if (algorithm == nullptr || context == nullptr || EVP_DigestInit_ex(context.get(), algorithm.get(), nullptr) != 1 ||
      EVP_DigestUpdate(context.get(), data.data(), data.size()) != 1 ||
      EVP_DigestFinal_ex(context.get(), reinterpret_cast<unsigned char*>(digest.data()), nullptr) != 1) {
    throw core::Error("SHA-256 failed");
  }
  return digest;
}

std::string to_hex(const Sha256Bytes& digest) {
  return to_hex(reinterpret_cast<const unsigned char*>(digest.data()), digest.size());
}

std::optional<Sha256Bytes> sha256_from_hex(std::string_view hex) {
  Sha256Bytes digest;
  if (hex.size() != 2 * digest.size()) return std::nullopt;
  for (std::size_t i = 0; i < hex.size(); ++i) {
    const char c = hex[i];
    if (!(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'f')) return std::nullopt;
    const auto value = static_cast<std::byte>(c <= '9' ? c - '0' : c - 'a' + 10);
    digest[i / 2] = i % 2 == 0 ? value << 4 : digest[i / 2] | value;
  }
  return digest;
}

FileDigest digest_file(const std::filesystem::path& path) {
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) core::fail_errno("cannot open " + path.string());
  Sha256 digest;
  FileDigest result;
  std::vector<char> buffer(1 << 18);
  for (;;) {
    const ssize_t got = ::read(file.get(), buffer.data(), buffer.size());
    if (got < 0) {
      if (errno == EINTR) continue;
      core::fail_errno("cannot read " + path.string());
    }
    if (got == 0) break;
    digest.update(buffer.data(), static_cast<std::size_t>(got));
    result.bytes += static_cast<std::uint64_t>(got);
  }
  result.sha256 = digest.finish();
  return result;
}

std::string random_hex(int digits) {
  std::vector<unsigned char> bytes(static_cast<std::size_t>(digits + 1) / 2);
  if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    core::fail_errno("cannot get random bytes");
  }
  return to_hex(bytes.data(), bytes.size()).substr(0, static_cast<std::size_t>(digits));
}

}  // namespace braise::io
