// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <vector>

namespace braise::test {

/// A number that the caller of the tests may give in the environment.
int from_environment(const char* name, int otherwise);

struct Process {
  pid_t pid = 0;
  std::string command;  ///< arguments, joined by blanks
};

/// Every process whose command line mentions `text`, this one excepted.
std::vector<Process> processes_with(const std::string& text);

/// Starts a program with its output in a file.
pid_t start(const std::vector<std::string>& arguments, const std::filesystem::path& output);

/// Whether a child has ended; it stays to be waited for.
bool has_ended(pid_t child);

/// Waits for a child: its exit status, or 128 and its signal.
int end_of(pid_t child);

/// Those whose command line mentions `text` and whose program has that name.
std::vector<pid_t> processes_of(const std::string& program, const std::string& text);

/// Whether within 5 s no process mentions `text` any more.
bool all_gone(const std::string& text);

/// Kills a process whose command line mentions `text` and whose program has that name, as soon as there is one: any of
/// them, by `choice`. False where `runner` ended before.
bool kill_one(const std::string& program, const std::string& text, pid_t runner, unsigned choice);

}  // namespace braise::test
