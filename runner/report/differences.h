// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "runner/report/past_run.h"

/// How two runs differ in all but their results: lines for people, "  stages.pretrain.steps: 8 -> 16"; empty where they
/// do not. Errors: core::Error where a file of a run cannot be read.
namespace braise::report {

/// The keys of the resolved recipes (of a sweep: of its first point); the jobs, their workers and inputs from outside.
std::string different_recipe(const journal::RunDirectory& a, const journal::RunDirectory& b);

/// What provenance.json tells, but for what differs between any two runs: times, command lines and their folders, the
/// run's own files.
std::string different_provenance(const journal::RunDirectory& a, const journal::RunDirectory& b);

/// The facts of the build that made a run, and of this one.
std::string different_build(const journal::RunDirectory& run);

/// The instruction-set tiers, processors and libraries that the workers of a job told, of all ranks and attempts; a job
/// may have another name in `b`. Nothing where either did not come so far.
std::string different_workers(const std::string& job_a, PastRun& a, const std::string& job_b, PastRun& b);

}  // namespace braise::report
