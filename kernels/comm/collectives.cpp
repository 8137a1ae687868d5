// SPDX-License-Identifier: Apache-2.0
#include "kernels/comm/collectives.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <list>
#include <thread>
#include <utility>

#include "kernels/comm/operation.h"
#include "kernels/comm/transport.h"
#include "kernels/comm/workspace.h"
#include "kernels/core/device.h"
#include "kernels/core/error.h"
#include "kernels/core/parallel.h"

namespace braise::comm {
namespace {

/// Indices of the names a Note has.
enum Kind : std::uint64_t { kAllReduce, kReduceScatter, kAllGather, kBroadcast, kAllToAll, kPointToPoint };

// Tags of one operation's messages; between two ranks those in one direction are told apart by their phase.
enum Phase : int { kNotes, kParts, kResults, kPointNote, kPointParts, kPhases = 8 };

constexpr std::int64_t kMessageBytes = std::int64_t{4} << 20;
constexpr std::int64_t kLine = 16;  // elements; cuts of an all-reduce are at multiples of it

// Between looks at messages while the calling thread computes, or has waited for long.
constexpr std::chrono::microseconds kPause{50};
constexpr int kLooks = 200;

/// Of the dtypes that exchanged tensors may have: fp32, and those of 16 bits.
std::int64_t element_bytes(core::Dtype dtype) {
  return dtype == core::Dtype::kFloat32 ? 4 : 2;
}

/// FNV-1a over 64-bit words.
class Hash {
 public:
  Hash& add(std::int64_t value) {
    for (int i = 0; i < 8; ++i) {
      state_ = (state_ ^ ((static_cast<std::uint64_t>(value) >> (8 * i)) & 0xff)) * 0x100000001b3;
    }
    return *this;
  }
  std::uint64_t value() const { return state_; }

 private:
  std::uint64_t state_ = 0xcbf29ce484222325;
};

std::uint64_t layout_of(const Joined& joined, std::span<const Range> ranges, std::int64_t root) {
  Hash hash;
  hash.add(root);
  for (const core::TensorView& tensor : joined.tensors()) hash.add(tensor.elements());
  hash.add(-1);
  for (const Range& range : ranges) hash.add(range.begin).add(range.end);
  return hash.value();
}

void check_tensor(const char* operation, const core::ConstTensorView& tensor, core::Dtype dtype) {
  core::require(tensor.contiguous(), operation, "tensors must be contiguous");
  core::require(tensor.device().kind == core::DeviceKind::kCpu, operation, "tensors must be on the CPU");
  core::require(core::is_float(tensor.dtype()), operation, "tensors must be of a floating-point dtype");
  core::require(tensor.dtype() == dtype, operation, "tensors must be of one dtype");
}

void require_summable(const char* operation, core::Dtype dtype) {
  core::require(dtype == core::Dtype::kFloat32 || dtype == core::Dtype::kBfloat16, operation,
                "tensors that are summed must be fp32 or bf16");
}

Joined joined_of(const char* operation, std::span<const core::TensorView> tensors) {
  Joined joined(tensors);
  for (const core::TensorView& tensor : tensors) check_tensor(operation, tensor, joined.dtype());
  return joined;
}

/// What an operation only reads; its messages are sent from there.
core::TensorView writable(const core::ConstTensorView& tensor) {
  return {const_cast<void*>(tensor.raw()), tensor.dtype(), tensor.shape()};
}

void check_ranges(const char* operation, std::span<const Range> ranges, int ranks, std::int64_t elements) {
  core::require(ranges.size() == static_cast<std::size_t>(ranks), operation, "there must be one range for each rank");
  for (const Range& range : ranges) {
    core::require(range.begin >= 0 && range.begin <= range.end && range.end <= elements, operation,
                  "ranges must lie within the tensors");
  }
}

void check_disjoint(const char* operation, std::span<const Range> ranges) {
  std::int64_t end = 0;
  for (const Range& range : ranges) {
    if (range.size() == 0) continue;
    core::require(range.begin >= end, operation, "ranges must be in order and disjoint");
    end = range.end;
  }
}

/// Adds the messages for a range: rounds of so many elements, cut where tensors end.
void add_range(Chain& chain, const Joined& joined, const Range& range, std::int64_t round) {
  for (std::int64_t begin = range.begin, k = 0; begin < range.end; begin += round, ++k) {
    joined.for_each(begin, std::min(begin + round, range.end),
                    [&](const core::TensorView& piece, std::int64_t) { chain.add(k, bytes_of(piece)); });
  }
}

}  // namespace

std::vector<Range> even_ranges(std::int64_t elements, int ranks, std::int64_t block) {
  core::require(elements >= 0 && ranks >= 1 && block >= 1, "even_ranges", "there must be elements, ranks and blocks");
  const std::int64_t blocks = (elements + block - 1) / block;
  std::vector<Range> ranges;
  for (std::int64_t r = 0; r < ranks; ++r) {
    ranges.push_back(
        {std::min(elements, blocks * r / ranks * block), std::min(elements, blocks * (r + 1) / ranks * block)});
  }
  return ranges;
}

Pending::Pending(std::shared_ptr<Operation> operation) : operation_(std::move(operation)) {}

Pending& Pending::operator=(Pending&& other) noexcept {
  if (this != &other) {
    Pending old = std::move(*this);
    operation_ = std::move(other.operation_);
  }
  return *this;
}

Pending::~Pending() {
  if (operation_ == nullptr) return;
  Signal& signal = *operation_->signal();
  std::unique_lock lock(signal.mutex);
  operation_->given_up = true;
  signal.changed.notify_all();
  signal.changed.wait(lock, [&] { return operation_->ended; });
}

bool Pending::test() {
  if (operation_ == nullptr) return true;
  {
    const std::scoped_lock lock(operation_->signal()->mutex);
    if (!operation_->ended) return false;
  }
  wait();
  return true;
}

void Pending::wait() {
  if (operation_ == nullptr) return;
  Signal& signal = *operation_->signal();
  std::unique_lock lock(signal.mutex);
  ++signal.waiting;
  signal.changed.wait(lock, [&] { return operation_->ended; });
  --signal.waiting;
  const std::exception_ptr failure = operation_->failure;
  lock.unlock();
  operation_.reset();
  if (failure != nullptr) std::rethrow_exception(failure);
}

/// The thread that does the operations, and what it shares with the calling one.
class Collectives::Engine {
 public:
  Engine(Communicator& comm, core::Arena& arena, std::string axis)
      : rank_(comm.rank()),
        size_(comm.size()),
        axis_(std::move(axis)),
        transport_(comm.transport()),
        arena_(arena),
        stream_(core::make_stream(arena)),
        to_(static_cast<std::size_t>(size_)),
        from_(static_cast<std::size_t>(size_)),
        thread_([this] { run(); }) {}

