// SPDX-License-Identifier: Apache-2.0
#include "stages/infer/finished.h"

#include <nlohmann/json.hpp>
#include <string>

#include "kernels/comm/communicator.h"
#include "kernels/core/error.h"

namespace braise::infer {
namespace fs = std::filesystem;
namespace {

Generation from_json(const nlohmann::json& line, const text::Tokenizer& tokenizer) {
  Generation generation;
  generation.tokens = line.at("tokens").get<std::vector<std::uint32_t>>();
  generation.finish = finish_named(line.at("finish_reason").get<std::string>());
  tokenizer.decode(generation.tokens, generation.text);
  const std::size_t bytes = line.at("text_bytes");
  if (bytes > generation.text.size()) throw core::Error("its text is shorter than it says");
  generation.text.resize(bytes);
  return generation;
}

}  // namespace

Finished::Finished(stages::StageContext& context)
    : context_(context),
      file_(context.attempt_dir() / ("finished." + std::to_string(context.comm().rank()) + ".jsonl")) {}

void Finished::add(std::size_t request, const Generation& generation) {
  file_.append({{"fingerprint", context_.job().fingerprint},
                {"request", request},
                {"tokens", generation.tokens},
                {"text_bytes", generation.text.size()},
                {"finish_reason", name(generation.finish)}},
               false);
}

std::map<std::size_t, Generation> take_over(stages::StageContext& context, const text::Tokenizer& tokenizer) {
  std::map<std::size_t, Generation> finished;
  for (const fs::path& attempt : context.earlier_attempts()) {
    std::error_code gone;
    for (const auto& entry : fs::directory_iterator(attempt, gone)) {
      const std::string file = entry.path().filename();
      if (!file.starts_with("finished.") || !file.ends_with(".jsonl")) continue;
      context.operation("read " + file + " of attempt " + attempt.filename().string());
      for (const nlohmann::json& line : io::read_json_lines(entry.path()).objects) {
        try {
          if (line.at("fingerprint") != context.job().fingerprint) continue;
          finished.try_emplace(line.at("request").get<std::size_t>(), from_json(line, tokenizer));
        } catch (const std::exception& error) {
          context.log("a completion in " + entry.path().string() +
                      " cannot be taken over and is made anew: " + error.what());
        }
      }
    }
  }
  return finished;
}

}  // namespace braise::infer
