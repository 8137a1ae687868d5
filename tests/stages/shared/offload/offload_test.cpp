// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <functional>
#include <future>
#include <optional>
#include <string>
#include <vector>

#include "kernels/core/arena.h"
#include "kernels/core/error.h"
#include "kernels/core/random.h"
#include "kernels/optimizer/adam.h"
#include "kernels/optimizer/rms_prop.h"
#include "kernels/optimizer/sgd.h"
#include "stages/shared/offload/chunk_loop.h"
#include "stages/shared/offload/store.h"
#include "tests/support/support.h"

namespace braise::offload {
namespace {
namespace fs = std::filesystem;

using Catch::Contains;
using core::Category;
using core::Dtype;
using core::Shape;
using core::TensorView;

/// Memory, and what was logged.
struct Fixture {
  Fixture() : arena(core::kCpu, core::Space::kHost, ledger) {}
  core::Tensor tensor(std::int64_t elements, Dtype dtype = Dtype::kFloat32) {
    return arena.tensor(dtype, Shape{elements}, Category::kOptimizer, "test");
  }
  /// With bytes that are a function of the seed.
  core::Tensor bytes(std::int64_t count, std::uint64_t seed) {
    core::Tensor made = tensor(count, Dtype::kInt8);
    const core::RandomStream random(seed, core::Purpose::kData);
    for (std::int64_t i = 0; i < count; ++i) {
      made.view.data<std::int8_t>()[i] = static_cast<std::int8_t>(random.word(static_cast<std::uint64_t>(i)));
    }
    return made;
  }
  std::function<void(std::string_view)> log() {
    return [this](std::string_view message) { logged.emplace_back(message); };
  }
  std::unique_ptr<Store> nvme(const fs::path& folder, const std::vector<std::int64_t>& sizes,
                              std::unique_ptr<BlockIo> io = nullptr) {
    return std::make_unique<Store>(folder, arena, sizes, log(), std::move(io));
  }

