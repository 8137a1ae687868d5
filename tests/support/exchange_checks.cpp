// SPDX-License-Identifier: Apache-2.0
#include "tests/support/exchange_checks.h"

#include <algorithm>
#include <array>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "kernels/comm/collectives.h"
#include "kernels/comm/groups.h"
#include "kernels/comm/workspace.h"
#include "kernels/core/error.h"
#include "kernels/core/half.h"

namespace braise::test {
namespace {

using comm::Collectives;
using comm::Pending;
using comm::Range;
using core::Category;
using core::Dtype;
using core::Shape;
using core::TensorView;

constexpr float kUntouched = -77.0f;

template <class What>
void expect(bool holds, const What& what, std::int64_t element) {
  if (!holds) throw core::Error(std::string(what) + ": element " + std::to_string(element) + " is wrong");
}

class Tensors {
 public:
  Tensors(core::Arena& arena, Dtype dtype, const std::vector<std::int64_t>& sizes) {
    for (const std::int64_t size : sizes) {
      memory_.push_back(arena.tensor(dtype, Shape{size}, Category::kGradients, "test"));
      views_.push_back(memory_.back().view);
      elements_ += size;
    }
  }
  const std::vector<TensorView>& views() const { return views_; }
  std::int64_t elements() const { return elements_; }

  float get(std::int64_t i) const {
    const auto [view, at] = find(i);
    if (view->dtype() == Dtype::kFloat32) return static_cast<const float*>(view->raw())[at];
    return core::to_float(static_cast<const core::Bfloat16*>(view->raw())[at]);
  }
  void set(std::int64_t i, float value) const {
    const auto [view, at] = find(i);
    if (view->dtype() == Dtype::kFloat32) {
      static_cast<float*>(view->raw())[at] = value;
    } else {
      static_cast<core::Bfloat16*>(view->raw())[at] = core::to_bfloat16(value);
    }
  }
  void fill(float value) const {
    for (std::int64_t i = 0; i < elements_; ++i) set(i, value);
  }

 private:
  std::pair<const TensorView*, std::int64_t> find(std::int64_t i) const {
    std::size_t t = 0;
    for (; i >= views_[t].elements(); ++t) i -= views_[t].elements();
    return {&views_[t], i};
  }
  std::vector<core::Tensor> memory_;
  std::vector<TensorView> views_;
  std::int64_t elements_ = 0;
};

float rounded_to(Dtype dtype, float value) {
  return dtype == Dtype::kFloat32 ? value : core::to_float(core::to_bfloat16(value));
}

/// What rank r gives of element i: of sizes so unlike that the order of a sum shows.
float given(Dtype dtype, int r, std::int64_t i) {
  return rounded_to(dtype, 1.0f / static_cast<float>(1 + r * 5 + i % 1013) * (r % 3 == 1 ? 1e5f : 1.0f));
}

float tree(Dtype dtype, int ranks, std::int64_t i) {
  std::array<float, 8> all{};
  const std::span<float> terms = std::span(all).first(static_cast<std::size_t>(ranks));
  for (int r = 0; r < ranks; ++r) terms[static_cast<std::size_t>(r)] = given(dtype, r, i);
  for (std::size_t distance = 1; distance < terms.size(); distance *= 2) {
    for (std::size_t r = 0; r + distance < terms.size(); r += 2 * distance) {
      terms[r] = rounded_to(dtype, terms[r] + terms[r + distance]);
    }
  }
  return terms[0];
}

/// Ranges of unlike sizes, on edges of 4096 elements but for the end; some may be empty.
std::vector<Range> uneven_ranges(std::int64_t elements, int ranks) {
  std::vector<Range> ranges;
  std::int64_t begin = 0;
  for (int r = 0; r < ranks; ++r) {
    const std::int64_t blocks = (elements + 4095) / 4096;
    const std::int64_t end =
        r + 1 == ranks ? elements : std::min(elements, begin + 4096 * ((blocks + ranks - 1) / ranks * (r % 3)));
    ranges.push_back({begin, end});
    begin = end;
  }
  return ranges;
}

struct Case {
  Dtype dtype;
  std::vector<std::int64_t> sizes;
  std::string text() const {
    return std::string(core::name(dtype)) + ", " + std::to_string(sizes.size()) + " tensors from " +
           std::to_string(sizes.front());
  }
};

class Checks {
 public:
  Checks(Collectives& collectives, core::Arena& arena, const Case& which)
      : comm_(collectives), arena_(arena), case_(which), me_(collectives.rank()), ranks_(collectives.size()) {
    for (const char* name : {"all_reduce_sum", "all_gather", "all_gather beside", "broadcast", "all_to_all", "receive",
                             "reduce_scatter_sum, the tensors themselves"}) {
      names_.push_back(std::string(name) + " " + which.text());
    }
  }

