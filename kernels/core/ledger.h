// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace braise::core {

/// What memory is for.
enum class Category : std::uint8_t {
  kParameters,
  kGradients,
  kMaster,
  kOptimizer,
  kActivations,
  kKv,
  kCommunication,
  kWorkspace,
  kCheckpoint,  ///< a copy of the state while it is being written
};
inline constexpr int kCategories = 9;

/// "parameters", "gradients", ...: the names of metrics and of the plan.
std::string_view name(Category category);

/// Which memory: the device arena's, or what the worker uses besides. On a CPU both are the machine's memory, and are
/// still budgeted apart.
enum class Space : std::uint8_t { kDevice, kHost };
inline constexpr int kSpaces = 2;
std::string_view name(Space space);

inline constexpr std::int64_t kUnlimited = std::numeric_limits<std::int64_t>::max();

/// The account of a worker's memory: every allocation of tensors goes through it, with its category and its owner (a
/// module's name, such as "h.3.attn"). Threads may call it at once.
class MemoryLedger {
 public:
  /// Budgets in bytes, hard.
  explicit MemoryLedger(std::int64_t device_budget_bytes = kUnlimited, std::int64_t host_budget_bytes = kUnlimited);

  /// Records `bytes` more for that category and owner.
  /// Errors: core::Error, and nothing recorded, if the budget would be exceeded; it names the category, the owner, the
  /// size asked, the budget, and what is held by whom, largest first.
  void charge(Space space, Category category, std::string_view owner, std::int64_t bytes);

  /// Takes back what charge recorded.
  void release(Space space, Category category, std::string_view owner, std::int64_t bytes);

  std::int64_t budget_bytes(Space space) const { return budgets_[index(space)]; }

  /// Held now, at most ever, by category; `total_peak_bytes` is the greatest sum at one time, not the sum of peaks.
  std::int64_t current_bytes(Space space, Category category) const;
  std::int64_t peak_bytes(Space space, Category category) const;
  std::int64_t total_bytes(Space space) const;
  std::int64_t total_peak_bytes(Space space) const;

  /// Peaks start again from what is held now.
  void reset_peaks();

  struct Holding {
    Category category;
    std::string owner;
    std::int64_t bytes;
  };
  /// What is held by whom, largest first; owners that hold nothing are left out.
  std::vector<Holding> holdings(Space space) const;

  /// The end of an error's message: what is held by whom.
  std::string text(Space space) const;

 private:
  struct Account {
    std::array<std::int64_t, kCategories> current{};
    std::array<std::int64_t, kCategories> peak{};
    std::int64_t total = 0;
    std::int64_t total_peak = 0;
    std::map<std::pair<Category, std::string>, std::int64_t, std::less<>> owners;
  };
  static std::size_t index(Space space) { return static_cast<std::size_t>(space); }
  std::vector<Holding> holdings_locked(const Account& account) const;
  std::string text_locked(const Account& account) const;

  std::array<std::int64_t, kSpaces> budgets_;
  mutable std::mutex mutex_;
  std::array<Account, kSpaces> accounts_;
};

/// "1.50 GiB", "96.0 MiB", "512 bytes".
std::string bytes_text(std::int64_t bytes);

}  // namespace braise::core
