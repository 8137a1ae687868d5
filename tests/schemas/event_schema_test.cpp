// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <set>

#include "runner/journal/event.h"
#include "runner/journal/provenance.h"
#include "schemas/schemas.h"
#include "stages/shared/io/digest.h"
#include "tests/support/schema.h"

namespace braise {
namespace {

using nlohmann::json;

/// A general validator, which the journal's own quick check must agree with.
bool is_valid(const char* schema_name, const json& value) {
  return test::schema_faults(value, schema_name).empty();
}

const json kOutputs = {
    {"tokens", {{"files", {{{"path", "artifacts/tokens.h5"}, {"bytes", 12}, {"sha256", std::string(64, 'a')}}}}}}};

json event(const std::string& name, json details) {
  details["event"] = name;
  details["time"] = "2026-01-31T12:34:56.123456Z";
  details["writer"] = "w";
  details["seq"] = 0;
  return details;
}

json of_attempt(const std::string& name, json details) {
  details["job"] = "corpus";
  details["attempt"] = 1;
  details["token"] = "3fa9bc";
  return event(name, std::move(details));
}

/// One good event of every kind.
std::vector<json> good_events() {
  const std::string fingerprint(64, '0');
  return {
      event("runner_started", {{"session", 1}, {"pid", 7}, {"host", "h"}, {"command", {"braise", "run"}}}),
      event("group_submitted",
            {{"group", "pretrain"}, {"slurm_job", "12"}, {"jobs", {"pretrain.1"}}, {"indices", {0}}}),
      event("supervisor_started", {{"session", 1},
                                   {"job", "pretrain"},
                                   {"slurm_job", "12_0"},
                                   {"restart", 0},
                                   {"host", "n1"},
                                   {"pid", 7},
                                   {"nodes", "n1"}}),
      event("job_requeued",
            {{"job", "pretrain"}, {"slurm_job", "12_0"}, {"reason", "its time was up"}, {"off_nodes", ""}}),
      of_attempt("attempt_started", {{"fingerprint", fingerprint}, {"ranks", 2}, {"threads", 1}, {"cores", {0, 1}}}),
      of_attempt("attempt_started",
                 {{"fingerprint", fingerprint}, {"ranks", 2}, {"threads", 1}, {"cores", json::array()}}),
      of_attempt("attempt_ended",
                 {{"outcome", "failed"}, {"exit_code", nullptr}, {"signal", 9}, {"reason", "it died"}}),
      of_attempt("job_completed", {{"fingerprint", fingerprint}, {"outputs", kOutputs}}),
      of_attempt("job_reused",
                 {{"fingerprint", fingerprint}, {"outputs", kOutputs}, {"from_run", "r"}, {"from_job", "corpus"}}),
      event("job_failed", {{"job", "corpus"}, {"reason", "no"}}),
      event("job_blocked", {{"job", "train"}, {"by", "corpus"}}),
      event("stop_requested", {{"mode", "stop"}, {"runner", "runner-1"}}),
      event("runner_ended", {{"outcome", "completed"}}),
      of_attempt("worker_started",
                 {{"ranks", 2}, {"hosts", {"a", "b"}}, {"pids", {1, 2}}, {"tiers", {"avx512", "amx"}}, {"threads", 1}}),
      of_attempt("stage_completed", {{"outputs", json::object()}}),
      of_attempt("stage_stopped", json::object()),
      of_attempt("stage_failed", {{"rank", 0}, {"host", "h"}, {"place", "a.cpp:1"}, {"message", "no"}}),
  };
}

void agree(const json& value, bool good) {
  const std::string fault = journal::event_fault(value);
  INFO(value.dump() << "\n" << fault);
  CHECK(is_valid("event.schema.json", value) == good);
  CHECK(fault.empty() == good);
}

TEST_CASE("every kind of event has a good example, which both checks allow") {
  const auto& kinds = schemas::schema("event.schema.json").at("oneOf");
  std::set<std::string> seen;
  for (const json& good : good_events()) {
    agree(good, true);
    seen.insert(good.at("event"));
  }
  CHECK(seen.size() == kinds.size());
}

TEST_CASE("an event without one of its keys, with a key too many or with a wrong type is refused by both checks") {
  for (const json& good : good_events()) {
    for (const auto& [key, value] : good.items()) {
      json bad = good;
      bad.erase(key);
      agree(bad, false);
      bad = good;
      bad[key] = json::array({json::object()});
      agree(bad, false);
    }
    json bad = good;
    bad["extra"] = 1;
    agree(bad, false);
  }
}

TEST_CASE("values out of range are refused by both checks") {
  const auto with = [](const json& good, const char* pointer, json value) {
    json bad = good;
    bad[json::json_pointer(pointer)] = std::move(value);
    return bad;
  };
  const std::vector<json> good = good_events();
  agree(with(good[0], "/session", 0), false);
  agree(with(good[0], "/seq", -1), false);
  agree(with(good[0], "/pid", 1.5), false);
  agree(with(good[1], "/token", "3FA9BC"), false);
  agree(with(good[1], "/token", "3fa9b"), false);
  agree(with(good[1], "/fingerprint", "abc"), false);
  agree(with(good[1], "/cores/0", -1), false);
  agree(with(good[1], "/job", ""), false);
  agree(with(good[3], "/outcome", "fine"), false);
  agree(with(good[4], "/outputs/tokens/files/0/bytes", -1), false);
  agree(with(good[4], "/outputs/tokens/files/0/sha256", "x"), false);
  agree(with(good[4], "/outputs/tokens/files/0/more", 1), false);
  agree(with(good[8], "/mode", "pause"), false);
  CHECK_FALSE(journal::event_fault(with(good[0], "/time", "yesterday")).empty());
}

TEST_CASE("what is no event at all is refused, and the unknown event is named") {
  CHECK(journal::event_fault(json::array()) == "not an event");
  CHECK(journal::event_fault({{"event", 3}}) == "not an event");
  CHECK(journal::event_fault(event("party", {})) == "unknown event 'party'");
  CHECK(journal::event_fault(event("job_failed", {{"job", "x"}, {"reason", 3}})) ==
        "event 'job_failed': 'reason' is not of type string");
}

TEST_CASE("a run's provenance is as its schema says") {
  journal::Provenance provenance;
  provenance.command = {"braise", "run", "r.yaml", "--set", "vars.width=\xff"};
  provenance.cores = 2;
  provenance.memory_bytes = 1 << 30;
  provenance.sources = {{"r.yaml", io::sha256("recipe: 1")}};
  const journal::RunFiles files = {"recipe: 1", "recipe: 1", "{}", ""};
  provenance.overrides = {{"vars.width=1"}, {"v.yaml"}};
  provenance.environment = {{"DATA", "/data"}};
  provenance.kept_environment = {"LANG=C", "A=b=c", "EMPTY="};
  const json bare = json::parse(journal::provenance_text(provenance, files));
  CHECK(is_valid("provenance.schema.json", bare));
  CHECK_FALSE(bare.contains("repository"));
  CHECK(bare.at("kept_environment") == json{{"LANG", "C"}, {"A", "b=c"}, {"EMPTY", ""}});
  CHECK_FALSE(bare.at("host").contains("gpus"));
  provenance.gpus = {"NVIDIA H200"};
  provenance.repository = journal::Repository{
      "/home/a", std::string(40, 'c'), "+seed: \xff", true, {{"a/b \xff", {3, io::sha256("abc")}}, {"link", {}}}, true};
  const json text = json::parse(journal::provenance_text(provenance, files));
  INFO(text.dump(2));
  CHECK(is_valid("provenance.schema.json", text));
  CHECK(text.at("recipe").at(0).at("path") == "r.yaml");
}

}  // namespace
}  // namespace braise
