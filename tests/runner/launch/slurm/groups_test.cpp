// SPDX-License-Identifier: Apache-2.0
#include "runner/launch/slurm/groups.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "runner/launch/slurm/client.h"

namespace braise::launch::slurm {
namespace {

plan::Job job(const std::string& stage, const std::string& name, std::vector<std::string> needs, int threads = 1) {
  plan::Job job;
  job.spec.stage = stage;
  job.spec.job = name;
  job.spec.resources.nodes = job.spec.resources.workers_per_node = 1;
  job.spec.resources.threads = threads;
  job.spec.resources.device = "cpu";
  job.needs = std::move(needs);
  return job;
}

/// "a(x); b[0=x 2=y] after a, same as c, 1,2 of d".
std::string shown(const std::vector<Group>& groups) {
  std::string text;
  for (const Group& group : groups) {
    text += group.name + (group.array ? "[" : "(");
    for (const auto& [index, name] : group.jobs) {
      if (text.back() != '[' && text.back() != '(') text += " ";
      text += (group.array ? std::to_string(index) + "=" : "") + name;
    }
    text += group.array ? "]" : ")";
    for (const Dependency& dependency : group.after) {
      text += dependency.kind == Dependency::Kind::same_index ? " same as "
              : dependency.any_end                            ? " after any end of "
                                                              : " after ";
      for (const int index : dependency.indices) text += std::to_string(index) + ",";
      text += groups[dependency.group].name;
    }
    text += "\n";
  }
  return text;
}

plan::Plan sweep() {
  plan::Plan plan;
  plan.jobs = {job("corpus", "corpus", {}),
               job("pretrain", "pretrain.1", {"corpus"}),
               job("story", "story.1", {"pretrain.1"}),
               job("pretrain", "pretrain.2", {"corpus"}),
               job("story", "story.2", {"pretrain.2"}),
               job("best", "best", {"pretrain.1", "pretrain.2"})};
  return plan;
}

TEST_CASE("points of a sweep become arrays whose jobs wait for their own points") {
  CHECK(shown(make_groups(sweep(), {}, 1000)) ==
        "corpus(corpus)\n"
        "pretrain[0=pretrain.1 1=pretrain.2] after corpus\n"
        "story[0=story.1 1=story.2] same as pretrain\n"
        "best(best) after pretrain\n");
}

TEST_CASE("a selection waits for the end of every point, well or not, and the next rung for the selection") {
  plan::Plan plan;
  plan.jobs = {job("p", "p.1", {}), job("p", "p.2", {}), job("p", "p.3", {}), job("p.select", "p.select", {})};
  plan.jobs.back().candidates = {"p.1", "p.2", "p.3"};
  for (const int place : {0, 1}) {
    plan.jobs.push_back(job("p.rung-2", "p.rung-2." + std::to_string(place + 1), {"p.select"}));
    plan.jobs.back().choice = {"p.select", place, 0};
  }
  CHECK(shown(make_groups(plan, {}, 1000)) ==
        "p[0=p.1 1=p.2 2=p.3]\n"
        "p.select(p.select) after any end of p\n"
        "p.rung-2[0=p.rung-2.1 1=p.rung-2.2] after p.select after any end of p\n");
  CHECK(shown(make_groups(plan, {"p.1", "p.3"}, 1000)) ==
        "p(p.2)\n"
        "p.select(p.select) after any end of p\n"
        "p.rung-2[0=p.rung-2.1 1=p.rung-2.2] after p.select after any end of p\n");
}

TEST_CASE("what is done is left out, and nothing waits for it") {
  CHECK(shown(make_groups(sweep(), {"corpus", "pretrain.1"}, 1000)) ==
        "pretrain(pretrain.2)\n"
        "story(story.2) after pretrain\n"
        "story-2(story.1)\n"
        "best(best) after pretrain\n");
  CHECK(make_groups(sweep(), {"corpus", "pretrain.1", "pretrain.2", "story.1", "story.2", "best"}, 1000).empty());
}

TEST_CASE("jobs of other shapes, and more than an array may have, are groups of their own") {
  plan::Plan plan;
  plan.jobs = {job("a", "a.1", {}),
               job("a", "a.2", {}),
               job("a", "a.3", {}),
               job("a", "a.4", {}, 2),
               job("b", "b.1", {"a.1", "a.4"}),
               job("b", "b.2", {"a.2", "a.3"})};
  CHECK(shown(make_groups(plan, {}, 2)) ==
        "a[0=a.1 1=a.2]\n"
        "a-2(a.3)\n"
        "a-3(a.4)\n"
        "b(b.2) after 1,a after a-2\n"
        "b-2(b.1) after 0,a after a-3\n");
}

TEST_CASE("a thousand points are one array, made quickly") {
  plan::Plan plan;
  plan.jobs.push_back(job("corpus", "corpus", {}));
  for (int i = 0; i < 1000; ++i) plan.jobs.push_back(job("p", "p." + std::to_string(i), {"corpus"}));
  const std::vector<Group> groups = make_groups(plan, {}, 1001);
  REQUIRE(groups.size() == 2);
  CHECK(groups[1].jobs.size() == 1000);
}

TEST_CASE("what Slurm says is read") {
  CHECK(is_refusal("sbatch: error: Batch job submission failed: Invalid partition name specified"));
  CHECK(is_refusal("sbatch: error: Batch job submission failed: Requested node configuration is not available"));
  CHECK_FALSE(is_refusal("sbatch: error: Batch job submission failed: Unable to contact slurm controller"));
  CHECK_FALSE(is_refusal("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"));
  CHECK_FALSE(is_refusal("slurm_load_jobs error: Zero Bytes were transmitted or received"));
  for (const char* state : {"PENDING", "RUNNING", "COMPLETING", "SUSPENDED"})
    CHECK(QueueEntry{"1", state, "", "", ""}.is_alive());
  for (const char* state : {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED"})
    CHECK_FALSE(QueueEntry{"1", state, "", "", ""}.is_alive());
}

}  // namespace
}  // namespace braise::launch::slurm