  ~Engine() {
    {
      const std::scoped_lock lock(signal_->mutex);
      stopping_ = true;
    }
    signal_->changed.notify_all();
    thread_.join();
  }

  int rank() const { return rank_; }
  int size() const { return size_; }
  core::Stream& stream() { return *stream_; }
  const std::shared_ptr<Signal>& signal() const { return signal_; }
  std::string where(const char* operation) const { return axis_ + " axis: " + operation; }

  Workspace& workspace() {
    if (!workspace_.block) {
      const std::string owner = axis_ + " sums";
      workspace_.slots = arena_.allocate(2 * (size_ - 1) * slot_bytes(size_), core::Category::kCommunication, owner);
      workspace_.block = arena_.allocate(kSumBlock * 4, core::Category::kCommunication, owner);
    }
    return workspace_;
  }

  /// Messages with each other rank, nearest first, so that not all send to the same one.
  template <class Visit>
  void for_peers(const Visit& visit) const {
    for (int i = 1; i < size_; ++i) visit((rank_ + i) % size_, (rank_ + size_ - i) % size_);
  }

  /// The first tag of the next collective operation.
  int next_tag() { return tag_of(collectives_++); }
  int next_tag_to(int peer) { return tag_of(to_[static_cast<std::size_t>(peer)]++); }
  int next_tag_from(int peer) { return tag_of(from_[static_cast<std::size_t>(peer)]++); }

  Chain chain(Chain::Direction direction, int peer, int tag) { return {*transport_, direction, peer, tag}; }

  /// All ranks tell each other the same.
  void compare(Operation& operation, int tag, const Note& note) {
    for_peers([&](int to, int from) {
      operation.tell(*transport_, to, tag + kNotes, note);
      operation.hear(*transport_, from, tag + kNotes, note);
    });
  }
  Transport& transport() { return *transport_; }

  void start(std::shared_ptr<Operation> operation) {
    {
      const std::scoped_lock lock(signal_->mutex);
      if (failure_ != nullptr) std::rethrow_exception(failure_);
      started_.push_back(std::move(operation));
    }
    signal_->changed.notify_all();
  }

