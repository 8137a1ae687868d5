// SPDX-License-Identifier: Apache-2.0
// Rate at which a checkpoint is written and read, beside writing as many bytes with write and fsync; and for how long a
// training is held up, beside a copy. Warmed first, in turns, the best of several.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

#include "kernels/comm/communicator.h"
#include "kernels/core/arena.h"
#include "stages/shared/checkpoint/checkpoint.h"
#include "stages/shared/checkpoint/saver.h"
#include "stages/shared/io/file.h"

namespace {

using namespace braise;
namespace fs = std::filesystem;

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void write_plainly(const fs::path& path, const std::vector<std::vector<std::byte>>& tensors) {
  const io::FileDescriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666));
  std::uint64_t offset = 0;
  for (const std::vector<std::byte>& tensor : tensors) {
    io::write_at(file.get(), tensor, offset, path);
    offset += tensor.size();
  }
  if (::fsync(file.get()) != 0) std::abort();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: checkpoint_bench FOLDER [MiB]\n");
    return 2;
  }
  const fs::path folder = fs::path(argv[1]) / "checkpoint_bench";
  const std::int64_t mib = argc > 2 ? std::atoi(argv[2]) : 1024;
  fs::create_directories(folder);
  // As of a training: one large tensor, and many of some MiB.
  std::vector<std::vector<std::byte>> tensors;
  tensors.emplace_back(static_cast<std::size_t>(mib / 4) << 20);
  for (std::int64_t i = 0; i < mib - mib / 4; i += 4) tensors.emplace_back(std::size_t{4} << 20);
  double bytes = 0;
  std::uint32_t state = 1;
  for (std::vector<std::byte>& tensor : tensors) {
    bytes += static_cast<double>(tensor.size());
    for (std::size_t i = 0; i < tensor.size(); i += 4) {
      state = state * 1664525u + 1013904223u;
      std::memcpy(tensor.data() + i, &state, 4);
    }
  }
  std::vector<checkpoint::Piece> pieces;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const auto elements = static_cast<std::int64_t>(tensors[i].size() / 4);
    pieces.push_back({"parameters/" + std::to_string(i),
                      {elements},
                      0,
                      core::ConstTensorView(tensors[i].data(), core::Dtype::kFloat32, {elements})});
  }

  const auto comm = comm::single();
  core::MemoryLedger ledger;
  core::Arena host(core::kCpu, core::Space::kHost, ledger);
  const auto stream = core::make_stream(host);
  checkpoint::Saver saver(*comm, *stream, host, {.attempt_dir = folder, .retention = {}, .log = {}});
  constexpr double kNever = std::numeric_limits<double>::infinity();
  double plain_s = kNever, saved_s = kNever, blocked_s = kNever, copied_s = kNever, read_s = kNever;
  std::vector<std::byte> copy(static_cast<std::size_t>(bytes));
  for (std::int64_t turn = 0; turn < 5; ++turn) {
    double start = now_s();
    write_plainly(folder / "plain", tensors);
    plain_s = std::min(plain_s, now_s() - start);
    fs::remove(folder / "plain");

    start = now_s();
    std::byte* place = copy.data();
    for (const std::vector<std::byte>& tensor : tensors) {
      std::memcpy(place, tensor.data(), tensor.size());
      place += tensor.size();
    }
    copied_s = std::min(copied_s, now_s() - start);

    start = now_s();
    const checkpoint::SaveCost cost = saver.save(turn, pieces, {{"model", nlohmann::json::object()}});
    saver.wait();
    const double took_s = now_s() - start;
    // The first copy also takes the memory from the system.
    if (turn > 0) {
      saved_s = std::min(saved_s, took_s);
      blocked_s = std::min(blocked_s, cost.blocked_s);
    }
    const checkpoint::Checkpoint saved(saver.take_saved().at(0).folder);
    start = now_s();
    for (const checkpoint::TensorInfo& info : saved.tensors()) {
      saved.read(info.path, 0, core::TensorView(copy.data(), info.dtype, info.shape));
    }
    read_s = std::min(read_s, now_s() - start);
    std::printf("turn %lld: plain %.2f s, saved %.2f s, blocked %.3f s\n", static_cast<long long>(turn), plain_s,
                took_s, cost.blocked_s);
  }
  fs::remove_all(folder);
  std::printf(
      "%.0f MiB: write+fsync %.2f GB/s, checkpoint %.2f GB/s (%.2f of it); blocked %.3f s, memcpy %.3f s; read "
      "and checked %.2f GB/s\n",
      bytes / (1 << 20), bytes / plain_s / 1e9, bytes / saved_s / 1e9, plain_s / saved_s, blocked_s, copied_s,
      bytes / read_s / 1e9);
  return 0;
}
