// SPDX-License-Identifier: Apache-2.0
// Whole models against logits, losses, gradients and trajectories that other programs have computed.
#include <catch2/catch.hpp>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "kernels/core/copy.h"
#include "kernels/core/error.h"
#include "kernels/optimizer/adam.h"
#include "stages/shared/io/file.h"
#include "stages/shared/model/decoder.h"
#include "stages/shared/weights/weights.h"
#include "tests/stages/shared/model/golden.h"
#include "tests/support/support.h"
#include "tests/support/tensors.h"

using namespace braise;
using namespace braise::core;
using namespace braise::test;
using model::Batch;
using model::Config;
using model::Decoder;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

Config gpt2_config(const json& j) {
  Config config;
  std::vector<std::string> problems;
  const auto read = model::read_hugging_face(json{{"model_type", "gpt2"},
                                                  {"vocab_size", j.at("vocab")},
                                                  {"n_embd", j.at("n_embd")},
                                                  {"n_layer", j.at("n_layer")},
                                                  {"n_head", j.at("n_head")},
                                                  {"n_ctx", j.at("n_ctx")}},
                                             problems);
  REQUIRE(read.has_value());
  return *read;
}

}  // namespace

TEST_CASE("tiny models of every architecture give the logits of Hugging Face transformers") {
  const auto folder = models();
  if (!folder) return;
  const std::string name = GENERATE(as<std::string>(), "gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2",
                                    "gemma3", "starcoder2", "olmo2", "phi3", "gptneox");
  INFO(name);
  const fs::path base = *folder / "hf-tiny" / ("tiny_" + name);
  const json golden = read_json(base.string() + "_logits.json");
  const Config config = name == "gpt2" ? gpt2_config(golden.at("config"))
                                       : model::read_hugging_face(fs::path(base.string() + "_config.json"));
  const weights::Weights weights = weights::open_weights(base.string() + ".safetensors");
  Bench bench;
  const TestTensor ids = tensor_of(golden.at("sequences"));
  Batch batch;
  batch.ids = ids.view();
  const std::vector<double> expected = flat(golden.at("logits"));
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}) {
    INFO(core::name(dtype));
    Decoder decoder(bench.stream(), config, {.compute = dtype, .gradients = false, .checkpointing = {}});
    decoder.load(weights);
    // About ten roundings of each value on its way through two layers.
    const double tolerance = dtype == Dtype::kFloat32 ? 2e-5 : 24 * unit_roundoff(dtype);
    CHECK(worst_difference(logits_of(bench, decoder, batch), expected) < tolerance);
  }
}

TEST_CASE("stories260k gives the logits of llama2.c") {
  const auto folder = models();
  if (!folder) return;
  const fs::path base = *folder / "stories260k";
  const json golden = read_json(base / "golden/logits_32x512.json");
  Bench bench;
  Decoder decoder(bench.stream(), model::read_hugging_face(base / "config.json"),
                  {.compute = Dtype::kFloat32, .gradients = false, .checkpointing = {}});
  decoder.load(weights::open_weights(base / "model.safetensors"));
  const TestTensor ids = tensor_of({golden.at("ids").get<std::vector<std::int32_t>>()});
  Batch batch;
  batch.ids = ids.view();
  CHECK(worst_difference(logits_of(bench, decoder, batch), read_floats(base / "golden/logits_32x512.f32")) < 3e-5);
}

