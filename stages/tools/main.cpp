// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "kernels/core/error.h"
#include "stages/tools/tools.h"

namespace braise::tools {
namespace {

struct Arguments {
  std::string path, other, to, dtype;
  std::optional<std::int64_t> through_step;
  bool verify = false, json = false;
};

void add_tools(CLI::App& app, Arguments& a, int& result) {
  auto* inspect = app.add_subcommand("inspect", "Shows what a checkpoint, weight file or token file holds");
  inspect->add_option("path", a.path)->required();
  inspect->add_flag("--verify", a.verify);
  inspect->add_flag("--json", a.json);
  inspect->callback([&] { result = tools::inspect(a.path, a.verify, a.json); });

  auto* to_files = app.add_subcommand("export", "Writes a checkpoint as a directory in Hugging Face's form");
  to_files->add_option("path", a.path)->required();
  to_files->add_option("--to", a.to)->required();
  to_files->add_option("--dtype", a.dtype)->check(CLI::IsMember({"fp32", "bf16", "fp16"}));
  to_files->callback([&] {
    const auto dtype = a.dtype.empty() ? std::nullopt : core::dtype_named(a.dtype);
    result = tools::export_checkpoint(a.path, a.to, dtype);
  });

  auto* from_files = app.add_subcommand("import", "Makes a checkpoint of a directory in Hugging Face's form");
  from_files->add_option("path", a.path)->required();
  from_files->add_option("--to", a.to)->required();
  from_files->callback([&] { result = tools::import_weights(a.path, a.to); });

  auto* compare = app.add_subcommand("compare", "Tells whether two checkpoints or runs are the same to the bit");
  compare->add_option("a", a.path)->required();
  compare->add_option("b", a.other)->required();
  compare->add_option("--through", a.through_step);
  compare->callback([&] {
    // What cannot be read is no difference.
    try {
      result = tools::compare(a.path, a.other, a.through_step);
    } catch (const core::Error& error) {
      throw BadInput(error.what());
    }
  });
}

}  // namespace

int main(int argc, const char* const* argv) {
  CLI::App app("Works on files that jobs leave, without MPI. `braise inspect` and its like call it.",
               "braise-worker tool");
  app.require_subcommand(1);
  Arguments arguments;
  int result = kSuccess;
  add_tools(app, arguments, result);
  try {
    app.parse(argc, argv);
    return result;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kSuccess : kBadInput;
  } catch (const BadInput& error) {
    std::fprintf(stderr, "braise: %s\n", error.what());
    return kBadInput;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "braise: %s\n", error.what());
    return kBad;
  }
}

}  // namespace braise::tools