  Traffic traffic() const {
    const std::scoped_lock lock(signal_->mutex);
    return traffic_;
  }

 private:
  static int tag_of(std::uint64_t number) {
    static_assert((Transport::kMostTag + 1) % kPhases == 0);
    return static_cast<int>(number % ((Transport::kMostTag + 1) / kPhases)) * kPhases;
  }

  void run();
  bool advance(Operation& operation);
  void end(Operation& operation, std::exception_ptr failure);

  const int rank_;
  const int size_;
  const std::string axis_;
  std::unique_ptr<Transport> transport_;
  core::Arena& arena_;
  std::unique_ptr<core::Stream> stream_;  // the thread's
  Workspace workspace_;

  std::uint64_t collectives_ = 0;
  std::vector<std::uint64_t> to_, from_;  // point to point, by peer

  std::shared_ptr<Signal> signal_ = std::make_shared<Signal>();
  // Under the signal's mutex.
  std::list<std::shared_ptr<Operation>> started_;
  std::exception_ptr failure_;
  Traffic traffic_;
  bool stopping_ = false;

  std::thread thread_;  // last: it uses the others
};

void Collectives::Engine::end(Operation& operation, std::exception_ptr failure) {
  Traffic more;
  const auto category = static_cast<std::size_t>(operation.category());
  if (failure == nullptr) {
    more.sent[category] = operation.bytes(Chain::Direction::kSend);
    more.received[category] = operation.bytes(Chain::Direction::kReceive);
  }
  operation.release();
  {
    const std::scoped_lock lock(signal_->mutex);
    traffic_.sent[category] += more.sent[category];
    traffic_.received[category] += more.received[category];
    if (failure != nullptr && failure_ == nullptr) failure_ = failure;
    operation.failure = failure;
    operation.ended = true;
  }
  signal_->changed.notify_all();
}

bool Collectives::Engine::advance(Operation& operation) {
  try {
    const bool changed = operation.advance();
    if (operation.finished()) end(operation, nullptr);
    return changed;
  } catch (...) {
    end(operation, std::current_exception());
    return true;
  }
}

void Collectives::Engine::run() {
  const core::OneThread one_thread;
  std::list<std::shared_ptr<Operation>> active;
  int idle = 0;  // looks in a row at which nothing had changed
  for (;;) {
    std::exception_ptr failure;
    {
      std::unique_lock lock(signal_->mutex);
      if (active.empty()) signal_->changed.wait(lock, [&] { return stopping_ || !started_.empty(); });
      active.splice(active.end(), started_);
      const bool given_up = std::ranges::any_of(active, [](const auto& operation) { return operation->given_up; });
      if ((stopping_ || given_up) && !active.empty() && failure_ == nullptr) {
        failure_ = std::make_exception_ptr(
            core::Error(axis_ + " axis: an operation among ranks was given up before it was done"));
      }
      failure = failure_;
      if (stopping_ && active.empty()) return;
    }
    bool changed = false;
    bool workspace_taken = false;
    for (auto it = active.begin(); it != active.end();) {
      Operation& operation = **it;
      if (failure != nullptr) {
        end(operation, failure);
        changed = true;
      } else if (!operation.needs_workspace() || !workspace_taken) {
        workspace_taken |= operation.needs_workspace();
        changed |= advance(operation);
      }
      const bool ended = [&] {
        const std::scoped_lock lock(signal_->mutex);
        return operation.ended;
      }();
      it = ended ? active.erase(it) : std::next(it);
    }
    idle = changed ? 0 : idle + 1;
    if (changed) continue;
    if (signal_->waiting > 0 && idle < kLooks) {
      sched_yield();  // the calling thread sleeps; other ranks may need the core
    } else {
      std::this_thread::sleep_for(kPause);
    }
  }
}

Collectives::Collectives(Communicator& comm, core::Arena& arena, std::string axis)
    : engine_(std::make_unique<Engine>(comm, arena, std::move(axis))) {}

Collectives::~Collectives() = default;

int Collectives::rank() const {
  return engine_->rank();
}
int Collectives::size() const {
  return engine_->size();
}
Traffic Collectives::traffic() const {
  return engine_->traffic();
}

namespace {

/// A sum over ranks, and the exchange of its results where `gathers`.
template <class EngineType>
std::shared_ptr<Operation> make_sum(EngineType& engine, const char* name, const Joined& joined,
                                    std::span<const Range> owned, const Joined& result, core::Accumulate accumulate,
                                    core::Category category, bool gathers) {
  const auto range_of = [&](int rank) { return owned[static_cast<std::size_t>(rank)]; };
  const Range mine = range_of(engine.rank());
  std::vector<core::TensorView> terms;
  joined.for_each(mine.begin, mine.end, [&](const core::TensorView& piece, std::int64_t) { terms.push_back(piece); });
  const std::int64_t bytes = slot_bytes(engine.size());
  const std::int64_t round = bytes / element_bytes(joined.dtype());
  Workspace& workspace = engine.workspace();
  auto operation = std::make_shared<SumOperation>(
      engine.signal(), category, engine.where(name), engine.rank(),
      SumOperation::Work{Joined(terms), result, accumulate, round, engine.size()}, workspace, engine.stream());
  const int tag = engine.next_tag();
  engine.compare(*operation, tag,
                 {gathers ? kAllReduce : kReduceScatter, static_cast<std::uint64_t>(joined.dtype()),
                  static_cast<std::uint64_t>(joined.elements()), static_cast<std::uint64_t>(joined.elements()),
                  layout_of(joined, owned, 0)});
  for (int i = 1; i < engine.size(); ++i) {
    const int peer = (engine.rank() + i) % engine.size();
    Chain to = engine.chain(Chain::Direction::kSend, peer, tag + kParts);
    add_range(to, joined, range_of(peer), round);
    operation->scatter_to(std::move(to));
    Chain from = engine.chain(Chain::Direction::kReceive, peer, tag + kParts);
    // Cut as the sender cuts it, into slots.
    for (std::int64_t begin = mine.begin, k = 0; begin < mine.end; begin += round, ++k) {
      std::byte* const slot = SumOperation::slot(workspace, engine.rank(), peer, k, bytes);
      joined.for_each(begin, std::min(begin + round, mine.end),
                      [&](const core::TensorView& piece, std::int64_t offset) {
                        from.add(k, {slot + offset * element_bytes(joined.dtype()), bytes_of(piece).size()});
                      });
    }
    operation->scatter_from(std::move(from));
    if (!gathers) continue;
    Chain result_to = engine.chain(Chain::Direction::kSend, peer, tag + kResults);
    add_range(result_to, joined, mine, round);
    operation->gather_to(std::move(result_to));
    Chain result_from = engine.chain(Chain::Direction::kReceive, peer, tag + kResults);
    add_range(result_from, joined, range_of(peer), round);
    operation->gather_from(std::move(result_from));
  }
  return operation;
}

}  // namespace

Pending Collectives::all_reduce_sum(std::span<const core::TensorView> tensors, core::Category category) {
  const Joined joined = joined_of("all_reduce_sum", tensors);
  require_summable("all_reduce_sum", joined.dtype());
  if (size() == 1) return {};
  const std::vector<Range> owned = even_ranges(joined.elements(), size(), kLine);
  const Range mine = owned[static_cast<std::size_t>(rank())];
  std::vector<core::TensorView> result;
  joined.for_each(mine.begin, mine.end, [&](const core::TensorView& piece, std::int64_t) { result.push_back(piece); });
  std::shared_ptr<Operation> operation =
      make_sum(*engine_, "all_reduce_sum", joined, owned, Joined(result), core::Accumulate::kOverwrite, category, true);
  engine_->start(operation);
  return Pending(std::move(operation));
}

Pending Collectives::reduce_scatter_sum(std::span<const core::TensorView> tensors, std::span<const Range> owned,
                                        const core::TensorView& shard, core::Accumulate accumulate,
                                        core::Category category) {
  constexpr const char* kName = "reduce_scatter_sum";
  const Joined joined = joined_of(kName, tensors);
  check_ranges(kName, owned, size(), joined.elements());
  check_disjoint(kName, owned);
  check_tensor(kName, shard, shard.dtype());
  require_summable(kName, joined.dtype());
  require_summable(kName, shard.dtype());
  core::require(shard.elements() == owned[static_cast<std::size_t>(rank())].size(), kName,
                "the shard must have as many elements as this rank's range");
  core::require(accumulate == core::Accumulate::kOverwrite || shard.dtype() == core::Dtype::kFloat32, kName,
                "what is added to must be fp32");
  std::shared_ptr<Operation> operation =
      make_sum(*engine_, kName, joined, owned, Joined(std::span(&shard, 1)), accumulate, category, false);
  engine_->start(operation);
  return Pending(std::move(operation));
}

Pending Collectives::all_gather(const core::ConstTensorView& shard, std::span<const Range> owned,
                                std::span<const core::TensorView> tensors, core::Category category) {
  constexpr const char* kName = "all_gather";
  const Joined joined = joined_of(kName, tensors);
  check_ranges(kName, owned, size(), joined.elements());
  check_disjoint(kName, owned);
  check_tensor(kName, shard, joined.dtype());
  const Range mine = owned[static_cast<std::size_t>(rank())];
  core::require(shard.elements() == mine.size(), kName, "the shard must have as many elements as this rank's range");
  const core::TensorView flat = writable(shard).reshaped(core::Shape{shard.elements()});
  const std::int64_t round = kMessageBytes / element_bytes(joined.dtype());
  const int tag = engine_->next_tag();
  auto operation = std::make_shared<ExchangeOperation>(engine_->signal(), category, engine_->where(kName), rank());
  engine_->compare(
      *operation, tag,
      {kAllGather, static_cast<std::uint64_t>(joined.dtype()), static_cast<std::uint64_t>(joined.elements()),
       static_cast<std::uint64_t>(joined.elements()), layout_of(joined, owned, 0)});
  engine_->for_peers([&](int to, int from) {
    // Cut where the receiver's tensors end, which are as large as these.
    Chain sent = engine_->chain(Chain::Direction::kSend, to, tag + kParts);
    for (std::int64_t begin = mine.begin, k = 0; begin < mine.end; begin += round, ++k) {
      joined.for_each(begin, std::min(begin + round, mine.end),
                      [&](const core::TensorView& piece, std::int64_t offset) {
                        const std::int64_t first = begin - mine.begin + offset;
                        sent.add(k, bytes_of(flat.slice(0, first, first + piece.elements())));
                      });
    }
    operation->add(std::move(sent));
    Chain received = engine_->chain(Chain::Direction::kReceive, from, tag + kParts);
    add_range(received, joined, owned[static_cast<std::size_t>(from)], round);
    operation->add(std::move(received));
  });
  // This rank's own part, unless it is there already.
  joined.for_each(mine.begin, mine.end, [&](const core::TensorView& piece, std::int64_t offset) {
    const std::span<std::byte> from = bytes_of(flat.slice(0, offset, offset + piece.elements()));
    if (from.data() != bytes_of(piece).data()) std::copy(from.begin(), from.end(), bytes_of(piece).begin());
  });
  engine_->start(operation);
  return Pending(std::move(operation));
}

Pending Collectives::broadcast(std::span<const core::TensorView> tensors, int root, core::Category category) {
  constexpr const char* kName = "broadcast";
  const Joined joined = joined_of(kName, tensors);
  core::require(root >= 0 && root < size(), kName, "the root must be a rank");
  const std::vector<Range> parts = even_ranges(joined.elements(), size(), kLine);
  const auto part_of = [&](int r) { return parts[static_cast<std::size_t>(r)]; };
  const std::int64_t round = kMessageBytes / element_bytes(joined.dtype());
  const int tag = engine_->next_tag();
  auto operation = std::make_shared<BroadcastOperation>(engine_->signal(), category, engine_->where(kName), rank());
  engine_->compare(
      *operation, tag,
      {kBroadcast, static_cast<std::uint64_t>(joined.dtype()), static_cast<std::uint64_t>(joined.elements()),
       static_cast<std::uint64_t>(joined.elements()), layout_of(joined, {}, root)});
  if (rank() != root) {
    Chain part = engine_->chain(Chain::Direction::kReceive, root, tag + kParts);
    add_range(part, joined, part_of(rank()), round);
    operation->set_part(std::move(part));
  }
  engine_->for_peers([&](int to, int from) {
    if (rank() == root) {
      Chain part = engine_->chain(Chain::Direction::kSend, to, tag + kParts);
      add_range(part, joined, part_of(to), round);
      operation->add(std::move(part));
    }
    if (to != root) {
      Chain passed = engine_->chain(Chain::Direction::kSend, to, tag + kResults);
      add_range(passed, joined, part_of(rank()), round);
      operation->pass_on(std::move(passed));
    }
    if (rank() != root) {
      Chain received = engine_->chain(Chain::Direction::kReceive, from, tag + kResults);
      add_range(received, joined, part_of(from), round);
      operation->add(std::move(received));
    }
  });
  engine_->start(operation);
  return Pending(std::move(operation));
}

Pending Collectives::all_to_all(const core::ConstTensorView& from, std::span<const Range> sent,
                                const core::TensorView& to, std::span<const Range> received, core::Category category) {
  constexpr const char* kName = "all_to_all";
  check_tensor(kName, from, from.dtype());
  check_tensor(kName, to, from.dtype());
  check_ranges(kName, sent, size(), from.elements());
  check_ranges(kName, received, size(), to.elements());
  const core::TensorView source = writable(from);
  const Joined joined_from(std::span(&source, 1)), joined_to(std::span(&to, 1));
  const auto at = [](std::span<const Range> ranges, int r) { return ranges[static_cast<std::size_t>(r)]; };
  const Range own_sent = at(sent, rank()), own_received = at(received, rank());
  core::require(own_sent.size() == own_received.size(), kName, "a rank must receive from itself what it sends itself");
  const std::int64_t round = kMessageBytes / element_bytes(from.dtype());
  const int tag = engine_->next_tag();
  auto operation = std::make_shared<ExchangeOperation>(engine_->signal(), category, engine_->where(kName), rank());
  engine_->for_peers([&](int peer, int) {
    const Note note{kAllToAll, static_cast<std::uint64_t>(from.dtype()),
                    static_cast<std::uint64_t>(at(sent, peer).size()),
                    static_cast<std::uint64_t>(at(received, peer).size()), 0};
    operation->tell(engine_->transport(), peer, tag + kNotes, note);
    operation->hear(engine_->transport(), peer, tag + kNotes, note);
    Chain out = engine_->chain(Chain::Direction::kSend, peer, tag + kParts);
    add_range(out, joined_from, at(sent, peer), round);
    operation->add(std::move(out));
    Chain in = engine_->chain(Chain::Direction::kReceive, peer, tag + kParts);
    add_range(in, joined_to, at(received, peer), round);
    operation->add(std::move(in));
  });
  const std::int64_t size = element_bytes(from.dtype());
  std::copy_n(bytes_of(source).begin() + own_sent.begin * size, own_sent.size() * size,
              bytes_of(to).begin() + own_received.begin * size);
  engine_->start(operation);
  return Pending(std::move(operation));
}

Pending Collectives::send(const core::ConstTensorView& tensor, int to, core::Category category) {
  constexpr const char* kName = "send";
  check_tensor(kName, tensor, tensor.dtype());
  core::require(to >= 0 && to < size() && to != rank(), kName, "the receiver must be another rank");
  const core::TensorView source = writable(tensor);
  const Joined joined(std::span(&source, 1));
  const int tag = engine_->next_tag_to(to);
  auto operation = std::make_shared<ExchangeOperation>(engine_->signal(), category, engine_->where(kName), rank());
  operation->tell(
      engine_->transport(), to, tag + kPointNote,
      {kPointToPoint, static_cast<std::uint64_t>(tensor.dtype()), static_cast<std::uint64_t>(tensor.elements()), 0, 0});
  Chain chain = engine_->chain(Chain::Direction::kSend, to, tag + kPointParts);
  add_range(chain, joined, {0, tensor.elements()}, kMessageBytes / element_bytes(tensor.dtype()));
  operation->add(std::move(chain));
  engine_->start(operation);
  return Pending(std::move(operation));
}

Pending Collectives::receive(const core::TensorView& tensor, int from, core::Category category) {
  constexpr const char* kName = "receive";
  check_tensor(kName, tensor, tensor.dtype());
  core::require(from >= 0 && from < size() && from != rank(), kName, "the sender must be another rank");
  const Joined joined(std::span(&tensor, 1));
  const int tag = engine_->next_tag_from(from);
  auto operation = std::make_shared<ExchangeOperation>(engine_->signal(), category, engine_->where(kName), rank());
  operation->hear(
      engine_->transport(), from, tag + kPointNote,
      {kPointToPoint, static_cast<std::uint64_t>(tensor.dtype()), 0, static_cast<std::uint64_t>(tensor.elements()), 0});
  Chain chain = engine_->chain(Chain::Direction::kReceive, from, tag + kPointParts);
  add_range(chain, joined, {0, tensor.elements()}, kMessageBytes / element_bytes(tensor.dtype()));
  operation->add(std::move(chain));
  engine_->start(operation);
  return Pending(std::move(operation));
}

}  // namespace braise::comm
