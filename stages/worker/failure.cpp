// SPDX-License-Identifier: Apache-2.0
#include "stages/worker/failure.h"

#include <unistd.h>

#include <new>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "stages/shared/io/file.h"

namespace braise::worker {

std::string Failure::to_string() const {
  return "rank " + std::to_string(rank) + " on host " + host + ": " + (place.empty() ? "" : place + ": ") + message;
}

nlohmann::json Failure::to_json() const {
  return {{"rank", rank}, {"host", host}, {"pid", ::getpid()}, {"place", place}, {"message", message}};
}

Failure current_failure(int rank, const std::string& host) {
  try {
    throw;
  } catch (const core::Error& error) {
    return {rank, host, error.place(), error.what()};
  } catch (const std::bad_alloc&) {
    return {rank, host, "", "out of memory"};
  } catch (const std::exception& error) {
    return {rank, host, "", error.what()};
  } catch (...) {
    return {rank, host, "", "an exception of unknown type"};
  }
}

void record_failure(const std::filesystem::path& attempt_dir, const Failure& failure) {
  io::write_file_durably(attempt_dir / ("failure." + std::to_string(failure.rank) + ".json"),
                         failure.to_json().dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

}  // namespace braise::worker
