// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runner/journal/run_directory.h"
#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"
#include "tests/support/support.h"

namespace braise {
namespace {
namespace fs = std::filesystem;
using Catch::Contains;
using Catch::EndsWith;
using Words = std::vector<std::string>;

const char* const kTraining = R"(recipe: 1
name: small
resources: {workers_per_node: 2, hang_timeout: 60s}
stages:
  corpus: {kind: tokenize, input: text.txt, validation: {fraction: 0.1, take: tail}}
  pretrain:
    kind: train
    data: {tokens: "${stages.corpus.tokens}", sequence: 32}
    model: {family: llama, layers: 1, hidden: 32, heads: 2}
    steps: 8
    batch: {global: 8, micro: 2}
    optimizer: {lr: 1e-2, clip: 1.0}
    checkpoint: {every: 4, keep: 2}
)";

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

std::string first_line(const std::string& text) {
  return text.substr(0, text.find('\n'));
}

/// A folder with a run of a small training.
struct Trained {
  test::TemporaryFolder folder;
  fs::path text, runs, run;

  Trained() : runs(folder.path() / "runs") {
    std::string words;
    for (int i = 0; i < 2000; ++i) words += std::to_string(i * i) + (i % 7 == 0 ? "\n" : " ");
    text = folder.write("text.txt", words);
    const fs::path recipe = folder.write("small.yaml", kTraining);
    const test::Finished finished = test::run_program({test::program("braise"), "run", recipe, "--runs", runs});
    INFO(finished.err);
    REQUIRE(finished.status == 0);
    run = last_line(finished.out);
  }

  static std::string last_line(const std::string& text) {
    const std::size_t begin = text.rfind('\n', text.size() - 2);
    return text.substr(begin == std::string::npos ? 0 : begin + 1,
                       text.size() - 1 - (begin == std::string::npos ? 0 : begin + 1));
  }