TEST_CASE("tiny-random-gpt2 trains as llm.c trains it") {
  const auto folder = models();
  if (!folder) return;
  const fs::path base = *folder / "tiny-random-gpt2";
  const fs::path text_path = shared_data() / "datasets/tinyshakespeare/input.txt";
  const json golden = read_json(base / "golden/train_llmc.json");
  const std::string text = io::read_file(text_path);
  std::map<char, std::int32_t> numbers;
  for (const char c : std::set<char>(text.begin(), text.end())) {
    numbers.emplace(c, static_cast<std::int32_t>(numbers.size()));
  }
  REQUIRE(numbers.size() == 65);
  const auto sequences = golden.at("B").get<std::int64_t>();
  const auto length = golden.at("T").get<std::int64_t>();
  const auto expected = golden.at("losses").get<std::vector<double>>();
  REQUIRE(expected.size() >= 200);
  const json& options = golden.at("optimizer");
  const double learning_rate = options.at("lr");

  Bench bench;
  Decoder decoder(bench.stream(), model::read_hugging_face(base / "config.json"),
                  {.compute = Dtype::kFloat32, .gradients = true, .checkpointing = {}});
  decoder.load(weights::open_weights(base / "model.safetensors"));
  std::vector<std::pair<Tensor, Tensor>> moments;
  for (const model::Parameter& parameter : decoder.parameters()) {
    auto& [m, v] = moments.emplace_back();
    m = bench.arena().tensor(Dtype::kFloat32, parameter.spec.shape, Category::kOptimizer, parameter.spec.name);
    v = bench.arena().tensor(Dtype::kFloat32, parameter.spec.shape, Category::kOptimizer, parameter.spec.name);
    fill(bench.stream(), m.view, 0);
    fill(bench.stream(), v.view, 0);
  }
  const weights::Weights first_gradients = weights::open_weights(base / "golden/train_grads_step0.safetensors");
  const weights::Weights tenth = weights::open_weights(base / "golden/train_params_after_10_steps.safetensors");
  // A key's bias adds the same to all scores of a query: its true gradient is 0, and Adam makes steps of full length of
  // what rounding leaves.
  const auto noise = [&](const model::Parameter& parameter, std::size_t element) {
    const auto third = static_cast<std::size_t>(decoder.config().hidden);
    return parameter.spec.role == model::Role::kQkvBias && element / third == 1;
  };
  const auto compare = [&](const weights::Weights& golden_weights, const model::Parameter& parameter,
                           const TensorView& tensor, double tolerance) {
    const TestTensor want(Dtype::kFloat32, parameter.spec.shape);
    golden_weights.read(bench.stream(), parameter.spec.name, want.view());
    const TestTensor got(Dtype::kFloat32, parameter.spec.shape);
    copy(bench.stream(), got.view(), tensor);
    double scale = 0;
    for (const double value : want.values()) scale = std::max(scale, std::abs(value));
    INFO(parameter.spec.name);
    check_close(
        got.values(), want.values(),
        [&](std::size_t i) { return noise(parameter, i) ? 10 * learning_rate : tolerance * scale; },
        parameter.spec.name);
  };

  const auto rows = static_cast<std::size_t>(sequences * length);
  const TestTensor weights(Dtype::kFloat32, Shape{sequences, length},
                           std::vector<double>(rows, 1.0 / static_cast<double>(rows)));
  std::int64_t system_allocations = 0;
  for (std::size_t step = 0; step < 200; ++step) {
    std::vector<double> ids;
    std::vector<double> targets;
    for (std::size_t i = 0; i < rows; ++i) {
      ids.push_back(numbers.at(text[step * rows + i]));
      targets.push_back(numbers.at(text[step * rows + i + 1]));
    }
    const TestTensor id_tensor(Dtype::kInt32, Shape{sequences, length}, ids);
    const TestTensor target_tensor(Dtype::kInt32, Shape{sequences, length}, targets);
    const TestTensor losses(Dtype::kFloat32, Shape{sequences, length});
    Batch batch;
    batch.ids = id_tensor.view();
    batch.targets = target_tensor.view();
    decoder.zero_gradients();
    decoder.forward(losses.view(), batch);
    decoder.backward(weights.view(), batch);
    decoder.finish_gradients();
    double loss = 0;
    for (const double value : losses.values()) loss += value / static_cast<double>(rows);
    INFO("step " << step);
    // Both are fp32, in other orders; small differences grow as training goes on.
    CHECK(loss == Approx(expected[step]).epsilon(0).margin(step < 10 ? 5e-6 : 5e-4));
    std::size_t i = 0;
    for (const model::Parameter& parameter : decoder.parameters()) {
      if (step == 0) compare(first_gradients, parameter, parameter.gradient, 2e-5);
      optimizer::Adam adam;
      adam.learning_rate = learning_rate;
      adam.beta1 = options.at("beta1");
      adam.beta2 = options.at("beta2");
      adam.epsilon = options.at("eps");
      adam.weight_decay = options.at("weight_decay");
      optimizer::Slice slice;
      slice.master = parameter.value;
      slice.gradient = parameter.gradient;
      optimizer::adam_step(bench.stream(), slice, moments[i].first.view, moments[i].second.view, adam,
                           static_cast<std::int64_t>(step) + 1);
      if (step == 9) compare(tenth, parameter, parameter.value, 1e-4);
      ++i;
    }
    decoder.values_changed();
    if (step == 0) system_allocations = bench.arena().system_allocations();
  }
  CHECK(bench.arena().system_allocations() == system_allocations);
}