  void run() {
    all_reduce();
    for (const bool adds : {false, true}) {
      reduce_scatter(adds, false);
      reduce_scatter(adds, true);
    }
    all_gather();
    for (int root = 0; root < ranks_; ++root) broadcast(root);
    all_to_all();
    ring();
  }

 private:
  Tensors filled() const {
    Tensors tensors(arena_, case_.dtype, case_.sizes);
    for (std::int64_t i = 0; i < tensors.elements(); ++i) tensors.set(i, given(case_.dtype, me_, i));
    return tensors;
  }
  Range mine(const std::vector<Range>& ranges) const { return ranges[static_cast<std::size_t>(me_)]; }

  void all_reduce() {
    const Tensors tensors = filled();
    comm_.all_reduce_sum(tensors.views(), Category::kGradients).wait();
    for (std::int64_t i = 0; i < tensors.elements(); ++i) {
      expect(tensors.get(i) == rounded_to(case_.dtype, tree(case_.dtype, ranks_, i)), names_[0], i);
    }
  }

  void reduce_scatter(bool adds, bool even) {
    const std::string what = std::string("reduce_scatter_sum ") + (adds ? "added " : "") + case_.text();
    const Tensors tensors = filled();
    const std::vector<Range> ranges =
        even ? comm::even_ranges(tensors.elements(), ranks_, 4096) : uneven_ranges(tensors.elements(), ranks_);
    const Tensors shard(arena_, adds ? Dtype::kFloat32 : case_.dtype, {mine(ranges).size()});
    shard.fill(adds ? 0.1f : kUntouched);
    Pending pending =
        comm_.reduce_scatter_sum(tensors.views(), ranges, shard.views()[0],
                                 adds ? core::Accumulate::kAdd : core::Accumulate::kOverwrite, Category::kGradients);
    while (!pending.test()) std::this_thread::yield();
    for (std::int64_t i = 0; i < shard.elements(); ++i) {
      const float sum = tree(case_.dtype, ranks_, mine(ranges).begin + i);
      expect(shard.get(i) == (adds ? 0.1f + sum : rounded_to(case_.dtype, sum)), what, i);
    }
    for (std::int64_t i = 0; i < tensors.elements(); ++i) {
      expect(tensors.get(i) == given(case_.dtype, me_, i), names_[6], i);
    }
  }

  void all_gather() {
    const Tensors tensors(arena_, case_.dtype, case_.sizes);
    tensors.fill(kUntouched);
    std::vector<Range> ranges = uneven_ranges(tensors.elements(), ranks_);
    if (ranges.back().size() > 3) ranges.back().end -= 3;  // which no range holds
    const Tensors shard(arena_, case_.dtype, {mine(ranges).size()});
    for (std::int64_t i = 0; i < shard.elements(); ++i) shard.set(i, given(case_.dtype, me_, mine(ranges).begin + i));
    comm_.all_gather(shard.views()[0], ranges, tensors.views(), Category::kParameters).wait();
    for (int r = 0; r < ranks_; ++r) {
      const Range range = ranges[static_cast<std::size_t>(r)];
      for (std::int64_t i = range.begin; i < range.end; ++i) {
        expect(tensors.get(i) == given(case_.dtype, r, i), names_[1], i);
      }
    }
    for (std::int64_t i = ranges.back().end; i < tensors.elements(); ++i) {
      expect(tensors.get(i) == rounded_to(case_.dtype, kUntouched), names_[2], i);
    }
  }

