// SPDX-License-Identifier: Apache-2.0
#include "tests/slurm/cluster.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <thread>

#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"

namespace braise::test {
namespace fs = std::filesystem;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
namespace {

constexpr int kNodes = 4;

bool is_free(int port) {
  const io::FileDescriptor socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_ANY);
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  return ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
}

/// The first of five ports in a row that nobody listens on.
int free_ports() {
  for (int base = 17000 + ::getpid() % 2000 * 8; base < 65000; base += 8) {
    bool all = true;
    for (int i = 0; i <= kNodes; ++i) all = all && is_free(base + i);
    if (all) return base;
  }
  throw std::runtime_error("no free ports");
}

std::string host_name() {
  std::array<char, 256> name{};
  ::gethostname(name.data(), name.size() - 1);
  return name.data();
}

bool on_path(const char* program) {
  return std::system((std::string("command -v ") + program + " >/dev/null 2>&1").c_str()) == 0;
}

/// Processes whose environment or command line names the folder: everything that the cluster ever started.
std::vector<pid_t> processes_of(const std::string& folder) {
  std::vector<pid_t> found;
  for (const fs::directory_entry& entry : fs::directory_iterator("/proc")) {
    const std::string name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const pid_t pid = std::stoi(name);
    if (pid == ::getpid()) continue;
    try {
      const std::string text = io::read_file(entry.path() / "environ") + io::read_file(entry.path() / "cmdline");
      if (text.find(folder) != std::string::npos) found.push_back(pid);
    } catch (const std::exception&) {
      continue;  // gone meanwhile
    }
  }
  return found;
}

}  // namespace

std::string Cluster::missing() {
  if (::geteuid() != 0) return "not root";
  for (const char* program : {"munged", "slurmctld", "slurmd", "sbatch"}) {
    if (!on_path(program)) return std::string("no ") + program + " (packages slurm-wlm, munge)";
  }
  return "";
}

Cluster::Cluster() {
  const fs::path& root = folder();
  ::chmod(root.c_str(), 0755);
  for (const char* part : {"munge", "state", "log", "etc"}) fs::create_directory(root / part);
  for (int i = 1; i <= kNodes; ++i) {
    fs::create_directories(root / "spool" / ("n" + std::to_string(i)));
    fs::create_directories(root / "tmp" / ("n" + std::to_string(i)));
  }
  for (int i = 0; i < 4; ++i) ::mknod((root / ("gpu" + std::to_string(i))).c_str(), S_IFCHR | 0666, makedev(1, 3));
  const fs::path key = root / "munge/key";
  std::ofstream(key) << io::random_hex(128);
  ::chmod(key.c_str(), 0400);
  const int port = free_ports();
  const std::string d = root.string();
  conf_ = root / "etc/slurm.conf";
  std::ofstream(conf_) << "ClusterName=vc\nSlurmctldHost=" << host_name() << "(127.0.0.1)\nSlurmctldPort=" << port
                       << "\nSlurmUser=root\nSlurmdUser=root\nAuthType=auth/munge\nCredType=cred/munge\n"
                       << "AuthInfo=socket=" << d << "/munge/sock,cred_expire=5\nStateSaveLocation=" << d
                       << "/state\nSlurmdSpoolDir=" << d << "/spool/%n\nTmpFS=" << d
                       << "/tmp/%n\nSlurmctldPidFile=" << d << "/state/slurmctld.pid\nSlurmdPidFile=" << d
                       << "/state/slurmd.%n.pid\nSlurmctldLogFile=" << d << "/log/slurmctld.log\nSlurmdLogFile=" << d
                       << "/log/slurmd.%n.log\nMailProg=/bin/true\nProctrackType=proctrack/linuxproc\n"
                       << "TaskPlugin=task/none\nJobAcctGatherType=jobacct_gather/none\n"
                       << "AccountingStorageType=accounting_storage/none\nMpiDefault=pmix\n"
                       << "SelectType=select/cons_tres\nSelectTypeParameters=CR_Core_Memory\nDefMemPerCPU=200\n"
                       << "SlurmdParameters=config_overrides\n"
                       << "SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0\n"
                       << "ReturnToService=2\nSlurmdTimeout=10\nKillWait=5\nJobRequeue=1\n"
                       << "PreemptType=preempt/partition_prio\nPreemptMode=REQUEUE\n"
                       << "SlurmctldParameters=preempt_send_user_signal\nGresTypes=gpu\nNodeName=n[1-4] NodeHostname="
                       << host_name() << " NodeAddr=127.0.0.1 Port=[" << port + 1 << "-" << port + kNodes
                       << "] CPUs=8 Sockets=1 CoresPerSocket=8 ThreadsPerCore=1 RealMemory=4000 Gres=gpu:4\n"
                       << "PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=10 PriorityTier=1 "
                       << "GraceTime=10\nPartitionName=high Nodes=ALL MaxTime=INFINITE DefaultTime=10 PriorityTier=10 "
                       << "PreemptMode=OFF\n";
  std::ofstream(root / "etc/gres.conf") << "NodeName=n[1-4] Name=gpu File=" << d << "/gpu[0-3]\n";
  std::ofstream(root / "etc/cgroup.conf") << "CgroupAutomount=no\n";
  // Ranks of several nodes share this machine's memory and cores: Open MPI must neither take them for neighbours nor
  // spin.
  site_ = folder_.write("site.yaml",
                        "site: 1\npartition: low\nenvironment:\n  OMPI_MCA_btl: \"self,tcp\"\n"
                        "  OMPI_MCA_btl_tcp_if_include: lo\n  OMPI_MCA_mpi_yield_when_idle: \"1\"\n"
                        "  OMP_WAIT_POLICY: passive\n");
  start({"munged", "--socket=" + d + "/munge/sock", "--key-file=" + key.string(), "--pid-file=" + d + "/munge/pid",
         "--log-file=" + d + "/munge/log", "--seed-file=" + d + "/munge/seed"});
  start_controller();
  for (int i = 1; i <= kNodes; ++i) start_node(i);
  const Clock::time_point give_up = Clock::now() + 30s;
  while (run({"sinfo", "-h", "-t", "idle", "-p", "low", "-o", "%D"}).out != "4\n") {
    if (Clock::now() > give_up) {
      const std::string log = io::read_file(root / "log/slurmctld.log");
      end_all();
      throw std::runtime_error("the virtual cluster does not come up:\n" + log);
    }
    std::this_thread::sleep_for(100ms);
  }
}

