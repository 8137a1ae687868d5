// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/ledger.h"

#include <algorithm>
#include <cstdio>

#include "kernels/core/error.h"

namespace braise::core {
namespace {

std::size_t index_of(Category category) {
  return static_cast<std::size_t>(category);
}

}  // namespace

std::string_view name(Category category) {
  static constexpr std::array<std::string_view, kCategories> kNames{"parameters",    "gradients",   "master",
                                                                    "optimizer",     "activations", "kv",
                                                                    "communication", "workspace",   "checkpoint"};
  return kNames[index_of(category)];
}

std::string_view name(Space space) {
  return space == Space::kDevice ? "device" : "host";
}

MemoryLedger::MemoryLedger(std::int64_t device_budget_bytes, std::int64_t host_budget_bytes)
    : budgets_{device_budget_bytes, host_budget_bytes} {}

void MemoryLedger::charge(Space space, Category category, std::string_view owner, std::int64_t bytes) {
  const std::scoped_lock lock(mutex_);
  Account& account = accounts_[index(space)];
  if (bytes > budgets_[index(space)] - account.total) {
    throw Error(std::string(name(space)) + " memory: " + std::string(owner) + " asked for " + bytes_text(bytes) +
                " of " + std::string(name(category)) + ", and the budget of " + bytes_text(budgets_[index(space)]) +
                " has " + bytes_text(budgets_[index(space)] - account.total) + " left; " + text_locked(account));
  }
  account.total += bytes;
  account.total_peak = std::max(account.total_peak, account.total);
  std::int64_t& current = account.current[index_of(category)];
  current += bytes;
  account.peak[index_of(category)] = std::max(account.peak[index_of(category)], current);
  account.owners[{category, std::string(owner)}] += bytes;
}

void MemoryLedger::release(Space space, Category category, std::string_view owner, std::int64_t bytes) {
  const std::scoped_lock lock(mutex_);
  Account& account = accounts_[index(space)];
  account.total -= bytes;
  account.current[index_of(category)] -= bytes;
  account.owners[{category, std::string(owner)}] -= bytes;
}

std::int64_t MemoryLedger::current_bytes(Space space, Category category) const {
  const std::scoped_lock lock(mutex_);
  return accounts_[index(space)].current[index_of(category)];
}

std::int64_t MemoryLedger::peak_bytes(Space space, Category category) const {
  const std::scoped_lock lock(mutex_);
  return accounts_[index(space)].peak[index_of(category)];
}

std::int64_t MemoryLedger::total_bytes(Space space) const {
  const std::scoped_lock lock(mutex_);
  return accounts_[index(space)].total;
}

std::int64_t MemoryLedger::total_peak_bytes(Space space) const {
  const std::scoped_lock lock(mutex_);
  return accounts_[index(space)].total_peak;
}

void MemoryLedger::reset_peaks() {
  const std::scoped_lock lock(mutex_);
  for (Account& account : accounts_) {
    account.total_peak = account.total;
    account.peak = account.current;
  }
}

std::vector<MemoryLedger::Holding> MemoryLedger::holdings(Space space) const {
  const std::scoped_lock lock(mutex_);
  return holdings_locked(accounts_[index(space)]);
}

std::string MemoryLedger::text(Space space) const {
  const std::scoped_lock lock(mutex_);
  return text_locked(accounts_[index(space)]);
}

std::vector<MemoryLedger::Holding> MemoryLedger::holdings_locked(const Account& account) const {
  std::vector<Holding> holdings;
  for (const auto& [key, bytes] : account.owners) {
    if (bytes > 0) holdings.push_back({key.first, key.second, bytes});
  }
  std::ranges::stable_sort(holdings, std::greater{}, &Holding::bytes);
  return holdings;
}

std::string MemoryLedger::text_locked(const Account& account) const {
  if (account.total == 0) return "nothing is held";
  std::string text = bytes_text(account.total) + " are held:";
  for (int i = 0; i < kCategories; ++i) {
    const auto category = static_cast<Category>(i);
    const std::int64_t bytes = account.current[index_of(category)];
    if (bytes == 0) continue;
    if (text.back() != ':') text += ",";
    text += " " + std::string(name(category)) + " " + bytes_text(bytes);
  }
  constexpr std::size_t kShown = 5;
  const std::vector<Holding> holdings = holdings_locked(account);
  text += "; largest owners:";
  for (std::size_t i = 0; i < std::min(kShown, holdings.size()); ++i) {
    text += (i > 0 ? ", " : " ") + holdings[i].owner + " (" + std::string(name(holdings[i].category)) + ") " +
            bytes_text(holdings[i].bytes);
  }
  if (holdings.size() > kShown) text += ", and " + std::to_string(holdings.size() - kShown) + " more";
  return text;
}

std::string bytes_text(std::int64_t bytes) {
  constexpr std::array<const char*, 5> kUnits{"KiB", "MiB", "GiB", "TiB", "PiB"};
  if (bytes < 1024) return std::to_string(bytes) + " bytes";
  double value = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(),
                value < 10    ? "%.2f %s"
                : value < 100 ? "%.1f %s"
                              : "%.0f %s",
                value, kUnits[unit]);
  return text.data();
}

}  // namespace braise::core
