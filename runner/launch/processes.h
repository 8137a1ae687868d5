// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace braise::launch {

/// The environment variable that marks every process of an attempt: children inherit it wherever they go.
inline constexpr const char* kMarkVariable = "BRAISE_ATTEMPT";

/// All living processes of this machine that bear the mark.
std::vector<pid_t> marked_processes(const std::string& mark);

/// Sends SIGKILL to all processes that bear the mark, those that appear meanwhile included, and gives how many were
/// left to be killed. A process that took over the number of a dead one is never hit.
std::size_t kill_marked(const std::string& mark);

}  // namespace braise::launch