  test::Finished rerun(const std::string& target, Words more = {}) const {
    Words words = {test::program("braise"), "rerun", target, "--runs", runs, "--in", folder.path() / "again"};
    words.insert(words.end(), more.begin(), more.end());
    return test::run_program(words);
  }
  std::size_t reruns() const {
    const fs::path in = folder.path() / "again";
    return fs::exists(in) ? static_cast<std::size_t>(std::distance(fs::directory_iterator(in), {})) : 0;
  }
};

TEST_CASE("a run comes out again to the bit: on half the workers, moved, and from an archive") {
  const Trained trained;
  const test::Finished half = trained.rerun(trained.run, {"--workers", "1"});
  INFO(half.err << half.out);
  REQUIRE(half.status == 0);
  CHECK_THAT(half.out, Contains("corpus: identical outputs\n") &&
                           Contains("pretrain: identical through step 8: 8 losses, the checkpoints of 2 steps\n") &&
                           EndsWith("\nidentical to the bit through step 8\n"));
  const fs::path again = first_line(half.out);
  const nlohmann::json provenance = nlohmann::json::parse(io::read_file(again / "provenance.json"));
  CHECK(provenance.at("rerun_of") == trained.run.string());
  CHECK(io::read_file(again / "recipe.yaml") == io::read_file(trained.run / "recipe.yaml"));

  const fs::path file = trained.folder.path() / "small.tar.zst";
  REQUIRE(test::run_program({test::program("braise"), "archive", trained.run, "--to", file}).status == 0);
  const fs::path moved = trained.folder.path() / "moved";
  fs::rename(trained.run, moved);
  const test::Finished until = trained.rerun(moved, {"--until", "3"});
  INFO(until.err << until.out);
  CHECK(until.status == 0);
  CHECK_THAT(until.out, EndsWith("\npretrain: identical through step 3: 3 losses, the checkpoints of 0 steps\n"
                                 "identical to the bit through step 3\n"));
  const test::Finished archived = trained.rerun(file);
  INFO(archived.err << archived.out);
  CHECK(archived.status == 0);
  CHECK_THAT(archived.out, EndsWith("\nidentical to the bit through step 8\n"));
}

TEST_CASE("an archive proves a training that was reused, where the run that did it is gone") {
  const Trained trained;
  const test::Finished second =
      test::run_program({test::program("braise"), "run", trained.folder.path() / "small.yaml", "--runs", trained.runs});
  REQUIRE(second.status == 0);
  CHECK_THAT(second.err, Contains("pretrain: not run, "));
  const fs::path file = trained.folder.path() / "reused.tar.zst";
  REQUIRE(test::run_program({test::program("braise"), "archive", Trained::last_line(second.out), "--to", file}).err ==
          "");
  for (const std::string job : {"", "/jobs/pretrain"}) {
    const test::Finished same = test::run_program(
        {test::program("braise"), "compare", trained.run.string() + job, Trained::last_line(second.out) + job});
    INFO(same.err << same.out);
    CHECK(same.status == 0);
    CHECK_THAT(same.out, EndsWith("\nidentical through step 8: 8 losses, the checkpoints of 2 steps\n"));
  }
  fs::remove_all(trained.run);
  const test::Finished gone = trained.rerun(Trained::last_line(second.out), {"--workers", "1"});
  INFO(gone.err << gone.out);
  CHECK(gone.status == 1);
  CHECK(Trained::last_line(gone.out) ==
        "not proven: what could be compared is identical to the bit, and pretrain could not");
  fs::remove_all(trained.runs);
  const test::Finished finished = trained.rerun(file);
  INFO(finished.err << finished.out);
  CHECK(finished.status == 0);
  CHECK_THAT(finished.out, Contains("\npretrain: identical through step 8: 8 losses, the checkpoints of 2 steps\n") &&
                               EndsWith("\nidentical to the bit through step 8\n"));
}

TEST_CASE("a run that was killed in the middle is compared as far as it came") {
  const Trained trained;
  // As it would be after a SIGKILL of all at the fifth step.
  for (const auto& file : fs::directory_iterator(trained.run / "journal")) {
    const std::string events = io::read_file(file.path());
    const bool is_worker = file.path().filename().string().starts_with("pretrain-");
    if (!is_worker && events.find("\"runner_started\"") == std::string::npos) continue;
    std::size_t end = events.find(is_worker ? "\"worker_started\"" : "\"attempt_started\"");
    if (!is_worker)
      end = events.find("\"attempt_started\"", events.find('\n', end));  // the second, after that of corpus
    io::write_file_durably(file.path(), events.substr(0, events.find('\n', end) + 1));
  }
  for (const auto& attempt : fs::directory_iterator(trained.run / "jobs/pretrain/attempts")) {
    const std::string lines = io::read_file(attempt.path() / "metrics.jsonl");
    const std::size_t sixth = lines.find("\"step\":6,");
    REQUIRE(sixth != std::string::npos);
    io::write_file_durably(attempt.path() / "metrics.jsonl", lines.substr(0, sixth));
    for (const auto& checkpoint : fs::directory_iterator(attempt.path() / "checkpoints")) {
      if (checkpoint.path().string().ends_with("8")) fs::remove_all(checkpoint);
    }
    fs::remove_all(attempt.path() / "artifacts");
  }
  const test::Finished finished = trained.rerun(trained.run);
  INFO(finished.err << finished.out);
  CHECK(finished.status == 0);
  CHECK_THAT(finished.err, Contains(" has not completed pretrain: compared is what there is\n"));
  CHECK_THAT(finished.out, Contains("\npretrain: identical through step 5: 5 losses, the checkpoints of 1 step\n") &&
                               EndsWith("\nidentical to the bit through step 5\n"));
}

TEST_CASE("a rerun that fails as the run did says so, and what is the same so far") {
  const test::TemporaryFolder folder;
  folder.write("letters.txt", "abcdefgh\n");
  folder.write("broken.txt.gz", "this is no gzip file");
  const fs::path recipe = folder.write("small.yaml",
                                       "recipe: 1\nname: small\nresources: {host_memory: 64MiB}\nstages:\n"
                                       "  letters: {kind: tokenize, input: letters.txt}\n"
                                       "  broken: {kind: tokenize, input: broken.txt.gz, after: [letters]}\n");
  const fs::path runs = folder.path() / "runs";
  CHECK(test::run_program({test::program("braise"), "run", recipe, "--runs", runs}).status == 1);
  const test::Finished finished = test::run_program({test::program("braise"), "rerun", "latest", "--runs", runs});
  INFO(finished.err << finished.out);
  CHECK(finished.status == 1);
  CHECK_THAT(Trained::last_line(finished.out),
             Catch::StartsWith("not proven: the rerun did not come to its end (broken failed: rank 0 ") &&
                 EndsWith("; so far it is identical to the bit"));

  const test::SmallDisk disk("1m");
  if (!disk.mounted()) return;
  const std::string file = folder.path() / "small.tar.zst";
  CHECK(test::run_program({test::program("braise"), "archive", "latest", "--runs", runs, "--to", file}).status == 0);
  // As much as a run's own files take.
  folder.write("fill", std::string((1 << 20) - (48 << 10), 'x'));
  fs::copy_file(folder.path() / "fill", disk.path() / "fill");
  const test::Finished full =
      test::run_program({test::program("braise"), "rerun", "latest", "--runs", runs, "--in", disk.path()});
  INFO(full.err << full.out);
  CHECK(full.status == 1);
  CHECK_THAT(Trained::last_line(full.out), Catch::StartsWith("not proven: the rerun did not come to its end (") &&
                                               Contains(" left on the disk of " + disk.path().string()));
  std::ofstream more(disk.path() / "more");
  while (more << std::string(4096, 'x') << std::flush) {
  }
  for (const Words& words :
       {Words{"archive", "latest", "--runs", runs, "--to", disk.path() / "a.tar.zst"},
        Words{"unpack", file, "--runs", disk.path() / "runs"}, Words{"rerun", file, "--in", disk.path() / "runs"}}) {
    Words command = words;
    command.insert(command.begin(), test::program("braise"));
    const test::Finished failed = test::run_program(command);
    INFO(words[0] << ": " << failed.err);
    CHECK(failed.status == 1);
    CHECK_THAT(failed.err, Contains("No space left on device") || Contains("has no room for"));
    CHECK_FALSE(fs::exists(disk.path() / "runs"));
    CHECK_FALSE(fs::exists(disk.path() / "a.tar.zst"));
  }
}

TEST_CASE("a step to end after is of every training, and what builds on one that is cut short is left out") {
  const test::TemporaryFolder folder;
  std::string text = kTraining;
  text =
      replaced(text, "steps: 8", "steps: 4") +
      "  story: {kind: infer, model: \"${stages.pretrain.checkpoint}\", prompts: [\"1\"], sampling: {max_tokens: 2}}\n"
      "sweep: {stages.pretrain.steps: [4, 8]}\n";
  std::string words;
  for (int i = 0; i < 2000; ++i) words += std::to_string(i * i) + " ";
  folder.write("text.txt", words);
  const fs::path recipe = folder.write("small.yaml", text), runs = folder.path() / "runs";
  const test::Finished first = test::run_program({test::program("braise"), "run", recipe, "--runs", runs});
  INFO(first.err);
  REQUIRE(first.status == 0);
  const test::Finished finished =
      test::run_program({test::program("braise"), "rerun", "latest", "--runs", runs, "--until", "6"});
  INFO(finished.err << finished.out);
  CHECK(finished.status == 0);
  CHECK_THAT(finished.err, Contains("beyond step 6, and left out: story.2\n"));
  CHECK_THAT(finished.out, Contains("\npretrain.1: identical through step 4: 4 losses, ") &&
                               Contains("\npretrain.2: identical through step 6: 6 losses, ") &&
                               Contains("\nstory.1: identical outputs\n") &&
                               EndsWith("\nidentical to the bit through the last steps of all trainings, 4 to 6\n"));
}

TEST_CASE("a run that does not come out again: the first difference, and what else differs") {
  const Trained trained;
  fs::path metrics;
  for (const auto& attempt : fs::directory_iterator(trained.run / "jobs/pretrain/attempts")) {
    metrics = attempt.path() / "metrics.jsonl";
  }
  const std::string lines = io::read_file(metrics);
  const std::size_t fifth = lines.find("\"step\":5,");
  REQUIRE(fifth != std::string::npos);
  const std::size_t bits = lines.rfind("\"loss_bits\":\"", fifth) + 13;
  std::string other = lines;
  other[bits + 15] = other[bits + 15] == '0' ? '1' : '0';
  io::write_file_durably(metrics, other);
  const fs::path provenance = trained.run / "provenance.json";
  io::write_file_durably(provenance,
                         replaced(io::read_file(provenance), "\"build_type\": \"", "\"build_type\": \"Else"));
  const test::Finished finished = trained.rerun(trained.run);
  INFO(finished.err << finished.out);
  CHECK(finished.status == 1);
  CHECK_THAT(finished.out, Contains("pretrain: the losses differ from step 5 on: ") &&
                               Contains("what differs in their provenance:\n  build.build_type: \"Else") &&
                               Contains("\nnot identical: pretrain: the losses differ from step 5 on: "));
  CHECK_THAT(finished.err, Contains("another build than this made ") && Contains("  build_type: \"Else"));
  CHECK_THAT(Trained::last_line(finished.out), Catch::StartsWith("not identical: "));
}

TEST_CASE("compare tells how two runs differ in recipe and provenance, which bits do not depend on") {
  const Trained trained;
  const auto compared = [](const std::string& a, const std::string& b) {
    const test::Finished finished = test::run_program({test::program("braise"), "compare", a, b});
    INFO(finished.err);
    CHECK(finished.status < 2);
    return finished;
  };
  const test::Finished same = compared(trained.run, trained.run / "jobs/pretrain");
  CHECK(same.status == 0);
  CHECK(same.out == "identical through step 8: 8 losses, the checkpoints of 2 steps\n");

  const test::Finished other =
      test::run_program({test::program("braise"), "run", trained.folder.path() / "small.yaml", "--runs", trained.runs,
                         "--set", "stages.pretrain.optimizer.lr=0.02", "--set", "resources.workers_per_node=1"});
  INFO(other.err);
  REQUIRE(other.status == 0);
  const fs::path run = Trained::last_line(other.out);
  const test::Finished different = compared(trained.run, run);
  INFO(different.out);
  CHECK(different.status == 1);
  CHECK_THAT(different.out, Contains("what differs in their recipes:\n") &&
                                Contains("\n  stages.pretrain.optimizer.lr: 0.01 -> 0.02\n") &&
                                Contains("\n  jobs.pretrain.workers: 2 -> 1\n") &&
                                Contains("what differs in their provenance:\n  overrides.set: [] -> [\"stages.") &&
                                Contains("\nthe losses differ from step 2 on: "));

  // A copy of a run that another build, on other processors, would have made to the same bits.
  const fs::path copy = trained.runs / "copy";
  fs::copy(trained.run, copy, fs::copy_options::recursive);
  const fs::path provenance = copy / "provenance.json";
  io::write_file_durably(provenance, replaced(io::read_file(provenance), "\"commit\": \"", "\"commit\": \"0"));
  for (const auto& file : fs::directory_iterator(copy / "journal")) {
    if (!file.path().filename().string().starts_with("pretrain-")) continue;
    io::write_file_durably(file.path(),
                           replaced(io::read_file(file.path()), "\"processors\":[\"", "\"processors\":[\"Other "));
  }
  const test::Finished elsewhere = compared(trained.run, copy / "jobs/pretrain");
  INFO(elsewhere.out);
  CHECK(elsewhere.status == 0);
  CHECK_THAT(elsewhere.out, Contains("the same recipe\nwhat differs in their provenance:\n  build.commit: \"") &&
                                Contains("\n  workers of pretrain.processors: ") && Contains("Other ") &&
                                Contains("\nidentical through step 8: "));
  fs::remove(copy / "resolved.yaml");
  CHECK_THAT(compared(trained.run, copy).out, Contains("cannot be told: ") && Contains("identical through step 8: "));
}

TEST_CASE("what cannot come out again is refused before anything is made") {
  const Trained trained;
  const auto refused = [&](const test::Finished& finished, const std::string& why) {
    INFO(finished.err << finished.out);
    CHECK(finished.status == 2);
    CHECK_THAT(finished.err, Contains(why));
    CHECK(trained.reruns() == 0);
  };
  refused(trained.rerun(trained.run, {"--workers", "3"}), "the same bits cannot come out");
  refused(trained.rerun("absent"), "there is no run 'absent'");
  refused(trained.rerun(trained.run, {"--workers", "0"}), "--workers: must be a whole number from 1, and is 0");
  refused(trained.rerun(trained.run, {"--until", "0"}), "--until: must be a whole number from 1, and is 0");
  refused(trained.rerun(trained.run, {"--until", "9"}),
          "the last step that " + trained.run.filename().string() + " has trained, which is 8;");
  refused(trained.rerun(trained.folder.write("no.tar.zst", "text")), "cannot read");

  const fs::path archive = trained.folder.path() / "small.tar.zst";
  const Words make_archive = {test::program("braise"), "archive", trained.run, "--to", archive};
  REQUIRE(test::run_program(make_archive).status == 0);
  fs::remove(archive);
  for (const char* const name : {"plan.json", "recipe.yaml", "resolved.yaml"}) {
    const fs::path file = trained.run / name;
    const std::string before = io::read_file(file);
    io::write_file_durably(file, before + "\n");
    refused(trained.rerun(trained.run), "changed after it was made:\n  " + file.string() + " has SHA-256 " +
                                            io::sha256(before + "\n") + "; it had " + io::sha256(before) +
                                            "\nput them back as they were");
    refused(test::run_program(make_archive), "changed after it was made");
    CHECK_FALSE(fs::exists(archive));
    io::write_file_durably(file, before);
  }

  // What another build would refuse: its plan, with the digest that it would have had there.
  const std::string plan = io::read_file(trained.run / "plan.json");
  const std::string provenance = io::read_file(trained.run / "provenance.json");
  const std::string newer = replaced(plan, "\"kind_version\": ", "\"kind_version\": 9");
  io::write_file_durably(trained.run / "plan.json", newer);
  io::write_file_durably(trained.run / "provenance.json", replaced(provenance, io::sha256(plan), io::sha256(newer)));
  refused(trained.rerun(trained.run), "gives other outputs than version 9");
  // A stranger's, whose folders would lie elsewhere.
  const std::string hostile = replaced(plan, "\"recipe\": \"small\"", "\"recipe\": \"../small\"");
  io::write_file_durably(trained.run / "plan.json", hostile);
  io::write_file_durably(trained.run / "provenance.json", replaced(provenance, io::sha256(plan), io::sha256(hostile)));
  refused(trained.rerun(trained.run), "plan.json: not a plan: '../small' is no name of a recipe or a job");
  io::write_file_durably(trained.run / "plan.json", plan);
  io::write_file_durably(trained.run / "provenance.json", provenance);

  {
    const journal::RunLock lock = journal::RunDirectory::open(trained.run).lock();
    refused(trained.rerun(trained.run), "is running (process ");
  }

  // Which tier it was: unreadable, and more than one.
  fs::path events;
  for (const auto& file : fs::directory_iterator(trained.run / "journal")) {
    if (file.path().filename().string().starts_with("pretrain-")) events = file.path();
  }
  const std::string told = io::read_file(events);
  io::write_file_durably(events, replaced(told, "\"tiers\":[\"", "\"tiers\":[\"odd_"));
  refused(trained.rerun(trained.run),
          "which instruction-set tier it was done on cannot be read: " + events.filename().string());
  const std::size_t tiers = told.find("\"tiers\":[") + 9, end = told.find(']', tiers);
  io::write_file_durably(events, told.substr(0, tiers) + "\"baseline\",\"avx2\"" + told.substr(end));
  refused(trained.rerun(trained.run), "different instruction-set tiers, avx2 and baseline");
  fs::remove(events);
  refused(trained.rerun(trained.run), "the journal has no word of which instruction-set tier");
  io::write_file_durably(events, told);

  const std::string text = io::read_file(trained.text), before = io::sha256(text), after = io::sha256(text + "more");
  io::write_file_durably(trained.text, text + "more");
  const test::Finished changed = trained.rerun(trained.run);
  refused(changed, "text.txt has SHA-256 " + after + "; it had " + before);
  // Nor does anything remain of an archive that was unpacked for it.
  REQUIRE(test::run_program(make_archive).status == 0);
  refused(trained.rerun(archive), "text.txt has SHA-256 ");
  CHECK_FALSE(fs::exists(trained.folder.path() / "again"));
  fs::remove(trained.text);
  refused(trained.rerun(trained.run), "text.txt is not there");
}

}  // namespace
}  // namespace braise
