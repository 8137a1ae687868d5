// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"
#include "tests/support/commands.h"
#include "tests/support/support.h"

namespace braise {
namespace {
namespace fs = std::filesystem;
using Words = std::vector<std::string>;

test::Finished braise(Words arguments, const fs::path& folder = {},
                      const std::vector<std::pair<std::string, std::string>>& environment = {}) {
  arguments.insert(arguments.begin(), test::program("braise"));
  return test::run_program(arguments, environment, folder);
}

std::string last_line(const std::string& text) {
  REQUIRE_FALSE(text.empty());
  const std::size_t end = text.size() - 1;
  const std::size_t begin = text.rfind('\n', end - 1);
  return text.substr(begin == std::string::npos ? 0 : begin + 1, end - (begin == std::string::npos ? 0 : begin + 1));
}

std::size_t entries(const fs::path& folder) {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

nlohmann::json status_of(const fs::path& run) {
  const test::Finished finished = braise({"status", run, "--json"});
  INFO(finished.err);
  REQUIRE(finished.status == 0);
  return nlohmann::json::parse(finished.out);
}

std::string state_of(const nlohmann::json& status, const std::string& job) {
  for (const auto& entry : status.at("jobs")) {
    if (entry.at("job") == job) return entry.at("state");
  }
  return "no such job";
}

const char* const kSmall = R"(recipe: 1
name: small
resources: {workers_per_node: 2, host_memory: 64MiB}
stages:
  letters: {kind: tokenize, input: letters.txt}
  lines: {kind: tokenize, input: lines.txt, documents: line, validation: {fraction: 0.5}}
)";

/// A folder with a small recipe and its texts.
struct Small {
  test::TemporaryFolder folder;
  fs::path recipe, runs;

