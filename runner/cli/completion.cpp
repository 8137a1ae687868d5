// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>

#include "runner/cli/commands.h"

namespace braise::cli {
namespace {

std::string option_words(const CLI::App& app) {
  std::string words;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) words += " --" + name;
    for (const std::string& name : option->get_snames()) words += " -" + name;
  }
  return words.empty() ? words : words.substr(1);
}

/// What a command takes as its first argument: "recipe", "run", a list of words, or nothing.
std::string argument_of(const CLI::App& app) {
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_positional()) return option->get_name(true, false);
  }
  return "";
}

}  // namespace

int completion(const CLI::App& app, const std::string& shell) {
  std::string commands, cases;
  for (const CLI::App* command : app.get_subcommands(nullptr)) {
    if (command->get_group().empty()) continue;
    commands += (commands.empty() ? "" : " ") + command->get_name();
    cases += "    " + command->get_name() + ") options='" + option_words(*command) + "'; argument='" +
             argument_of(*command) + "' ;;\n";
  }
  std::string script;
  if (shell == "zsh") script += "autoload -U +X bashcompinit && bashcompinit\n";
  script += R"sh(_braise() {
  local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} runs=./runs options= argument= i
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W ")sh" +
            commands + R"sh( --help --version" -- "$word"))
    return
  fi
  case ${COMP_WORDS[1]} in
)sh" + cases +
            R"sh(  esac
  for ((i = 2; i < COMP_CWORD; i++)); do
    [ "${COMP_WORDS[i]}" = --runs ] && runs=${COMP_WORDS[i+1]}
  done
  case $previous in
    --runs) COMPREPLY=($(compgen -d -- "$word")); return ;;
    --vars | --to | --site) COMPREPLY=($(compgen -f -- "$word")); return ;;
    --dtype) COMPREPLY=($(compgen -W 'fp32 bf16 fp16' -- "$word")); return ;;
    --set | --rank) return ;;
  esac
  case $word in
    -*) COMPREPLY=($(compgen -W "$options" -- "$word")); return ;;
  esac
  case $argument in
    recipe) COMPREPLY=($(compgen -f -X '!*.y*ml' -- "$word") $(compgen -d -- "$word")) ;;
    run | runs) COMPREPLY=($(cd -- "$runs" 2>/dev/null && compgen -d -- "$word") $(compgen -W latest -- "$word")) ;;
    target) COMPREPLY=($(cd -- "$runs" 2>/dev/null && compgen -d -- "$word") $(compgen -W latest -- "$word") $(compgen -f -- "$word")) ;;
    path) COMPREPLY=($(compgen -f -- "$word")) ;;
    shell) COMPREPLY=($(compgen -W 'bash zsh' -- "$word")) ;;
    name) COMPREPLY=($(compgen -W "$("${COMP_WORDS[0]}" schema 2>/dev/null)" -- "$word")) ;;
  esac
}
complete -o filenames -F _braise braise ./braise
)sh";
  print(script);
  return kSuccess;
}

}  // namespace braise::cli