  void broadcast(int root) {
    const Tensors tensors = filled();
    comm_.broadcast(tensors.views(), root, Category::kParameters).wait();
    for (std::int64_t i = 0; i < tensors.elements(); ++i) {
      expect(tensors.get(i) == given(case_.dtype, root, i), names_[3], i);
    }
  }

  /// Rank a gives rank b (a + 1) * (b + 2) elements, times a hundred, of tensors as long as the largest size.
  void all_to_all() {
    const auto count = [&](int a, int b) { return std::int64_t{100} * (a + 1) * (b + 2) * (a == 1 && b == 0 ? 0 : 1); };
    std::vector<Range> sent, received;
    std::int64_t out = 5, in = 7;
    for (int r = 0; r < ranks_; ++r) {
      sent.push_back({out, out += count(me_, r)});
      received.push_back({in, in += count(r, me_)});
    }
    const Tensors from(arena_, case_.dtype, {out}), to(arena_, case_.dtype, {in});
    to.fill(kUntouched);
    for (int r = 0; r < ranks_; ++r) {
      const Range range = sent[static_cast<std::size_t>(r)];
      for (std::int64_t i = range.begin; i < range.end; ++i) {
        from.set(i, given(case_.dtype, me_, 31 * r + i - range.begin));
      }
    }
    comm_.all_to_all(from.views()[0], sent, to.views()[0], received, Category::kActivations).wait();
    for (int r = 0; r < ranks_; ++r) {
      const Range range = received[static_cast<std::size_t>(r)];
      for (std::int64_t i = range.begin; i < range.end; ++i) {
        expect(to.get(i) == given(case_.dtype, r, 31 * me_ + i - range.begin), names_[4], i);
      }
    }
    for (std::int64_t i = 0; i < 7; ++i) expect(to.get(i) == rounded_to(case_.dtype, kUntouched), "all_to_all", i);
  }

  /// Two tensors to the right and two from the left at once, the larger first.
  void ring() {
    if (ranks_ == 1) return;
    const int right = (me_ + 1) % ranks_, left = (me_ + ranks_ - 1) % ranks_;
    const Tensors first = filled();
    const TensorView sent = first.views().back();
    const Tensors second(arena_, case_.dtype, {3});
    second.fill(static_cast<float>(me_));
    const Tensors first_in(arena_, case_.dtype, {sent.elements()}), second_in(arena_, case_.dtype, {3});
    std::vector<Pending> pending;
    pending.push_back(comm_.send(sent, right, Category::kActivations));
    pending.push_back(comm_.send(second.views()[0], right, Category::kActivations));
    pending.push_back(comm_.receive(first_in.views()[0], left, Category::kActivations));
    pending.push_back(comm_.receive(second_in.views()[0], left, Category::kActivations));
    for (Pending& one : pending) one.wait();
    const std::int64_t skipped = first.elements() - sent.elements();
    for (std::int64_t i = 0; i < sent.elements(); ++i) {
      expect(first_in.get(i) == given(case_.dtype, left, skipped + i), names_[5], i);
    }
    for (std::int64_t i = 0; i < 3; ++i) expect(second_in.get(i) == static_cast<float>(left), "second receive", i);
  }

