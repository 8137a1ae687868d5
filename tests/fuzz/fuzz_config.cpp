// SPDX-License-Identifier: Apache-2.0
// Feeds bytes to the reader of a Hugging Face config.json: what it takes must be a model that can be described again.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "stages/shared/model/config.h"
#include "stages/shared/model/generation_memory.h"
#include "stages/shared/model/memory.h"
#include "tests/fuzz/weight_input.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace braise;
  const nlohmann::json object = nlohmann::json::parse(data, data + size, nullptr, false);
  if (object.is_discarded()) return 0;
  std::vector<std::string> problems;
  const std::optional<model::Config> config = model::read_hugging_face(object, problems);
  for (const std::string& problem : problems) {
    const bool tame = std::all_of(problem.begin(), problem.end(), [](unsigned char c) { return c >= 0x20; });
    test::require(tame && problem.find(": ") != std::string::npos, "a problem is not one line with its key", problem);
  }
  test::require(config.has_value() == problems.empty(), "a model with problems, or none without", "");
  if (!config) return 0;
  test::require(config->parameter_count() > 0, "a model without parameters", "");
  const model::DecoderMemory memory =
      model::training_memory(*config, core::Dtype::kBfloat16, {}, 2, 64, 2, core::tier(), {model::whole_of(*config)});
  test::require(memory.activations > 0 && memory.workspace > 0, "memory is not positive", "");
  test::require(model::generation_memory(*config, core::Dtype::kBfloat16, {}).workspace > 0, "memory is not positive",
                "");
  const nlohmann::json written = model::to_hugging_face(*config);
  const std::optional<model::Config> again = model::read_hugging_face(written, problems);
  test::require(again.has_value(), "what was written is not read", written.dump());
  test::require(model::to_hugging_face(*again) == written, "what was read again is written otherwise", written.dump());
  return 0;
}