  explicit Small(const std::string& text = kSmall) : runs(folder.path() / "runs") {
    folder.write("letters.txt", "abcdefgh\n");
    folder.write("lines.txt", "one\ntwo\nthree\nfour\nfive\n");
    recipe = folder.write("small.yaml", text);
  }
  test::Finished run(Words more = {}) const {
    Words words = {"run", recipe, "--runs", runs};
    words.insert(words.end(), more.begin(), more.end());
    return braise(words);
  }
  std::string plan(Words more = {}) const {
    Words words = {"plan", recipe, "--runs", runs};
    words.insert(words.end(), more.begin(), more.end());
    const test::Finished finished = braise(words);
    INFO(finished.err);
    CHECK(finished.status == 0);
    return finished.out;
  }
};

TEST_CASE("each command has help with an example") {
  const test::Finished help = braise({"--help"});
  CHECK(help.status == 0);
  for (const char* command :
       {"validate", "plan",  "run",     "submit", "resume", "status",  "logs",   "wait",  "cancel",  "runs",
        "best",     "clean", "inspect", "export", "import", "compare", "schema", "kinds", "version", "completion"}) {
    INFO(command);
    CHECK(help.out.find(std::string("  ") + command + " ") != std::string::npos);
    const test::Finished own = braise({command, "--help"});
    CHECK(own.status == 0);
    CHECK(own.out.find("Example:\n") != std::string::npos);
    CHECK(own.out.find(std::string("braise ") + command) != std::string::npos);
  }
}

TEST_CASE("wrong usage is told and ends with status 2") {
  for (const Words& words : std::vector<Words>{{},
                                               {"bake"},
                                               {"run"},
                                               {"run", "gone.yaml"},
                                               {"plan", "a.yaml", "--jsn"},
                                               {"status", "nothing"},
                                               {"resume", "nothing"},
                                               {"logs", "nothing"},
                                               {"best", "nothing"},
                                               {"runs", "nothing"},
                                               {"runs", "--metric", "loss"},
                                               {"cancel", "nothing"},
                                               {"clean", "nothing"},
                                               {"inspect", "nothing"},
                                               {"inspect", "nothing/job"},
                                               {"export", "nothing", "--to", "x"},
                                               {"import", "nothing", "--to", "x"},
                                               {"compare", "nothing", "nothing"},
                                               {"schema", "recipes"},
                                               {"completion", "tcsh"}}) {
    const test::TemporaryFolder folder;
    const test::Finished finished = braise(words, folder.path());
    INFO((words.empty() ? "" : words[0]) << ": " << finished.err);
    CHECK(finished.status == 2);
    CHECK_FALSE(finished.err.empty());
    CHECK(entries(folder.path()) == 0);
  }
  CHECK(braise({"schema", "recipes"}).err.find("did you mean `recipe`?") != std::string::npos);
}

TEST_CASE("facts") {
  CHECK(braise({"--version"}).out.rfind("braise 0.", 0) == 0);
  CHECK(nlohmann::json::parse(braise({"version", "--json"}).out).contains("commit"));
  CHECK(nlohmann::json::parse(braise({"kinds", "--json"}).out).size() >= 2);
  CHECK(braise({"schema"}).out.find("stage.tokenize\n") != std::string::npos);
  CHECK(nlohmann::json::parse(braise({"schema", "recipe"}).out)["title"] == "Braise recipe");
  const test::TemporaryFolder folder;
  for (const char* shell : {"bash", "zsh"}) folder.write(shell, braise({"completion", shell}).out);
  const test::Finished completed =
      test::run_program({"bash", "-c",
                         "source ./bash; COMP_WORDS=(braise pl); COMP_CWORD=1; _braise; echo ${COMPREPLY[@]}; "
                         "COMP_WORDS=(braise plan --d); COMP_CWORD=2; _braise; echo ${COMPREPLY[@]}"},
                        {}, folder.path());
  CHECK(completed.out == "plan\n--dot\n");
  CHECK(completed.err == "");
}

TEST_CASE("a bad recipe: every fault, status 2, nothing made") {
  const Small small(
      "recipe: 1\nname: small\nstages:\n  a: {kind: tokenise, input: x}\n  b: {kind: check, duratoin: 3}\n");
  for (const char* command : {"validate", "plan", "run"}) {
    Words words = {command, small.recipe};
    if (words[0] != "validate") words.insert(words.end(), {"--runs", small.runs});
    const test::Finished finished = braise(words);
    INFO(finished.err);
    CHECK(finished.status == 2);
    CHECK(finished.out == "");
    CHECK(finished.err.find("small.yaml:4:13: stages.a.kind: ") != std::string::npos);
    CHECK(finished.err.find("tokenize") != std::string::npos);
    CHECK(finished.err.find("small.yaml:5:20: stages.b.duratoin: ") != std::string::npos);
    CHECK(finished.err.find("did you mean `duration`?") != std::string::npos);
    CHECK_FALSE(fs::exists(small.runs));
  }
  const auto faults = nlohmann::json::parse(braise({"validate", small.recipe, "--json"}).out)["faults"];
  REQUIRE(faults.size() == 2);
  CHECK(faults[0]["line"] == 4);
}

TEST_CASE("run, run again, change, run again") {
  const Small small;
  CHECK(braise({"validate", small.recipe}).out == small.recipe.string() + ": valid, 2 stages, 2 jobs\n");
  CHECK(small.plan().find("small: 2 jobs, 2 to run") == 0);
  const test::Finished first = small.run();
  INFO(first.err);
  REQUIRE(first.status == 0);
  const fs::path run = last_line(first.out);
  CHECK(first.out == run.string() + "\n");
  CHECK(first.err.find("letters: started, tokenize with 2 workers x 1 thread\n") != std::string::npos);
  CHECK(first.err.find("letters: completed after ") != std::string::npos);
  for (const char* file : {"recipe.yaml", "resolved.yaml", "plan.json", "provenance.json", "jobs/letters/job.yaml"}) {
    CHECK(fs::exists(run / file));
  }
  CHECK(io::read_file(run / "recipe.yaml") == kSmall);
  const nlohmann::json status = status_of(run);
  CHECK(status["state"] == "completed");
  CHECK(state_of(status, "lines") == "completed");

  CHECK(small.plan().find("small: 2 jobs, 0 to run") == 0);
  CHECK(small.plan({"--fresh"}).find("small: 2 jobs, 2 to run") == 0);
  const test::Finished second = small.run();
  REQUIRE(second.status == 0);
  CHECK(second.err.find("lines: not run, unchanged since " + run.filename().string()) != std::string::npos);
  const nlohmann::json reused = status_of(last_line(second.out));
  CHECK(state_of(reused, "letters") == "reused");
  CHECK(reused["jobs"][0]["outputs"]["tokens"]["digest"] == status["jobs"][0]["outputs"]["tokens"]["digest"]);
  // What is reused is the new run's own: it outlives the run it came from.
  CHECK(braise({"clean", run, "--runs", small.runs}).status == 0);
  CHECK_FALSE(fs::exists(run));
  CHECK(fs::exists(fs::path(last_line(second.out)) / reused["jobs"][0]["attempt_dir"].get<std::string>() /
                   "artifacts/tokens.h5"));

  small.folder.write("lines.txt", "one\ntwo\n");
  const std::string plan = small.plan({"--set", "stages.letters.shard_size=8KiB"});
  INFO(plan);
  CHECK(plan.find("the content of lines.txt") != std::string::npos);
  CHECK(plan.find("shard_size 16777216 -> 8192") != std::string::npos);
  const test::Finished third = small.run();
  REQUIRE(third.status == 0);
  CHECK(third.err.find("letters: not run") != std::string::npos);
  CHECK(third.err.find("lines: completed") != std::string::npos);
  const test::Finished fresh = small.run({"--fresh"});
  CHECK(fresh.err.find("not run") == std::string::npos);

  const auto runs = nlohmann::json::parse(braise({"runs", "--runs", small.runs, "--json"}).out);
  CHECK(runs.size() == 3);
}

TEST_CASE("however many runs there are, Slurm is asked once how they stand, and not at all where none was submitted") {
  const Small small;
  for (int i = 0; i < 2; ++i) REQUIRE(small.run({"--fresh"}).status == 0);
  test::Commands commands;
  const fs::path asked = small.folder.path() / "asked";
  commands.add("squeue", "echo x >>" + asked.string() + "\n");
  const auto list = [&] { return nlohmann::json::parse(braise({"runs", "--runs", small.runs, "--json"}).out); };
  CHECK(list().size() == 2);
  CHECK_FALSE(fs::exists(asked));
  for (const auto& entry : fs::directory_iterator(small.runs)) {
    if (fs::is_directory(entry.path() / "journal")) fs::create_directory(entry.path() / "slurm");
  }
  const nlohmann::json runs = list();
  REQUIRE(runs.size() == 2);
  for (const auto& run : runs) CHECK(run.at("state") == "completed");
  CHECK(io::read_file(asked) == "x\n");
}

TEST_CASE("a run records the repository of its recipe, and runs nothing that it names") {
  const Small small;
  const auto git = [&](Words arguments) {
    Words words = {"/usr/bin/git", "-C", small.folder.path(), "-c", "user.name=a", "-c", "user.email=a@example.org"};
    words.insert(words.end(), arguments.begin(), arguments.end());
    const test::Finished finished = test::run_program(words);
    INFO(finished.err);
    REQUIRE(finished.status == 0);
    return finished.out;
  };
  if (!fs::exists("/usr/bin/git")) {
    WARN("skipped: there is no git");
    return;
  }
  git({"init", "--quiet"});
  git({"add", "small.yaml"});
  git({"commit", "--quiet", "-m", "first"});
  const fs::path trap =
      small.folder.write("trap.sh", "#!/bin/sh\ntouch " + (small.folder.path() / "ran").string() + "\n");
  fs::permissions(trap, fs::perms::owner_all);
  git({"config", "diff.external", trap});
  git({"config", "core.fsmonitor", trap});
  git({"config", "filter.evil.clean", trap});
  git({"config", "filter.evil.required", "true"});
  small.folder.write(".gitattributes", "* filter=evil\n");
  small.folder.write(".gitignore", "ignored\n");
  small.folder.write("ignored", "");
  small.folder.write("runs/left.txt", "of another run");
  for (const char* const name : {"plan.json", "provenance.json", "journal/a.jsonl", "jobs/a"}) {
    small.folder.write(std::string("others/a-run/") + name, "{}");
  }
  small.folder.write("others/.finished/12/1234", "{}");
  small.folder.write("small.yaml", std::string(kSmall) + "# later\n");
  const test::Finished finished = small.run();
  INFO(finished.err);
  REQUIRE(finished.status == 0);
  CHECK_FALSE(fs::exists(small.folder.path() / "ran"));
  const auto provenance =
      nlohmann::json::parse(io::read_file(fs::path(last_line(finished.out)) / "provenance.json")).at("repository");
  CHECK(provenance.at("commit").get<std::string>() + "\n" == git({"rev-parse", "HEAD"}));
  CHECK_THAT(provenance.at("diff"), Catch::Contains("+# later"));
  CHECK(provenance.at("diff_is_cut") == false);
  const nlohmann::json& untracked = provenance.at("untracked");
  CHECK(untracked.at("trap.sh") ==
        nlohmann::json{{"bytes", fs::file_size(trap)}, {"sha256", io::digest_file(trap).sha256}});
  CHECK_FALSE(untracked.contains("small.yaml"));
  CHECK_FALSE(untracked.contains("ignored"));
  for (const auto& [name, file] : untracked.items()) CHECK_THAT(name, !Catch::Contains("/"));
  CHECK(provenance.at("untracked_is_cut") == false);
}

TEST_CASE("a run becomes one file, and that file the run again elsewhere") {
  const Small small;
  REQUIRE(small.run().status == 0);
  const std::string runs = small.runs, file = small.folder.path() / "small.tar.zst",
                    other = small.folder.path() / "other";
  CHECK_THAT(braise({"archive", "latest", "--runs", runs, "--to", file}).out, Catch::Contains("small.tar.zst: "));
  const test::Finished again = braise({"archive", "latest", "--runs", runs, "--to", file});
  CHECK(again.status == 2);
  CHECK_THAT(again.err, Catch::Contains("is there already"));
  const test::Finished nowhere = braise({"archive", "latest", "--runs", runs, "--to", file + ".d/small.tar.zst"});
  CHECK(nowhere.status == 2);
  CHECK_THAT(nowhere.err, Catch::Contains("there is no folder " + file + ".d; make it"));
  const test::Finished among_none = braise({"run", small.recipe, "--runs", file + "/runs"});
  CHECK(among_none.status == 2);
  CHECK_THAT(among_none.err, Catch::Contains(file + " is no folder, so that runs cannot be in "));
  const test::Finished unpacked = braise({"unpack", file, "--runs", other});
  INFO(unpacked.err);
  REQUIRE(unpacked.status == 0);
  CHECK(status_of(last_line(unpacked.out)).at("state") == "completed");
  const test::Finished used = braise({"unpack", file, "--runs", other});
  CHECK(used.status == 0);
  CHECK(used.out == unpacked.out);
  CHECK(used.err == "it was unpacked before\n");
  small.folder.write("other/" + fs::path(last_line(used.out)).filename().string() + "/recipe.yaml", "other");
  const test::Finished different = braise({"unpack", file, "--runs", other});
  CHECK(different.status == 2);
  CHECK_THAT(different.err, Catch::Contains("is not what the archive holds: recipe.yaml differs"));
  CHECK(braise({"unpack", small.recipe, "--runs", other}).status == 2);
  CHECK(braise({"unpack", "absent", "--runs", other}).status == 2);
  CHECK(entries(other) == 1);
}

TEST_CASE("a failed job stops what depends on it and nothing else; logs and status tell why; resume goes on") {
  Small small(
      "recipe: 1\nname: small\nresources: {host_memory: 64MiB}\nstages:\n"
      "  broken: {kind: tokenize, input: broken.txt.gz}\n"
      "  after: {kind: tokenize, input: lines.txt, after: [broken]}\n"
      "  letters: {kind: tokenize, input: letters.txt}\n");
  small.folder.write("broken.txt.gz", "this is no gzip file");
  const test::Finished finished = small.run();
  INFO(finished.err);
  CHECK(finished.status == 1);
  const fs::path run = last_line(finished.out);
  const nlohmann::json status = status_of(run);
  CHECK(status["state"] == "failed");
  CHECK(state_of(status, "broken") == "failed");
  CHECK(state_of(status, "after") == "blocked");
  CHECK(state_of(status, "letters") == "completed");
  CHECK(finished.err.find("broken.txt.gz") != std::string::npos);
  CHECK(finished.err.find("after: blocked, it needs broken") != std::string::npos);
  const test::Finished logs = braise({"logs", run, "broken", "--rank", "0"});
  CHECK(logs.status == 0);
  CHECK(logs.out.find("[broken.0] ") == 0);
  CHECK(logs.out.find("broken.txt.gz") != std::string::npos);
  CHECK(braise({"logs", run, "brokn"}).err.find("did you mean `broken`?") != std::string::npos);

  // The input is pinned by its digest: another file is not silently taken.
  small.folder.write("broken.txt.gz", "another");
  const test::Finished resumed = braise({"resume", run});
  CHECK(resumed.status == 1);
  CHECK(last_line(resumed.out) == run.string());
  CHECK(state_of(status_of(run), "letters") == "completed");
}

TEST_CASE("a second runner on one run is refused, cancel stops it, resume completes it") {
  const Small small(
      "recipe: 1\nname: small\nresources: {workers_per_node: 2, host_memory: 512MiB}\nstages:\n"
      "  slow: {kind: check, duration: 2s, memory_size: 1MiB, gemm_size: 64}\n");
  const fs::path output = small.folder.path() / "output";
  const pid_t runner = ::fork();
  if (runner == 0) {
    const int out = ::open(output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
    ::dup2(out, 1);
    ::dup2(out, 2);
    const std::string program = test::program("braise");
    ::execl(program.c_str(), "braise", "run", small.recipe.c_str(), "--runs", small.runs.c_str(), nullptr);
    ::_exit(127);
  }
  for (int i = 0; i < 100; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    if (fs::exists(output) && io::read_file(output).find("started") != std::string::npos) break;
  }
  const test::Finished second = braise({"resume", "latest", "--runs", small.runs});
  INFO(second.err);
  CHECK(second.status == 2);
  CHECK(second.err.find(std::to_string(runner)) != std::string::npos);
  CHECK(braise({"clean", "latest", "--runs", small.runs}).status == 2);
  const test::Finished running = braise({"status", "latest", "--runs", small.runs});
  CHECK(running.out.find("running") != std::string::npos);
  // Once the worker is up it takes requests; before, it would end at once: both are stops.
  std::this_thread::sleep_for(std::chrono::milliseconds(1500));
  const test::Finished cancel = braise({"cancel", "latest", "--runs", small.runs});
  CHECK(cancel.status == 0);
  int status = 0;
  ::waitpid(runner, &status, 0);
  INFO(io::read_file(output));
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 1);
  const fs::path run = last_line(io::read_file(output));
  CHECK(status_of(run)["state"] == "stopped");
  CHECK(io::read_file(output).find("braise resume " + run.string()) != std::string::npos);
  const test::Finished resumed = braise({"resume", run});
  INFO(resumed.err);
  CHECK(resumed.status == 0);
  CHECK(status_of(run)["state"] == "completed");
  CHECK(braise({"cancel", run}).out.find("is not running") != std::string::npos);
  const test::Finished again = braise({"resume", run});
  CHECK(again.status == 0);
  CHECK(status_of(run)["jobs"][0]["attempts"].size() == 2);
}

TEST_CASE("odd names of folders and files are only names") {
  for (const char* name : {"it's", "$(touch pwned)", "a b", "semi;colon", "new\nline", "-dash", "\"quoted\"",
                           "back\\slash", "`tick`", "{brace}", "uml\xc3\xa4ut", "%s%n"}) {
    const test::TemporaryFolder top;
    const fs::path folder = top.path() / name;
    fs::create_directory(folder);
    io::write_file_durably(folder / "text.txt", "some text\n");
    io::write_file_durably(folder / "recipe.yaml",
                           "recipe: 1\nname: odd\nresources: {host_memory: 64MiB}\nstages:\n"
                           "  s: {kind: tokenize, input: text.txt}\n");
    const test::Finished finished = braise({"run", folder / "recipe.yaml", "--runs", folder / "runs"}, top.path());
    INFO(name << ": " << finished.err);
    CHECK(finished.status == 0);
    CHECK(entries(top.path()) == 1);
    CHECK(entries(folder) == 3);
    const std::string printed = finished.out;
    CHECK(printed.rfind((folder / "runs").string(), 0) == 0);
  }
}

TEST_CASE("what this machine can never run is refused before anything is made") {
  const Small small;
  const test::Finished memory = small.run({"--set", "resources.host_memory=900TiB"});
  CHECK(memory.status == 2);
  CHECK(memory.err.find("letters") != std::string::npos);
  const test::Finished nodes = small.run({"--set", "resources.nodes=2"});
  CHECK(nodes.status == 2);
  CHECK(nodes.err.find("wants 2 nodes") != std::string::npos);
  const test::Finished unwritable = braise({"run", small.recipe, "--runs", "/proc/nowhere"});
  CHECK(unwritable.status == 1);
  CHECK(unwritable.err.find("/proc/nowhere") != std::string::npos);
  CHECK_FALSE(fs::exists(small.runs));
}

TEST_CASE("a plan can be read by people, scripts and Graphviz") {
  const Small small;
  const std::string table = small.plan({"--set", "seed=3"});
  CHECK(table.find("seed 3") != std::string::npos);
  CHECK(table.find("2 x 1") != std::string::npos);
  const auto json = nlohmann::json::parse(small.plan({"--json"}));
  CHECK(json["jobs"].size() == 2);
  CHECK(json["jobs"][0]["decision"] == nlohmann::json{{"runs", true}, {"why", "new"}});
  CHECK(json["jobs"][0]["spec"]["inputs"][0]["bytes"] == 9);
  CHECK(small.plan({"--dot"}).find("digraph \"small\" {") == 0);
  CHECK_FALSE(fs::exists(small.runs));
}

}  // namespace
}  // namespace braise
