// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/model/memory.h"

#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "kernels/core/copy.h"
#include "kernels/core/parallel.h"
#include "kernels/core/tier.h"
#include "stages/shared/model/decoder.h"
#include "tests/stages/shared/model/small_models.h"
#include "tests/support/tensors.h"

namespace braise::model {
namespace {

using core::Category;
using core::Dtype;

struct Case {
  std::string name;
  Config config;
  Dtype compute = Dtype::kFloat32;
  Checkpointing checkpointing = {};
  std::int64_t sequences = 2;
  std::int64_t length = 192;
};

/// Of a size at which memory is that of tensors, not of their edges.
Config grown(Config config, std::int64_t layers = 3) {
  config.vocabulary = 2900;
  config.layers = layers;
  config.hidden = 192;
  config.head_size = 48;
  config.heads = 4;
  config.kv_heads = config.family == Family::kLlama ? 2 : 4;
  config.intermediate = config.gated ? 480 : 768;
  config.positions = 512;
  if (config.rope) config.rope->rotary = 48;
  if (config.local_rope) config.local_rope->rotary = 48;
  return config;
}

std::vector<Case> cases() {
  using Kind = Checkpointing::Kind;
  const std::vector<std::pair<std::string, Checkpointing>> ways{{"none", {}},
                                                                {"attention", {Kind::kAttention}},
                                                                {"half", {Kind::kEveryBlock, 2}},
                                                                {"all", {Kind::kEveryBlock, 1}}};
  const std::vector<std::pair<std::string, Config>> models{
      {"gpt2", test::small_gpt2()}, {"llama", test::small_llama()},  {"everything", test::small_everything()},
      {"olmo", test::small_olmo()}, {"gemma", test::small_gemma3()}, {"neox", test::small_neox()}};
  std::vector<Case> cases;
  for (const auto& [name, config] : models) {
    for (const auto& [way, checkpointing] : ways) {
      for (const Dtype compute : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}) {
        if (compute == Dtype::kFloat16 && way != "none") continue;
        const std::string text = name + ", " + way + ", " + std::string(core::name(compute));
        cases.push_back({text, grown(config), compute, checkpointing});
      }
    }
  }
  Config deep = grown(test::small_llama(), 9);
  cases.push_back({"deep, all", deep, Dtype::kFloat32, {Kind::kEveryBlock, 1}, 2, 300});
  cases.push_back({"deep, half", deep, Dtype::kFloat32, {Kind::kEveryBlock, 2}, 2, 300});
  Config dropping = grown(test::small_gpt2());
  dropping.residual_dropout = dropping.attention_dropout = dropping.embedding_dropout = 0.1;
  cases.push_back({"dropout", dropping});
  cases.push_back({"dropout, all", dropping, Dtype::kFloat32, {Kind::kEveryBlock, 1}});
  Config words = grown(test::small_llama());
  words.vocabulary = 20'000;
  cases.push_back({"many tokens", words});
  Config wide = grown(test::small_llama());
  wide.heads = 16;
  cases.push_back({"heads wider than the stream", wide});
  for (const std::int64_t sequences : {1, 5}) {
    const std::string micro = "micro-batch " + std::to_string(sequences);
    cases.push_back({micro, grown(test::small_everything()), Dtype::kBfloat16, {}, sequences});
    cases.push_back({micro + ", all", grown(test::small_gpt2()), Dtype::kFloat32, {Kind::kEveryBlock, 1}, sequences});
  }
  cases.push_back({"long", grown(test::small_llama()), Dtype::kFloat32, {}, 1, 1500});
  return cases;
}

TEST_CASE("what a training step holds is within 3 % of its estimate, category by category") {
  for (const Case& one : cases()) {
    INFO(one.name);
    test::Bench bench;
    core::Stream& stream = bench.stream();
    Decoder decoder(stream, one.config,
                    {.compute = one.compute, .gradients = true, .checkpointing = one.checkpointing});
    decoder.initialise(1);
    const core::Shape shape{one.sequences, one.length};
    const test::TestTensor ids(Dtype::kInt32, shape), weights(Dtype::kFloat32, shape), losses(Dtype::kFloat32, shape);
    core::fill(stream, ids.view(), 5);
    core::fill(stream, weights.view(), 1e-3f);
    Batch batch;
    batch.ids = batch.targets = ids.view();
    if (one.config.residual_dropout > 0) batch.dropout = {1, 1, 0};
    decoder.zero_gradients();
    decoder.forward(losses.view(), batch);
    decoder.backward(weights.view(), batch);
    const DecoderMemory estimate = training_memory(one.config, one.compute, one.checkpointing, one.sequences,
                                                   one.length, core::threads(), core::tier(), {whole_of(one.config)});
    const auto check = [&](Category category, std::int64_t expected) {
      const auto peak = static_cast<double>(bench.ledger().peak_bytes(core::Space::kDevice, category));
      INFO(core::name(category) << ": peak " << peak << ", estimate " << expected << ", ratio "
                                << peak / static_cast<double>(expected));
      CHECK(peak == Approx(static_cast<double>(expected)).epsilon(0.03));
    };
    check(Category::kParameters, estimate.parameters);
    check(Category::kGradients, estimate.gradients);
    check(Category::kActivations, estimate.activations);
    check(Category::kWorkspace, estimate.workspace);
  }
}

}  // namespace
}  // namespace braise::model