  core::MemoryLedger ledger;
  core::Arena arena;
  std::vector<std::string> logged;
};

bool same(const TensorView& a, const TensorView& b) {
  return a.bytes() == b.bytes() && std::memcmp(a.raw(), b.raw(), static_cast<std::size_t>(a.bytes())) == 0;
}

/// By io_uring where the system has it, and by threads.
std::vector<std::unique_ptr<Store>> stores(Fixture& fixture, const fs::path& folder,
                                           const std::vector<std::int64_t>& sizes) {
  std::vector<std::unique_ptr<Store>> all;
  all.push_back(fixture.nvme(folder, sizes));
  all.push_back(fixture.nvme(folder, sizes, thread_io(3)));
  return all;
}

TEST_CASE("regions of every size come back as they were written") {
  Fixture fixture;
  const test::TemporaryFolder folder;
  const std::vector<std::int64_t> sizes = {0, 1, 511, 4095, 4096, 4097, 65'537, (1 << 20) - 1, (3 << 20) + 1, 8192};
  std::vector<core::Tensor> contents;
  for (std::size_t r = 0; r < sizes.size(); ++r) contents.push_back(fixture.bytes(sizes[r], r));
  for (const std::unique_ptr<Store>& store : stores(fixture, folder.path(), sizes)) {
    REQUIRE(store->regions() == static_cast<int>(sizes.size()));
    std::vector<Transfer> transfers;
    for (int r = 0; r < store->regions(); ++r) {
      transfers.push_back(store->write(r, 0, contents[static_cast<std::size_t>(r)].view));
    }
    for (Transfer& transfer : transfers) transfer.wait();
    for (int r = store->regions(); r-- > 0;) {
      const core::Tensor back = fixture.bytes(sizes[static_cast<std::size_t>(r)], 99);
      Transfer transfer = store->read(r, 0, back.view);
      while (!transfer.test()) {
      }
      CHECK(same(back.view, contents[static_cast<std::size_t>(r)].view));
    }
    // A part in the middle, to memory that does not lie as O_DIRECT asks, and its neighbours as they were.
    const core::Tensor larger = fixture.bytes((3 << 20) + 9, 5);
    const TensorView part = larger.view.slice(0, 3, 3 + 4096 * 30);
    store->write(8, 8192, part).wait();
    const core::Tensor back = fixture.bytes(sizes[8], 98);
    store->read(8, 0, back.view).wait();
    CHECK(same(back.view.slice(0, 0, 8192), contents[8].view.slice(0, 0, 8192)));
    CHECK(same(back.view.slice(0, 8192, 8192 + part.elements()), part));
    const std::int64_t after = 8192 + part.elements();
    CHECK(same(back.view.slice(0, after, sizes[8]), contents[8].view.slice(0, after, sizes[8])));
    store->read(8, 1 << 20, larger.view.slice(0, 1, 1 + sizes[8] - (1 << 20))).wait();
    CHECK(same(larger.view.slice(0, 1, 1 + sizes[8] - (1 << 20)), contents[8].view.slice(0, 1 << 20, sizes[8])));
  }
  CHECK(fs::is_empty(folder.path()));  // no name, ever
}

TEST_CASE("transfers that cannot be are refused") {
  Fixture fixture;
  const test::TemporaryFolder folder;
  const core::Tensor memory = fixture.bytes(10'000, 1);
  for (const std::unique_ptr<Store>& store : stores(fixture, folder.path(), {10'000})) {
    CHECK_THROWS_WITH(store->read(1, 0, memory.view), Contains("no such region"));
    CHECK_THROWS_WITH(store->read(0, 17, memory.view.slice(0, 0, 100)), Contains("begin at multiples of 4096"));
    CHECK_THROWS_WITH(store->write(0, 4096, memory.view), Contains("within the region"));
    CHECK_THROWS_WITH(store->write(0, 0, memory.view.slice(0, 0, 100)), Contains("end at multiples of 4096"));
    CHECK_NOTHROW(store->write(0, 8192, memory.view.slice(0, 0, 10'000 - 8192)).wait());
  }
}

TEST_CASE("a folder that is none is named") {
  Fixture fixture;
  CHECK_THROWS_WITH(fixture.nvme("/nowhere/at/all", {1}), Contains("/nowhere/at/all"));
}

/// Takes `steps` of an optimizer, whole in memory or chunk by chunk from a store, and gives the bytes of all items.
using Step = std::function<void(core::Stream&, const optimizer::Slice&, std::span<const TensorView>, std::int64_t)>;

struct Problem {
  Problem(Fixture& fixture, std::int64_t count, int states)
      : elements(count), gradient(fixture.tensor(count, Dtype::kBfloat16)) {
    const core::RandomStream random(7, core::Purpose::kData);
    for (int t = 0; t < states + 1; ++t) {
      items.push_back(fixture.tensor(count));
      for (std::int64_t i = 0; i < count; ++i) {
        items.back().view.data<float>()[i] = t > 0 ? 0.0f : core::uniform(random.word(static_cast<std::uint64_t>(i)));
      }
    }
    for (std::int64_t i = 0; i < count; ++i) {
      gradient.view.data<core::Bfloat16>()[i] =
          core::to_bfloat16(core::uniform(random.word(static_cast<std::uint64_t>(count + i))) - 0.5f);
    }
  }
  std::int64_t elements;
  core::Tensor gradient;
  std::vector<core::Tensor> items;
};

void check_steps(int states, const Step& step) {
  const test::TemporaryFolder folder;
  for (const std::int64_t elements : {std::int64_t{1}, std::int64_t{4097}, std::int64_t{70'001}}) {
    Fixture fixture;
    Problem whole(fixture, elements, states);
    const auto stream = core::make_stream(fixture.arena);
    const auto views_of = [](const std::vector<core::Tensor>& tensors) {
      std::vector<TensorView> views;
      for (const core::Tensor& tensor : tensors) views.push_back(tensor.view);
      return views;
    };
    for (std::int64_t s = 1; s <= 3; ++s) {
      const std::vector<TensorView> views = views_of(whole.items);
      step(*stream, {views[0], {}, whole.gradient.view, 0.5f}, views, s);
    }
    const std::vector<std::int64_t> sizes(static_cast<std::size_t>(states + 1), elements * 4);
    for (const std::int64_t chunk : {4096, 16'384, 1 << 20}) {
      for (const std::unique_ptr<Store>& store : stores(fixture, folder.path(), sizes)) {
        const Problem start(fixture, elements, states);
        std::vector<ChunkLoop::Item> items;
        for (int t = 0; t < states + 1; ++t) {
          store->write(t, 0, start.items[static_cast<std::size_t>(t)].view).wait();
          items.push_back({t, Dtype::kFloat32, true, Category::kOptimizer});
        }
        ChunkLoop loop(*store, fixture.arena, items, elements, chunk, 3, "test");
        for (std::int64_t s = 1; s <= 3; ++s) {
          if (s == 2) loop.prefetch();
          std::int64_t seen = 0;
          loop.run([&](std::int64_t begin, std::int64_t end, std::span<const TensorView> views) {
            REQUIRE(begin == seen);
            seen = end;
            step(*stream, {views[0], {}, start.gradient.view.slice(0, begin, end), 0.5f}, views, s);
          });
          REQUIRE(seen == elements);
        }
        loop.flush();
        for (int t = 0; t < states + 1; ++t) {
          const core::Tensor back = fixture.tensor(elements);
          store->read(t, 0, back.view).wait();
          CHECK(same(back.view, whole.items[static_cast<std::size_t>(t)].view));
        }
      }
    }
  }
}

TEST_CASE("an optimizer's steps in chunks have the bits of those in memory") {
  SECTION("AdamW") {
    const optimizer::Adam adam{1e-2, 0.9, 0.95, 1e-8, 0.1, optimizer::WeightDecay::kDecoupled};
    check_steps(2, [&](core::Stream& stream, const optimizer::Slice& slice, std::span<const TensorView> state,
                       std::int64_t step) { optimizer::adam_step(stream, slice, state[1], state[2], adam, step); });
  }
  SECTION("Adam") {
    const optimizer::Adam adam{1e-2, 0.9, 0.95, 1e-8, 0.1, optimizer::WeightDecay::kGradient};
    check_steps(2, [&](core::Stream& stream, const optimizer::Slice& slice, std::span<const TensorView> state,
                       std::int64_t step) { optimizer::adam_step(stream, slice, state[1], state[2], adam, step); });
  }
  SECTION("momentum") {
    const optimizer::Sgd sgd{1e-2, 0.1, 0.9, 0, true};
    check_steps(1, [&](core::Stream& stream, const optimizer::Slice& slice, std::span<const TensorView> state,
                       std::int64_t step) { optimizer::sgd_step(stream, slice, state[1], sgd, step); });
  }
  SECTION("gradient descent") {
    const optimizer::Sgd sgd{1e-2, 0.1, 0, 0, false};
    check_steps(0, [&](core::Stream& stream, const optimizer::Slice& slice, std::span<const TensorView>,
                       std::int64_t step) { optimizer::sgd_step(stream, slice, {}, sgd, step); });
  }
  SECTION("RMSProp, centered, with momentum") {
    const optimizer::RmsProp options{1e-2, 0.99, 1e-8, 0.1, 0.9, true};
    check_steps(
        3, [&](core::Stream& stream, const optimizer::Slice& slice, std::span<const TensorView> state, std::int64_t) {
          optimizer::rms_prop_step(stream, slice, state[1], state[2], state[3], options);
        });
  }
}

TEST_CASE("items that are only read stay as they are, and chunks keep to their memory") {
  Fixture fixture;
  const test::TemporaryFolder folder;
  constexpr std::int64_t kElements = 100'000;
  const auto store = fixture.nvme(folder.path(), {kElements * 2, kElements * 4});
  const core::Tensor gradient = fixture.bytes(kElements * 2, 3);
  store->write(0, 0, gradient.view).wait();
  const std::int64_t before = fixture.ledger.total_bytes(core::Space::kHost);
  {
    ChunkLoop loop(*store, fixture.arena,
                   {{0, Dtype::kBfloat16, false, Category::kGradients}, {1, Dtype::kFloat32, true, Category::kMaster}},
                   kElements, 8192, 2, "test");
    CHECK(fixture.ledger.current_bytes(core::Space::kHost, Category::kGradients) == 64 << 10);
    CHECK(fixture.ledger.current_bytes(core::Space::kHost, Category::kMaster) == 2 * 8192 * 4);
    loop.run([](std::int64_t, std::int64_t, std::span<const TensorView> tensors) {
      for (std::int64_t i = 0; i < tensors[0].elements(); ++i) tensors[0].data<core::Bfloat16>()[i] = {};
      for (std::int64_t i = 0; i < tensors[1].elements(); ++i) tensors[1].data<float>()[i] = 3;
    });
    loop.flush();
  }
  CHECK(fixture.ledger.total_bytes(core::Space::kHost) == before);
  const core::Tensor back = fixture.bytes(kElements * 2, 4);
  store->read(0, 0, back.view).wait();
  CHECK(same(back.view, gradient.view));
  const core::Tensor master = fixture.tensor(kElements);
  store->read(1, 0, master.view).wait();
  CHECK(master.view.data<float>()[kElements - 1] == 3);
}

TEST_CASE("loops that cannot be are refused") {
  Fixture fixture;
  const test::TemporaryFolder folder;
  const auto store = fixture.nvme(folder.path(), {400});
  const auto make = [&](ChunkLoop::Item item, std::int64_t elements, std::int64_t chunk, int depth) {
    ChunkLoop(*store, fixture.arena, {item}, elements, chunk, depth, "test");
  };
  CHECK_NOTHROW(make({0}, 100, 4096, 2));
  CHECK_THROWS_WITH(make({0}, 100, 1000, 2), Contains("whole blocks"));
  CHECK_THROWS_WITH(make({0}, 100, 4096, 1), Contains("two chunks"));
  CHECK_THROWS_WITH(make({0}, 101, 4096, 2), Contains("hold its elements"));
  CHECK_THROWS_WITH(make({1}, 100, 4096, 2), Contains("hold its elements"));
  CHECK_THROWS_WITH(make({0, Dtype::kInt4}, 100, 4096, 2), Contains("whole bytes"));
}

/// Does as told: pieces fail with an error, come short, or are not done at all.
class FailingIo final : public BlockIo {
 public:
  explicit FailingIo(int error, std::int64_t most) : error_(error), most_(most) {}
  std::string text() const override { return "failing"; }
  void start(Piece& piece) override {
    piece.done = std::min(most_, piece.bytes);
    piece.error = error_;
    piece.ended = true;
  }
  bool ended(Piece& piece) override { return piece.ended; }
  void wait(Piece&) override {}
  bool use_memory(std::span<const std::span<std::byte>>) override { return false; }

 private:
  int error_;
  std::int64_t most_;
};

TEST_CASE("failed and short transfers are errors that name the file") {
  Fixture fixture;
  const test::TemporaryFolder folder;
  const core::Tensor memory = fixture.bytes(8192, 1);
  const auto full = fixture.nvme(folder.path(), {8192}, std::make_unique<FailingIo>(ENOSPC, 0));
  CHECK_THROWS_WITH(full->write(0, 0, memory.view).wait(), Contains("cannot write 8192 bytes at byte 0 of") &&
                                                               Contains(folder.path().string()) &&
                                                               Contains("No space left"));
  const auto broken = fixture.nvme(folder.path(), {8192}, std::make_unique<FailingIo>(EIO, 0));
  CHECK_THROWS_WITH(broken->read(0, 0, memory.view).wait(), Contains("cannot read") && Contains("Input/output error"));
  const auto short_one = fixture.nvme(folder.path(), {8192}, std::make_unique<FailingIo>(0, 4096));
  CHECK_THROWS_WITH(short_one->read(0, 0, memory.view).wait(), Contains("only 4096 were transferred"));
  ChunkLoop loop(*full, fixture.arena, {{0}}, 2048, 4096, 2, "test");
  CHECK_THROWS_WITH(loop.run([](std::int64_t, std::int64_t, std::span<const TensorView>) {}),
                    Contains("No space left"));
}

/// The file without a name that this process has open in a folder, as a path by which it can be opened again.
fs::path nameless_in(const fs::path& folder) {
  for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    const std::string target = fs::read_symlink(entry.path(), gone).string();
    if (target.starts_with(folder.string() + "/") && target.ends_with(" (deleted)")) return entry.path();
  }
  return {};
}

TEST_CASE(
    "bytes are read from any place, by several threads, and a file that has lost them is an error that names it") {
  Fixture fixture;
  const test::TemporaryFolder folder;
  const std::vector<std::int64_t> sizes = {5000, (1 << 20) + 3};
  const core::Tensor content = fixture.bytes(sizes[1], 7);
  const auto store = fixture.nvme(folder.path(), sizes);
  store->write(1, 0, content.view).wait();
  const auto same_at = [&](std::int64_t offset, std::int64_t count) {
    std::vector<std::byte> bytes(static_cast<std::size_t>(count));
    store->read_bytes(1, offset, bytes);
    const auto* const expected = reinterpret_cast<const std::byte*>(content.view.data<std::int8_t>()) + offset;
    return std::equal(bytes.begin(), bytes.end(), expected);
  };
  CHECK(same_at(1, 1 << 20));
  auto other = std::async(std::launch::async, [&] { return same_at(0, sizes[1]); });
  CHECK(same_at(sizes[1] - 5, 5));
  CHECK(other.get());
  CHECK(same_at(17, 0));
  CHECK_THROWS_WITH(same_at(sizes[1] - 5, 6), Contains("within a region"));

  // What is written is what is read next, whatever was read before.
  const core::Tensor changed = fixture.bytes(8192, 8);
  store->write(1, 4096, changed.view).wait();
  std::vector<std::byte> bytes(8192);
  store->read_bytes(1, 4096, bytes);
  CHECK(std::memcmp(bytes.data(), changed.view.raw(), bytes.size()) == 0);

  const int fd = ::open(nameless_in(folder.path()).c_str(), O_WRONLY | O_CLOEXEC);
  REQUIRE(fd >= 0);
  REQUIRE(::ftruncate(fd, 8192) == 0);
  ::close(fd);
  CHECK_THROWS_WITH(same_at(0, sizes[1]), Contains("the scratch file in " + folder.path().string()));
}

TEST_CASE("what ends before it should is told by both ways of reading") {
  const test::TemporaryFolder folder;
  const fs::path file = folder.write("short", std::string(5000, 'x'));
  const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  std::vector<std::byte> memory(8192);
  std::string refusal;
  std::vector<std::unique_ptr<BlockIo>> all;
  all.push_back(thread_io(1));
  if (auto uring = uring_io(refusal)) {
    all.push_back(std::move(uring));
  } else {
    WARN("the system refuses io_uring: " << refusal);
  }
  for (const std::unique_ptr<BlockIo>& io : all) {
    Piece piece;
    piece.fd = fd;
    piece.data = memory.data();
    piece.bytes = 8192;
    io->start(piece);
    io->wait(piece);
    CHECK(piece.ended);
    CHECK(piece.done == 5000);
    CHECK(piece.error == 0);
    piece.writes = true;  // a file opened to read
    io->start(piece);
    io->wait(piece);
    CHECK(piece.error == EBADF);
    // More than are under way at a time.
    std::vector<Piece> many(1000);
    for (Piece& one : many) {
      one.fd = fd;
      one.data = memory.data();
      one.bytes = 1;
      io->start(one);
    }
    for (Piece& one : many) io->wait(one);
    for (const Piece& one : many) CHECK((one.done == 1 && one.error == 0));
  }
  ::close(fd);
}

/// A file system in memory of so many bytes; none where this process may not mount.
class SmallFileSystem {
 public:
  explicit SmallFileSystem(const std::string& size) {
    mounted_ = ::mount("none", folder_.path().c_str(), "tmpfs", 0, ("size=" + size).c_str()) == 0;
    if (!mounted_) WARN("no tmpfs can be mounted here: " << std::strerror(errno));
  }
  ~SmallFileSystem() {
    if (mounted_) ::umount2(folder_.path().c_str(), MNT_DETACH);
  }
  explicit operator bool() const { return mounted_; }
  const fs::path& path() const { return folder_.path(); }

 private:
  test::TemporaryFolder folder_;
  bool mounted_ = false;
};

TEST_CASE("a disk without space is an error before anything is written") {
  const SmallFileSystem disk("1m");
  if (!disk) return;
  Fixture fixture;
  CHECK_THROWS_WITH(fixture.nvme(disk.path(), {8 << 20}),
                    Contains("no space for offloading in " + disk.path().string()) &&
                        Contains("8.00 MiB are needed, 1.00 MiB are free"));
  const auto store = fixture.nvme(disk.path(), {512 << 10});
  struct statvfs status {};
  REQUIRE(::statvfs(disk.path().c_str(), &status) == 0);
  CHECK(status.f_bavail * status.f_frsize <= 512u << 10);  // taken at once
  CHECK_THROWS_WITH(fixture.nvme(disk.path(), {600 << 10}), Contains("no space for offloading"));
  const core::Tensor memory = fixture.bytes(512 << 10, 1), back = fixture.bytes(512 << 10, 2);
  store->write(0, 0, memory.view).wait();
  store->read(0, 0, back.view).wait();
  CHECK(same(memory.view, back.view));
}

/// The exit status of `work` in a child process, which is ended by a signal where that is not 0.
int in_child(const std::function<int()>& work) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    try {
      ::_exit(work());
    } catch (...) {
      ::_exit(99);
    }
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void refuse_calls(const std::vector<std::pair<int, std::optional<scmp_arg_cmp>>>& calls, int error) {
  scmp_filter_ctx context = ::seccomp_init(SCMP_ACT_ALLOW);
  for (const auto& [call, argument] : calls) {
    if (argument) {
      ::seccomp_rule_add_array(context, SCMP_ACT_ERRNO(static_cast<unsigned>(error)), call, 1, &*argument);
    } else {
      ::seccomp_rule_add(context, SCMP_ACT_ERRNO(static_cast<unsigned>(error)), call, 0);
    }
  }
  if (::seccomp_load(context) != 0) throw core::Error("seccomp_load failed");
  ::seccomp_release(context);
}

/// 0 where a store does its work, and logged what it should; else a number that tells what not.
int works_and_says(const fs::path& folder, const std::string& wanted) {
  Fixture fixture;
  const auto store = fixture.nvme(folder, {3'000'001});
  std::string logged;
  for (const std::string& line : fixture.logged) logged += line + "\n";
  if (logged.find(wanted) == std::string::npos) return 2;
  const core::Tensor memory = fixture.bytes(3'000'001, 1), back = fixture.bytes(3'000'001, 2);
  store->write(0, 0, memory.view).wait();
  store->read(0, 0, back.view).wait();
  if (!same(memory.view, back.view)) return 3;
  return fs::is_empty(folder) ? 0 : 4;
}

TEST_CASE("where io_uring is refused threads do its work, and the log says so") {
  const test::TemporaryFolder folder;
  for (const int error : {EPERM, ENOSYS}) {
    CHECK(in_child([&] {
            refuse_calls({{SCMP_SYS(io_uring_setup), std::nullopt}}, error);
            return works_and_says(folder.path(), std::string("the system refuses io_uring (") + std::strerror(error) +
                                                     "): offloading by 8 threads with pread and pwrite");
          }) == 0);
  }
}

TEST_CASE("a file system without O_TMPFILE, O_DIRECT or fallocate is used as it is, and the log says so") {
  const test::TemporaryFolder folder;
  const auto with_flag = [](int flag) {
    return scmp_arg_cmp{2, SCMP_CMP_MASKED_EQ, static_cast<scmp_datum_t>(flag), static_cast<scmp_datum_t>(flag)};
  };
  CHECK(in_child([&] {
          refuse_calls({{SCMP_SYS(openat), with_flag(O_TMPFILE)}}, EOPNOTSUPP);
          return works_and_says(folder.path(), "has no O_TMPFILE");
        }) == 0);
  CHECK(in_child([&] {
          refuse_calls({{SCMP_SYS(openat), with_flag(O_DIRECT)}}, EINVAL);
          return works_and_says(folder.path(), "has no O_DIRECT: its page cache is used");
        }) == 0);
  CHECK(in_child([&] {
          refuse_calls({{SCMP_SYS(fallocate), std::nullopt}}, EOPNOTSUPP);
          return works_and_says(folder.path(), "cannot keep space");
        }) == 0);
}

TEST_CASE("memory that cannot be registered is used as it is") {
  const test::TemporaryFolder folder;
  CHECK(in_child([&] {
          refuse_calls({{SCMP_SYS(io_uring_register), std::nullopt}}, ENOMEM);
          Fixture fixture;
          const auto store = fixture.nvme(folder.path(), {40'000});
          ChunkLoop loop(*store, fixture.arena, {{0}}, 10'000, 4096, 2, "test");
          if (loop.registered()) return 2;
          for (const float value : {1.0f, 2.0f}) {
            loop.run([&](std::int64_t, std::int64_t, std::span<const TensorView> tensors) {
              for (std::int64_t i = 0; i < tensors[0].elements(); ++i) tensors[0].data<float>()[i] = value;
            });
          }
          loop.flush();
          const core::Tensor back = fixture.tensor(10'000);
          store->read(0, 0, back.view).wait();
          return back.view.data<float>()[9'999] == 2.0f ? 0 : 3;
        }) == 0);
}

TEST_CASE("a process killed in the middle of it leaves nothing") {
  const test::TemporaryFolder folder;
  CHECK(in_child([&] {
          Fixture fixture;
          const auto store = fixture.nvme(folder.path(), {16 << 20});
          const core::Tensor memory = fixture.tensor(4 << 20);
          Transfer transfer = store->write(0, 0, memory.view);
          ::kill(::getpid(), SIGKILL);
          return 0;
        }) == 128 + SIGKILL);
  CHECK(fs::is_empty(folder.path()));
}

}  // namespace
}  // namespace braise::offload
