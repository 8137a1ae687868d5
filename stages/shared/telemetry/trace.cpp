// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/telemetry/trace.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <ranges>
#include <tuple>
#include <utility>

#include "kernels/core/error.h"
#include "stages/shared/io/file.h"

namespace braise::telemetry {
namespace fs = std::filesystem;
namespace {

std::string file_name(int rank) {
  return "trace." + std::to_string(rank) + ".json";
}

std::string json_text(std::string_view text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

/// Microseconds, with all the digits that the clock gave.
std::string microseconds(std::int64_t ns) {
  char text[40];
  std::snprintf(text, sizeof text, "%lld.%03lld", static_cast<long long>(ns / 1000), static_cast<long long>(ns % 1000));
  return text;
}

std::int64_t nanoseconds(Clock::duration duration) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count();
}

/// A note about a process (`thread` 0) or a thread: its name, its place among others.
std::string note(std::string_view what, int rank, int thread, const std::string& arguments) {
  return "{\"ph\":\"M\",\"name\":" + json_text(what) + ",\"pid\":" + std::to_string(rank) +
         ",\"tid\":" + std::to_string(thread) + ",\"args\":{" + arguments + "}}";
}

std::string whole_trace(const std::vector<std::string>& events) {
  std::string text = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n";
  for (std::size_t i = 0; i < events.size(); ++i) text += events[i] + (i + 1 < events.size() ? ",\n" : "\n");
  return text + "]}\n";
}

}  // namespace

Trace::Trace(const fs::path& folder, int rank, std::set<std::int64_t> steps, Clock::time_point zero)
    : path_(folder / file_name(rank)),
      rank_(rank),
      steps_(std::move(steps)),
      zero_(zero),
      indices_{{std::this_thread::get_id(), 0}},
      threads_{"main"} {}

void Trace::begin_step(std::int64_t step) {
  step_ = step;
  if (!steps_.contains(step)) return;
  step_begin_ = Clock::now();
  on_.store(true, std::memory_order_relaxed);
}

void Trace::end_step() {
  if (!is_on()) return;
  const SpanArgument number = {"step", step_};
  record("step", "step " + std::to_string(step_), step_begin_, Clock::now(), std::span(&number, 1));
  on_.store(false, std::memory_order_relaxed);
  if (!steps_.contains(step_ + 1)) close();
}

void Trace::close() {
  const std::lock_guard lock(mutex_);
  if (is_written_) return;
  write_locked();
  is_written_ = true;
}

void Trace::name_thread(std::string_view name) {
  const std::lock_guard lock(mutex_);
  threads_[thread_index_locked()] = name;
}

std::size_t Trace::thread_index_locked() {
  const auto [found, is_new] = indices_.emplace(std::this_thread::get_id(), threads_.size());
  if (is_new) threads_.push_back("thread " + std::to_string(threads_.size()));
  return found->second;
}

void Trace::record(std::string_view category, std::string_view name, Clock::time_point begin, Clock::time_point end,
                   std::span<const SpanArgument> arguments) {
  const std::lock_guard lock(mutex_);
  if (!is_on()) return;
  events_.push_back({std::string(category),
                     std::string(name),
                     nanoseconds(begin - zero_),
                     nanoseconds(end - begin),
                     thread_index_locked(),
                     {arguments.begin(), arguments.end()}});
  is_written_ = false;
}

/// All that was recorded so far, sorted by time, and of spans that begin together the outer one first.
void Trace::write_locked() {
  std::stable_sort(events_.begin(), events_.end(), [](const Event& a, const Event& b) {
    return std::tuple(a.begin_ns, -a.duration_ns) < std::tuple(b.begin_ns, -b.duration_ns);
  });
  std::vector<std::string> lines;
  lines.push_back(note("process_name", rank_, 0, "\"name\":" + json_text("rank " + std::to_string(rank_))));
  lines.push_back(note("process_sort_index", rank_, 0, "\"sort_index\":" + std::to_string(rank_)));
  for (std::size_t i = 0; i < threads_.size(); ++i) {
    lines.push_back(note("thread_name", rank_, static_cast<int>(i) + 1, "\"name\":" + json_text(threads_[i])));
    lines.push_back(note("thread_sort_index", rank_, static_cast<int>(i) + 1, "\"sort_index\":" + std::to_string(i)));
  }
  for (const Event& event : events_) {
    std::string line = "{\"ph\":\"X\",\"name\":" + json_text(event.name) + ",\"cat\":" + json_text(event.category) +
                       ",\"pid\":" + std::to_string(rank_) + ",\"tid\":" + std::to_string(event.thread + 1) +
                       ",\"ts\":" + microseconds(event.begin_ns) + ",\"dur\":" + microseconds(event.duration_ns) +
                       ",\"args\":{";
    const char* separator = "";
    for (const SpanArgument& argument : event.arguments) {
      line += separator + json_text(argument.name) + ":" + std::to_string(argument.value);
      separator = ",";
    }
    lines.push_back(line + "}}");
  }
  io::write_file_durably(path_, whole_trace(lines));
}

Span::Span(Trace& trace, std::string_view category, std::string_view name,
           std::initializer_list<SpanArgument> arguments) {
  if (!trace.is_on()) return;
  trace_ = &trace;
  category_ = category;
  name_ = name;
  arguments_ = arguments;
  begin_ = Clock::now();
}

Span::~Span() {
  if (trace_ != nullptr) trace_->record(category_, name_, begin_, Clock::now(), arguments_);
}

void merge_traces(const fs::path& folder, int ranks) {
  std::vector<std::string> lines;
  const auto is_there = [&](int rank) { return fs::exists(folder / file_name(rank)); };
  const auto all = std::views::iota(0, ranks);
  if (std::none_of(all.begin(), all.end(), is_there)) return;
  for (int rank = 0; rank < ranks; ++rank) {
    const fs::path path = folder / file_name(rank);
    const nlohmann::json trace = nlohmann::json::parse(io::read_file(path), nullptr, false);
    if (!trace.is_object() || !trace.contains("traceEvents"))
      throw core::Error(path.string() + " is not a whole trace");
    for (const nlohmann::json& event : trace.at("traceEvents")) lines.push_back(event.dump());
  }
  io::write_file_durably(folder / "trace.json", whole_trace(lines));
}

}  // namespace braise::telemetry
