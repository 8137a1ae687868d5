// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <map>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace braise::telemetry {

using Clock = std::chrono::steady_clock;

/// A number shown with a span: {"bytes", 4096}. The name is a literal.
struct SpanArgument {
  const char* name = nullptr;
  std::int64_t value = 0;
};

/// What one rank did in chosen steps, as a trace in Chrome's JSON format, which ui.perfetto.dev and chrome://tracing
/// open: processes are ranks, threads are threads. Costs a load of a flag where it is off. Threads may record at once.
class Trace {
 public:
  /// Of the given steps, into `folder`/trace.<rank>.json. `zero` is the instant that ranks show as time 0: take it
  /// right after a barrier, so that clocks of hosts need not agree.
  Trace(const std::filesystem::path& folder, int rank, std::set<std::int64_t> steps, Clock::time_point zero);

  /// Whether spans are recorded now.
  bool is_on() const { return on_.load(std::memory_order_relaxed); }

  /// A step begins: recording starts where it is one of the chosen. On the thread that runs the training.
  void begin_step(std::int64_t step);

  /// The step ends, as a span of its own around what it recorded, and recording with it. Where the next step is not
  /// chosen, the file is written durably. Errors: core::Error naming the file.
  void end_step();

  /// Writes what is not written yet: call where training ends early. Errors: core::Error naming the file.
  void close();

  /// What the calling thread is called: "prefetch". Else the one that made the trace is "main", others "thread <n>".
  void name_thread(std::string_view name);

  /// A span of the calling thread. Where recording stopped before its end, it is left out.
  void record(std::string_view category, std::string_view name, Clock::time_point begin, Clock::time_point end,
              std::span<const SpanArgument> arguments = {});

 private:
  struct Event {
    std::string category, name;
    std::int64_t begin_ns, duration_ns;
    std::size_t thread;
    std::vector<SpanArgument> arguments;
  };

  std::size_t thread_index_locked();
  void write_locked();

  const std::filesystem::path path_;
  const int rank_;
  const std::set<std::int64_t> steps_;
  const Clock::time_point zero_;
  std::atomic<bool> on_ = false;
  std::int64_t step_ = 0;
  Clock::time_point step_begin_;
  std::mutex mutex_;
  std::vector<Event> events_;
  std::map<std::thread::id, std::size_t> indices_;
  std::vector<std::string> threads_;  ///< names, by index
  bool is_written_ = true;
};

/// A span of the calling thread from construction to destruction: for threads beside the training (prefetch, saving)
/// and for parts that are no phase.
class Span {
 public:
  /// `category`, `name` must outlive the span.
  Span(Trace& trace, std::string_view category, std::string_view name,
       std::initializer_list<SpanArgument> arguments = {});
  ~Span();
  Span(const Span&) = delete;
  Span& operator=(const Span&) = delete;

 private:
  Trace* trace_ = nullptr;  ///< null where the trace was off
  std::string_view category_, name_;
  std::vector<SpanArgument> arguments_;
  Clock::time_point begin_;
};

/// Puts trace.<rank>.json of all `ranks` together as `folder`/trace.json, durably: viewers open one file. Call on one
/// rank once all have written theirs (a barrier). Where none has, since training reached no chosen step, nothing is
/// written. Errors: core::Error naming a file that is broken, or missing beside others.
void merge_traces(const std::filesystem::path& folder, int ranks);

}  // namespace braise::telemetry
