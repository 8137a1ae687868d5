// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace braise::core {

/// The threads a parallel_for of this thread uses at most: 1 inside of one.
inline int threads() {
#ifdef _OPENMP
  return omp_in_parallel() ? 1 : omp_get_max_threads();
#else
  return 1;
#endif
}

/// Index of the calling thread within a parallel_for: 0 to threads() - 1.
inline int thread_index() {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}

/// While it lives, what the calling thread starts uses one OpenMP thread: for libraries that would share work
/// themselves.
class [[maybe_unused]] OneThread {
 public:
#ifdef _OPENMP
  OneThread() : before_(threads()) {
    if (before_ > 1) omp_set_num_threads(1);
  }
  ~OneThread() {
    if (before_ > 1) omp_set_num_threads(before_);
  }
#else
  OneThread() = default;
#endif
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
#ifdef _OPENMP
  int before_;
#endif
};

/// Calls `work(i)` once for each i in [0, count), shared among the OpenMP threads in contiguous, even parts. What
/// `work` writes must depend on i only, never on the thread; it must not throw.
template <class Work>
void parallel_for(std::int64_t count, const Work& work) {
#ifdef _OPENMP
#pragma omp parallel for schedule(static) if (count > 1)
#endif
  for (std::int64_t i = 0; i < count; ++i) work(i);
}

/// Calls `work(begin, end)` for contiguous ranges that make up [0, count), one for each thread that has any: for work
/// that keeps something from one piece to the next. The same rules.
template <class Work>
void parallel_ranges(std::int64_t count, const Work& work) {
#ifdef _OPENMP
#pragma omp parallel if (count > 1)
  {
    const std::int64_t threads = omp_get_num_threads();
    const std::int64_t thread = omp_get_thread_num();
    const std::int64_t begin = count * thread / threads;
    const std::int64_t end = count * (thread + 1) / threads;
    if (begin < end) work(begin, end);
  }
#else
  if (count > 0) work(std::int64_t{0}, count);
#endif
}

/// The same for pieces of uneven cost: each thread takes the next piece when it is free.
template <class Work>
void parallel_for_uneven(std::int64_t count, const Work& work) {
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic, 1) if (count > 1)
#endif
  for (std::int64_t i = 0; i < count; ++i) work(i);
}

}  // namespace braise::core
