// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "kernels/core/error.h"
#include "runner/cli/commands.h"

namespace {

using namespace braise;

/// Everything that arguments are parsed into.
struct Arguments {
  cli::RecipeArguments recipe;
  cli::RunArguments run;
  cli::RerunArguments rerun;
  cli::SubmitArguments submit;
  cli::LogArguments log;
  report::Ranking ranking;
  std::filesystem::path runs = "./runs";
  std::string run_name;
  std::vector<std::string> run_names;
  std::string schema_name, shell;
  std::filesystem::path site, run_dir;
  int session = 0;
  std::string group;
  std::string target, other_target, to, dtype;
  bool verify = false;
  bool json = false, dot = false, fresh = false, fit = false, now = false, dry_run = false, reference = false,
       checkpoints = false;
};

void add_recipe(CLI::App& command, Arguments& a) {
  command.add_option("recipe", a.recipe.recipe, "The recipe, a YAML file")->required();
  command
      .add_option("--set", a.recipe.overrides.set,
                  "Sets a value: path=value, for example vars.width=512; may be repeated")
      ->allow_extra_args(false);
  command.add_option("--vars", a.recipe.overrides.vars_files, "Merges a YAML map into `vars`; may be repeated")
      ->allow_extra_args(false);
}

void add_runs(CLI::App& command, Arguments& a) {
  command.add_option("--runs", a.runs, "The folder that holds the runs")->capture_default_str();
}

void add_run(CLI::App& command, Arguments& a) {
  command.add_option("run", a.run_name, "A run: its folder, its name, a unique beginning of it, or `latest`")
      ->required();
  add_runs(command, a);
}

void add_target(CLI::App& command, Arguments& a) {
  command
      .add_option("target", a.target,
                  "A path; or a run as elsewhere, or RUN/STAGE, which stand for the newest checkpoint")
      ->required();
  add_runs(command, a);
}

void add_json(CLI::App& command, Arguments& a) {
  command.add_flag("--json", a.json, "Prints JSON, for scripts");
}

/// `run`: the option without which these mean nothing; may be null.
void add_ranking(CLI::App& command, Arguments& a, CLI::Option* run) {
  auto* metric =
      command.add_option("--metric", a.ranking.metric,
                         "A key of metrics.jsonl; by default validation_loss, or loss where that is not told");
  auto* highest = command.add_flag("--max", a.ranking.highest, "The highest value is the best, not the lowest");
  auto* last = command.add_flag("--last", a.ranking.by_last, "Jobs are ranked by their last value, not their best");
  if (run == nullptr) return;
  for (CLI::Option* option : {metric, highest, last}) option->needs(run);
}

CLI::Validator at_least_one() {
  const auto check = [](const std::string& text) {
    long long number = 0;
    return CLI::detail::lexical_cast(text, number) && number >= 1 ? std::string()
                                                                  : "must be a whole number from 1, and is " + text;
  };
  return CLI::Validator(check, "NUMBER >= 1");
}

void add_fail_fast(CLI::App& command, Arguments& a) {
  auto* fast = command.add_flag("--fail-fast", a.run.fail_fast, "Stops all jobs as soon as one has failed");
  command.add_flag("!--keep-going", a.run.fail_fast, "Goes on with what does not depend on a failed job (the default)")
      ->excludes(fast);
}

void add_example(CLI::App& command, const std::string& example) {
  command.footer("Example:\n  " + example);
}

void add_commands(CLI::App& app, Arguments& a, int& result) {
  auto* validate = app.add_subcommand("validate", "Checks a recipe and tells everything that is wrong with it");
  add_recipe(*validate, a);
  add_json(*validate, a);
  add_example(*validate, "braise validate recipes/quickstart.yaml");
  validate->callback([&] { result = cli::validate(a.recipe, a.json); });

  auto* plan = app.add_subcommand("plan", "Shows the jobs that a recipe means, and which would run");
  add_recipe(*plan, a);
  add_runs(*plan, a);
  add_json(*plan, a);
  plan->add_flag("--dot", a.dot, "Prints the graph of the jobs for Graphviz")->excludes("--json");
  plan->add_flag("--fit", a.fit, "Tells the cheapest layout of each training that fits its memory")->excludes("--dot");
  plan->add_flag("--fresh", a.fresh, "Plans as if nothing had been run before");
  add_example(*plan, "braise plan recipes/quickstart.yaml --set resources.workers_per_node=4");
  plan->callback([&] {
    const auto format = a.json ? cli::PlanFormat::json : a.dot ? cli::PlanFormat::dot : cli::PlanFormat::table;
    result = cli::plan(a.recipe, a.runs, format, a.fresh, a.fit);
  });

  auto* run = app.add_subcommand("run", "Runs a recipe on this machine; prints the run's folder as its last line");
  add_recipe(*run, a);
  add_runs(*run, a);
  add_fail_fast(*run, a);
  run->add_flag("--fresh", a.run.fresh, "Runs every job, also those that an earlier run finished unchanged");
  add_example(*run, "braise run recipes/quickstart.yaml --set seed=7");
  run->callback([&] { result = cli::run(a.recipe, a.runs, a.run); });

  auto* resume = app.add_subcommand("resume", "Continues a run that was stopped, killed or has failed jobs");
  add_run(*resume, a);
  add_fail_fast(*resume, a);
  resume->add_option("--site", a.site, "Another site file, for a run that was submitted to Slurm");
  add_example(*resume, "braise resume latest");
  resume->callback([&] { result = cli::resume(a.run_name, a.runs, a.run, a.site); });

  auto* rerun = app.add_subcommand("rerun", "Repeats a run and tells whether the same bits come out");
  rerun->add_option("run", a.run_name, "A run as elsewhere, or an archive of one")->required();
  add_runs(*rerun, a);
  rerun->add_option("--until", a.rerun.until, "Stops every training after this step")->check(at_least_one());
  rerun->add_option("--workers", a.rerun.workers, "Workers of every job; by default as many as it had")
      ->check(at_least_one());
  rerun->add_option("--in", a.rerun.in, "The folder for the new run; by default that of --runs");
  add_example(*rerun, "braise rerun latest --workers 1");
  rerun->callback([&] { result = cli::rerun(a.run_name, a.runs, a.rerun); });

  auto* submit =
      app.add_subcommand("submit", "Gives a recipe's jobs to Slurm; prints the run's folder as its last line");
  add_recipe(*submit, a);
  add_runs(*submit, a);
  submit->add_option("--site", a.submit.site,
                     "The site file; by default braise/site.yaml in the user's configuration folder, if there is one");
  submit->add_flag("--dry-run", a.submit.dry_run, "Only shows the batch scripts");
  submit->add_flag("--fresh", a.submit.fresh, "Runs every job, also those that an earlier run finished unchanged");
  add_example(*submit, "braise submit recipes/quickstart.yaml --dry-run");
  submit->callback([&] { result = cli::submit(a.recipe, a.runs, a.submit); });

  auto* wait = app.add_subcommand("wait", "Returns when a run has ended; its status is that of the run");
  add_run(*wait, a);
  add_example(*wait, "braise wait latest");
  wait->callback([&] { result = cli::wait(a.run_name, a.runs); });

  // For batch scripts, not for people.
  auto* supervise = app.add_subcommand("supervise", "Does a job of a run inside a Slurm job")->group("");
  supervise->add_option("run", a.run_dir)->required();
  supervise->add_option("session", a.session)->required();
  supervise->add_option("group", a.group)->required();
  supervise->callback([&] { result = cli::supervise(a.run_dir, a.session, a.group); });

  auto* status = app.add_subcommand("status", "Shows how a run and its jobs stand");
  add_run(*status, a);
  add_json(*status, a);
  add_example(*status, "braise status latest");
  status->callback([&] { result = cli::status(a.run_name, a.runs, a.json); });

  auto* logs = app.add_subcommand("logs", "Prints the logs of a run's latest attempts");
  add_run(*logs, a);
  logs->add_option("job", a.log.job, "Only this job");
  logs->add_option("--rank", a.log.rank, "Only this rank")->check(CLI::NonNegativeNumber);
  logs->add_flag("-f,--follow", a.log.follow, "Goes on with what is written, until the run ends");
  add_example(*logs, "braise logs latest corpus --rank 0 -f");
  logs->callback([&] { result = cli::logs(a.run_name, a.runs, a.log); });

  auto* cancel = app.add_subcommand("cancel", "Asks a running run to checkpoint and stop");
  add_run(*cancel, a);
  cancel->add_flag("--now", a.now, "Ends its workers at once, without a checkpoint");
  add_example(*cancel, "braise cancel latest");
  cancel->callback([&] { result = cli::cancel(a.run_name, a.runs, a.now); });

  auto* runs = app.add_subcommand("runs", "Lists the runs; of one run, its jobs by parameters and metric");
  auto* one = runs->add_option("run", a.run_name, "A run: its folder, its name, a unique beginning of it, or `latest`");
  add_runs(*runs, a);
  add_ranking(*runs, a, one);
  add_json(*runs, a);
  add_example(*runs, "braise runs latest --metric loss");
  runs->callback([&] {
    result = a.run_name.empty() ? cli::runs(a.runs, a.json) : cli::points(a.run_name, a.runs, a.ranking, false, a.json);
  });

  auto* best = app.add_subcommand("best", "Shows the jobs of a sweep by parameters and metric, the best first");
  add_run(*best, a);
  add_ranking(*best, a, nullptr);
  add_json(*best, a);
  add_example(*best, "braise best latest --metric validation_loss");
  best->callback([&] { result = cli::points(a.run_name, a.runs, a.ranking, true, a.json); });

  auto* clean = app.add_subcommand("clean", "Removes runs, with all they hold");
  clean->add_option("runs", a.run_names, "The runs to remove")->required();
  add_runs(*clean, a);
  clean->add_flag("--dry-run", a.dry_run, "Only tells what would be removed");
  add_example(*clean, "braise clean quickstart-20260131-120000-3fa9c1");
  clean->callback([&] { result = cli::clean(a.run_names, a.runs, a.dry_run); });

  auto* archive = app.add_subcommand("archive", "Makes one file of a run: a tar archive, compressed by zstd");
  add_run(*archive, a);
  archive->add_option("--to", a.to, "The file to make; by default the run's name with .tar.zst, in this folder");
  archive->add_flag("--checkpoints", a.checkpoints, "With the tensors of checkpoints, not their manifests alone");
  add_example(*archive, "braise archive latest --to quickstart.tar.zst");
  archive->callback([&] { result = cli::archive(a.run_name, a.runs, a.to, a.checkpoints); });

  auto* unpack = app.add_subcommand("unpack", "Makes a run's folder of its archive, among the other runs");
  unpack->add_option("file", a.target, "What `braise archive` made")->required();
  add_runs(*unpack, a);
  add_example(*unpack, "braise unpack quickstart.tar.zst");
  unpack->callback([&] { result = cli::unpack(a.target, a.runs); });

  auto* inspect = app.add_subcommand("inspect", "Shows what a checkpoint, a weight file or a token file holds");
  add_target(*inspect, a);
  inspect->add_flag("--verify", a.verify, "Reads everything and checks it; tells the file and place of any damage");
  add_json(*inspect, a);
  add_example(*inspect, "braise inspect latest/pretrain --verify");
  inspect->callback([&] { result = cli::inspect(a.target, a.runs, a.verify, a.json); });

  auto* to_files = app.add_subcommand("export", "Writes a checkpoint in Hugging Face's form: safetensors, config.json");
  add_target(*to_files, a);
  to_files->add_option("--to", a.to, "The folder to make")->required();
  to_files->add_option("--dtype", a.dtype, "fp32, bf16 or fp16; by default that of the parameters")
      ->check(CLI::IsMember({"fp32", "bf16", "fp16"}));
  add_example(*to_files, "braise export latest/pretrain --to exported --dtype bf16");
  to_files->callback([&] { result = cli::export_checkpoint(a.target, a.runs, a.to, a.dtype); });

  auto* from_files = app.add_subcommand(
      "import", "Makes a checkpoint of a directory in Hugging Face's form, to begin a training from");
  from_files->add_option("path", a.target, "The directory, or a .safetensors file with its config.json beside")
      ->required();
  from_files->add_option("--to", a.to, "The checkpoint's folder to make")->required();
  add_example(*from_files, "braise import models/gpt2 --to gpt2-checkpoint");
  from_files->callback([&] { result = cli::import_weights(a.target, a.to); });

  auto* compare = app.add_subcommand("compare", "Tells whether two checkpoints or runs are the same to the bit");
  add_target(*compare, a);
  compare->add_option("other", a.other_target, "What to compare with")->required();
  add_example(*compare, "braise compare latest/pretrain runs/pretrain-20260131-120000-3fa9c1/jobs/pretrain");
  compare->callback([&] { result = cli::compare(a.target, a.other_target, a.runs); });

  auto* schema = app.add_subcommand("schema", "Prints a JSON Schema, for editors; without a name, lists them");
  schema->add_option("name", a.schema_name, "For example recipe, or stage.tokenize");
  schema->add_flag("--reference", a.reference, "Prints the reference page of the recipe language (Markdown)");
  add_example(*schema, "braise schema recipe");
  schema->callback([&] { result = cli::schema(a.schema_name, a.reference); });

  auto* kinds = app.add_subcommand("kinds", "Lists the stage kinds");
  add_json(*kinds, a);
  add_example(*kinds, "braise kinds");
  kinds->callback([&] { result = cli::kinds(a.json); });

  auto* version = app.add_subcommand("version", "Prints the version and the facts of this build");
  add_json(*version, a);
  add_example(*version, "braise version --json");
  version->callback([&] { result = cli::version(a.json); });

  auto* completion = app.add_subcommand("completion", "Prints a completion script for the shell");
  completion->add_option("shell", a.shell, "bash or zsh")->required()->check(CLI::IsMember({"bash", "zsh"}));
  add_example(*completion, "source <(./braise completion bash)");
  completion->callback([&] { result = cli::completion(app, a.shell); });
}

int run_command(int argc, char** argv) {
  CLI::App app("Braise runs large-language-model work from a recipe.", "braise");
  app.footer("Start with:\n  braise run recipes/quickstart.yaml");
  app.require_subcommand(0, 1);
  bool show_version = false;
  app.add_flag("--version", show_version, "Prints the version and the facts of this build");
  Arguments arguments;
  int result = cli::kSuccess;
  add_commands(app, arguments, result);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    cli::print(app.help());
    return cli::kSuccess;
  } catch (const CLI::ParseError& error) {
    app.exit(error);
    return cli::kBadInput;
  }
  if (show_version) return cli::version(false);
  if (app.get_subcommands().empty()) {
    std::fputs(app.help().c_str(), stderr);
    return cli::kBadInput;
  }
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run_command(argc, argv);
  } catch (const cli::UsageError& error) {
    if (*error.what() != '\0') std::fprintf(stderr, "braise: %s\n", error.what());
    return cli::kBadInput;
  } catch (const core::Error& error) {
    std::fprintf(stderr, "braise: %s (%s)\n", error.what(), error.place().c_str());
    return cli::kRunFailed;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "braise: %s\n", error.what());
    return cli::kRunFailed;
  }
}
