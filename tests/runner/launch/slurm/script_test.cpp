// SPDX-License-Identifier: Apache-2.0
#include "runner/launch/slurm/script.h"

#include <catch2/catch.hpp>
#include <filesystem>

#include "stages/shared/io/file.h"
#include "tests/support/support.h"

namespace braise::launch::slurm {
namespace {
namespace fs = std::filesystem;

/// What would be shell if it were not quoted.
std::vector<std::string> payloads() {
  std::vector<std::string> all = {"'",
                                  "\"",
                                  "`touch PWNED`",
                                  "$(touch PWNED)",
                                  "${PATH}",
                                  "$PATH",
                                  "$'\\n'",
                                  "; touch PWNED",
                                  "& touch PWNED",
                                  "| touch PWNED",
                                  "\ntouch PWNED\n",
                                  "\n#SBATCH --wrap=true\n",
                                  "\r\ntouch PWNED",
                                  "-rf",
                                  "--help",
                                  "~",
                                  "*",
                                  "?",
                                  "[a-z]",
                                  "{a,b}",
                                  "!history",
                                  "#comment",
                                  "\\",
                                  "\\\\",
                                  "\\'",
                                  "'\\''",
                                  "' ; touch PWNED ; '",
                                  "\"; touch PWNED #",
                                  "a b",
                                  " lead",
                                  "trail ",
                                  "\t",
                                  "\x01",
                                  "\x7f",
                                  "\x1b[31m",
                                  "\xc3\xa4\xc3\xb6",
                                  "\xff\xfe",
                                  "$((1+1))",
                                  "<(true)",
                                  ">PWNED",
                                  "<PWNED",
                                  "2>&1",
                                  "()",
                                  "(touch PWNED)",
                                  "a=b",
                                  "EOF",
                                  "%j",
                                  "%x",
                                  "'$(touch PWNED)'",
                                  "\"$(touch PWNED)\"",
                                  "''",
                                  "\"\"",
                                  "''''",
                                  "$",
                                  "$$",
                                  "$!",
                                  "$?",
                                  "$0",
                                  "$*",
                                  "$@",
                                  "\b",
                                  "\f\v",
                                  "\n",
                                  "\n\n",
                                  "'\n'",
                                  "\\\n"};
  // Each within a name, and with a quote to break out by.
  const std::vector<std::string> plain = all;
  for (const std::string& text : plain) all.push_back("a" + text + "'b");
  return all;
}

Group group(int jobs) {
  Group group;
  group.name = "pretrain";
  group.array = jobs > 1;
  for (int i = 0; i < jobs; ++i) group.jobs[i] = "pretrain." + std::to_string(i + 1);
  group.resources.nodes = 2;
  group.resources.workers_per_node = 4;
  group.resources.threads = 3;
  group.resources.device = "cpu";
  group.resources.host_memory_bytes = std::uint64_t{1} << 30;
  group.slurm.grace_s = 120;
  return group;
}

TEST_CASE("what a script is given comes out of bash as it went in, and nothing else happens") {
  const std::vector<std::string> all = payloads();
  REQUIRE(all.size() >= 100);
  const test::TemporaryFolder folder;
  const fs::path told = folder.path() / "told";
  const fs::path shown = folder.write("show", "#!/bin/bash\nprintf '%s\\0' \"$@\" >" + told.string() + "\n");
  fs::permissions(shown, fs::perms::owner_all);
  for (const std::string& payload : all) {
    INFO(payload);
    const fs::path run_dir = "/runs/" + payload;
    const std::string text =
        script_text(group(1), recipe::default_site(), {shown, run_dir, "small", comment_of(payload, 1, "pretrain"), 1});
    // Whatever the folder's name is, the options are the script's own, each on a line.
    CHECK(text.find('\r') == std::string::npos);
    int options = 0;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) options += line.starts_with("#SBATCH") ? 1 : 0;
    CHECK(options == 10);
    const fs::path script = folder.write("script.sh", text);
    const test::Finished finished = test::run_program({"bash", script}, {}, folder.path());
    INFO(finished.err);
    CHECK(finished.status == 0);
    CHECK(io::read_file(told) == "supervise" + std::string(1, '\0') + run_dir.string() + std::string(1, '\0') + "1" +
                                     std::string(1, '\0') + "pretrain" + std::string(1, '\0'));
    CHECK_FALSE(fs::exists(folder.path() / "PWNED"));
  }
}

TEST_CASE("a program's path is quoted too") {
  const test::TemporaryFolder folder;
  int runs = 0;
  for (const std::string& payload : payloads()) {
    const std::string name = "x" + payload;
    if (name.find('/') != std::string::npos) continue;
    const fs::path program = folder.path() / name;
    fs::copy_file("/bin/true", program, fs::copy_options::overwrite_existing);
    const std::string text = script_text(group(1), recipe::default_site(), {program, "/run", "small", "c", 1});
    const test::Finished finished = test::run_program({"bash", folder.write("script.sh", text)}, {}, folder.path());
    INFO(name << ": " << finished.err);
    CHECK(finished.status == 0);
    ++runs;
  }
  CHECK(runs >= 100);
  CHECK_FALSE(fs::exists(folder.path() / "PWNED"));
}

TEST_CASE("the whole script of an array on GPUs is this, and bash can read it") {
  recipe::Site site = recipe::default_site();
  site.cpu.account = "physics";
  site.cuda = {"physics-gpu", "gpu", "normal", "course", "h100", "g[1-2]"};
  site.mail_user = "me@example.org";
  site.mail_events = "END,FAIL";
  site.setup = {"module load openmpi/4.1 cuda", "export UCX_TLS=rc,sm,self"};
  Group many = group(12);
  many.resources.device = "cuda";
  many.slurm = {4 * 3600, 300, false, 4};
  const std::string text =
      script_text(many, site, {"/opt/braise/bin/braise", "/runs/small", "small", "braise:small:1:pretrain", 1});
  CHECK(text == R"(#!/bin/bash
#SBATCH --job-name=small.pretrain
#SBATCH --comment=braise:small:1:pretrain
#SBATCH --output=slurm/1/%x_%A_%a.txt
#SBATCH --open-mode=append
#SBATCH --array=0-11%4
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=3
#SBATCH --mem=4096M
#SBATCH --gres=gpu:4
#SBATCH --time=0-04:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --account=physics-gpu
#SBATCH --partition=gpu
#SBATCH --qos=normal
#SBATCH --reservation=course
#SBATCH --constraint=h100
#SBATCH --exclude=g[1-2]
#SBATCH --mail-type=END,FAIL
#SBATCH --mail-user=me@example.org

# Stage jobs of /runs/small:
#   0: pretrain.1
#   1: pretrain.2
#   2: pretrain.3
#   3: pretrain.4
#   4: pretrain.5
#   5: pretrain.6
#   6: pretrain.7
#   7: pretrain.8
#   8: pretrain.9
#   9: pretrain.10
#   and 2 more
module load openmpi/4.1 cuda
export UCX_TLS=rc,sm,self
exec '/opt/braise/bin/braise' supervise '/runs/small' 1 'pretrain'
)");
  const test::TemporaryFolder folder;
  const test::Finished read = test::run_program({"bash", "-n", folder.write("script.sh", text)});
  CHECK(read.status == 0);
  CHECK(read.err.empty());
}

TEST_CASE("where Slurm would misread a folder, the path of logs is given so that it does not") {
  CHECK(output_option(group(1), "/runs/it's $(x)", 1).empty());
  CHECK(output_option(group(1), "/runs/5%/%j", 2) == "/runs/5%%/%%j/slurm/2/%x_%j.txt");
  CHECK(output_option(group(3), "/runs/5%", 2) == "/runs/5%%/slurm/2/%x_%A_%a.txt");
  CHECK(output_option(group(3), "/runs/a\\b %j", 1) == "/runs/a\\\\b %j/slurm/1/pretrain.txt");
}

TEST_CASE("a script asks for what the job's resources and the site say") {
  recipe::Site site = recipe::default_site();
  site.cpu.partition = "long";
  site.cuda = site.cpu;
  site.cuda.partition = "gpu";
  site.cpu.account = "physics";
  site.setup = {"module load openmpi"};
  site.sbatch = {"--nice=100", "--licenses=a b"};
  Group many = group(5);
  many.jobs.erase(3);
  many.slurm = {5400, 300, true, 2};
  const std::string text = script_text(many, site, {"/bin/braise", "/runs/r", "small", "braise:r:1:pretrain", 1});
  for (const char* line :
       {"#SBATCH --job-name=small.pretrain\n", "#SBATCH --comment=braise:r:1:pretrain\n",
        "#SBATCH --output=slurm/1/%x_%A_%a.txt\n", "#SBATCH --open-mode=append\n", "#SBATCH --array=0-2,4%2\n",
        "#SBATCH --nodes=2\n", "#SBATCH --ntasks-per-node=4\n", "#SBATCH --cpus-per-task=3\n", "#SBATCH --mem=4096M\n",
        "#SBATCH --time=0-01:30:00\n", "#SBATCH --signal=B:USR1@300\n", "#SBATCH --requeue\n", "#SBATCH --exclusive\n",
        "#SBATCH --partition=long\n", "#SBATCH --account=physics\n", "#SBATCH --nice=100\n",
        "#SBATCH \"--licenses=a b\"\n",
        "\nmodule load openmpi\nexec '/bin/braise' supervise '/runs/r' 1 'pretrain'\n"}) {
    CHECK_THAT(text, Catch::Contains(line));
  }
  many.resources.device = "cuda";
  const std::string cuda = script_text(many, site, {"/bin/braise", "/runs/r", "small", "c", 1});
  CHECK_THAT(cuda, Catch::Contains("#SBATCH --gres=gpu:4\n") && Catch::Contains("#SBATCH --partition=gpu\n"));
  site.gpus = "gpus-per-node";
  site.memory = false;
  const std::string other = script_text(many, site, {"/bin/braise", "/runs/r", "small", "c", 1});
  CHECK_THAT(other, Catch::Contains("#SBATCH --gpus-per-node=4\n") && !Catch::Contains("--mem="));
}

}  // namespace
}  // namespace braise::launch::slurm