  Collectives& comm_;
  core::Arena& arena_;
  const Case& case_;
  int me_, ranks_;
  std::vector<std::string> names_;
};

/// Many operations under way at once, waited for in another order.
void several_at_once(Collectives& comm, core::Arena& arena) {
  std::vector<Tensors> tensors;
  std::vector<Pending> pending;
  for (int k = 0; k < 6; ++k) {
    tensors.emplace_back(arena, k % 2 == 0 ? Dtype::kFloat32 : Dtype::kBfloat16,
                         std::vector<std::int64_t>{40'000 * (k + 1), 17});
    const Dtype dtype = tensors.back().views()[0].dtype();
    for (std::int64_t i = 0; i < tensors.back().elements(); ++i) tensors.back().set(i, given(dtype, comm.rank(), i));
  }
  for (std::size_t k = 0; k < tensors.size(); ++k) {
    pending.push_back(k % 3 == 2 ? comm.broadcast(tensors[k].views(), comm.size() - 1, Category::kParameters)
                                 : comm.all_reduce_sum(tensors[k].views(), Category::kGradients));
  }
  for (std::size_t k = tensors.size(); k-- > 0;) {
    pending[k].wait();
    const Dtype dtype = tensors[k].views()[0].dtype();
    for (std::int64_t i = 0; i < tensors[k].elements(); ++i) {
      const float expected = k % 3 == 2 ? given(dtype, comm.size() - 1, i) : tree(dtype, comm.size(), i);
      expect(tensors[k].get(i) == rounded_to(dtype, expected), "one of several operations", i);
    }
  }
}

void counted(comm::Communicator& comm, core::Arena& arena) {
  Collectives collectives(comm, arena, "data");
  const std::int64_t ranks = comm.size();
  const Tensors tensors(arena, Dtype::kFloat32, {16 * ranks});
  tensors.fill(1);
  collectives.all_reduce_sum(tensors.views(), Category::kGradients).wait();
  const comm::Traffic traffic = collectives.traffic();
  const auto gradients = static_cast<std::size_t>(Category::kGradients);
  expect(traffic.sent[gradients] == 2 * (ranks - 1) * 64 && traffic.received[gradients] == traffic.sent[gradients] &&
             traffic.sent[static_cast<std::size_t>(Category::kParameters)] == 0,
         "bytes counted", traffic.sent[gradients]);
}

/// Sums along each axis of tensor x data ranks.
void groups(comm::Communicator& comm, core::Arena& arena) {
  const int tensor = comm.size() % 2 == 0 ? 2 : 1;
  const comm::Groups axes = comm::make_groups(comm.size(), tensor, 1, comm.size() / tensor);
  const auto tensor_ranks = comm.split(axes.tensor_group(comm.rank()));
  const auto data_ranks = comm.split(axes.data_group(comm.rank()));
  Collectives tensor_axis(*tensor_ranks, arena, "tensor"), data_axis(*data_ranks, arena, "data");
  const Tensors a(arena, Dtype::kFloat32, {5000}), b(arena, Dtype::kFloat32, {5000});
  a.fill(static_cast<float>(1 << comm.rank()));
  b.fill(static_cast<float>(1 << comm.rank()));
  Pending first = tensor_axis.all_reduce_sum(a.views(), Category::kActivations);
  Pending second = data_axis.all_reduce_sum(b.views(), Category::kGradients);
  second.wait();
  first.wait();
  float along_tensor = 0, along_data = 0;
  for (const int r : axes.tensor_group(comm.rank())) along_tensor += static_cast<float>(1 << r);
  for (const int r : axes.data_group(comm.rank())) along_data += static_cast<float>(1 << r);
  for (std::int64_t i = 0; i < 5000; ++i) {
    expect(a.get(i) == along_tensor && b.get(i) == along_data, "sums along axes", i);
  }
}

}  // namespace

void exchange_checks(comm::Communicator& comm) {
  core::MemoryLedger ledger;
  core::Arena arena(core::kCpu, core::Space::kDevice, ledger);
  {
    Collectives collectives(comm, arena, "data");
    for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16}) {
      for (const std::vector<std::int64_t>& sizes : std::vector<std::vector<std::int64_t>>{
               {1}, {5, 0, 2}, {4096}, {4097, 12'289, 1}, {30'001, 7}, {std::int64_t{600'003}}}) {
        Checks(collectives, arena, {dtype, sizes}).run();
      }
    }
    several_at_once(collectives, arena);
    const std::int64_t held = ledger.peak_bytes(core::Space::kDevice, Category::kCommunication);
    expect(held <= comm::workspace_bytes(comm.size()) + 4096, "workspace within its bound", held);
  }
  counted(comm, arena);
  groups(comm, arena);
  expect(ledger.total_bytes(core::Space::kDevice) == 0, "memory given back", 0);
}

}  // namespace braise::test