Cluster::~Cluster() {
  end_all();
}

void Cluster::add_to_site(const std::string& yaml) const {
  io::write_file_durably(site_, io::read_file(site_) + yaml);
}

/// Ends whatever names the cluster's folder, jobs before daemons or not: all of it is of no more use.
void Cluster::end_all() const {
  for (const Clock::time_point give_up = Clock::now() + 20s; Clock::now() < give_up;) {
    const std::vector<pid_t> left = processes_of(folder().string());
    if (left.empty()) return;
    for (const pid_t pid : left) ::kill(pid, SIGKILL);
    std::this_thread::sleep_for(20ms);
  }
}

Finished Cluster::run(std::vector<std::string> words, const fs::path& first_on_path) const {
  std::vector<std::pair<std::string, std::string>> environment = {{"SLURM_CONF", conf_.string()},
                                                                  {"XDG_CONFIG_HOME", (folder() / "config").string()}};
  if (!first_on_path.empty()) {
    environment.emplace_back("PATH", first_on_path.string() + ":" + std::getenv("PATH"));
  }
  return run_program(words, environment, folder());
}

Finished Cluster::braise(std::vector<std::string> words, const fs::path& first_on_path) const {
  words.insert(words.begin(), program("braise"));
  return run(std::move(words), first_on_path);
}

void Cluster::start(const std::vector<std::string>& words) const {
  const Finished finished = run(words);
  if (finished.status != 0) throw std::runtime_error("cannot start " + words.front() + ": " + finished.err);
}

void Cluster::start_controller() const {
  start({"slurmctld", "-f", conf_});
}

void Cluster::start_node(int number) const {
  start({"slurmd", "-f", conf_, "-N", "n" + std::to_string(number)});
}

void Cluster::kill(const std::string& daemon) const {
  const pid_t pid = std::stoi(io::read_file(folder() / "state" / (daemon + ".pid")));
  ::kill(pid, SIGKILL);
  while (::kill(pid, 0) == 0 &&
         io::read_file("/proc/" + std::to_string(pid) + "/stat").find(") Z") == std::string::npos)
    std::this_thread::sleep_for(5ms);
}

}  // namespace braise::test
