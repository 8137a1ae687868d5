// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/model/decoder.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>

#include "kernels/core/copy.h"
#include "kernels/core/error.h"
#include "stages/shared/weights/safetensors.h"
#include "tests/stages/shared/model/small_models.h"
#include "tests/support/support.h"
#include "tests/support/tensors.h"

using namespace braise;
using namespace braise::core;
using namespace braise::test;
using Catch::Contains;
namespace fs = std::filesystem;
using model::Batch;
using model::Checkpointing;
using model::Config;
using model::Decoder;
using model::DecoderSettings;

namespace {

struct Trial {
  Trial(const Config& config, const DecoderSettings& how, std::int64_t sequences = 2, std::int64_t length = 13)
      : decoder(bench.stream(), config, how),
        ids(Dtype::kInt32, Shape{sequences, length}),
        targets(Dtype::kInt32, Shape{sequences, length}),
        losses(Dtype::kFloat32, Shape{sequences, length}),
        weights(Dtype::kFloat32, Shape{sequences, length},
                random_values(Shape{sequences, length}, Dtype::kFloat32, 9)) {
    std::vector<double> tokens(static_cast<std::size_t>(sequences * length));
    std::vector<double> next(tokens.size());
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      tokens[i] = static_cast<double>((i * 7 + i * i) % static_cast<std::size_t>(config.vocabulary));
      next[i] = i % 6 == 4 ? -100 : static_cast<double>((i * 5 + 3) % static_cast<std::size_t>(config.vocabulary));
    }
    ids.set(tokens);
    targets.set(next);
    batch.ids = ids.view();
    batch.targets = targets.view();
    decoder.initialise(3);
    // Norms and biases too are something else than 1 and 0.
    std::uint64_t seed = 70;
    for (const model::Parameter& parameter : decoder.parameters()) {
      if (parameter.spec.initial == model::Initial::kNormal) continue;
      const TestTensor shift(Dtype::kFloat32, parameter.spec.shape,
                             random_values(parameter.spec.shape, Dtype::kFloat32, ++seed, 0.3));
      set(parameter, sum(get(parameter.value), shift.values()));
    }
    decoder.values_changed();
  }

  static std::vector<double> sum(std::vector<double> a, const std::vector<double>& b) {
    for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
    return a;
  }
  std::vector<double> get(const TensorView& tensor) {
    const TestTensor copied(Dtype::kFloat32, tensor.shape());
    copy(bench.stream(), copied.view(), tensor);
    return copied.values();
  }
  void set(const model::Parameter& parameter, const std::vector<double>& values) {
    copy(bench.stream(), parameter.value, TestTensor(Dtype::kFloat32, parameter.spec.shape, values).view());
  }
  double loss() {
    decoder.forward(losses.view(), batch, settings);
    const std::vector<double> each = losses.values();
    const std::vector<double> by = weights.values();
    return std::inner_product(each.begin(), each.end(), by.begin(), 0.0);
  }
  void step() {
    decoder.zero_gradients();
    loss();
    decoder.backward(weights.view(), batch, settings);
    decoder.finish_gradients();
  }
  std::string gradient_bytes() {
    std::string bytes = losses.bytes();
    for (const model::Parameter& parameter : decoder.parameters()) {
      bytes.append(static_cast<const char*>(parameter.gradient.raw()),
                   static_cast<std::size_t>(parameter.gradient.bytes()));
    }
    return bytes;
  }

  Bench bench;
  Decoder decoder;
  TestTensor ids, targets, losses, weights;
  Batch batch;
  loss::CrossEntropy settings;
};

}  // namespace

TEST_CASE("gradients are the slopes of the loss, parameter by parameter") {
  for (const Config& c :
       {small_gpt2(), small_llama(), small_everything(), small_olmo(), small_gemma2(), small_gemma3(), small_neox()}) {
    Trial trial(c, {.compute = Dtype::kFloat32, .gradients = true, .checkpointing = {}});
    trial.settings.label_smoothing = 0.1f;
    trial.settings.z_loss = 0.01f;
    trial.step();
    std::uint64_t seed = 500;
    std::size_t told = 0;
    // The sum of 26 fp32 losses near 4 errs by about 1e-5, which is divided by the step; and the
    // loss is not quite what the extrapolation takes it for.
    constexpr double kTolerance = 2e-3;
    for (const model::Parameter& parameter : trial.decoder.parameters()) {
      const std::vector<double> value = trial.get(parameter.value);
      const std::vector<double> gradient = trial.get(parameter.gradient);
      const std::vector<double> direction = random_values(parameter.spec.shape, Dtype::kFloat32, ++seed);
      double slope = 0;
      for (std::size_t i = 0; i < value.size(); ++i) {
        slope += gradient[i] * direction[i];
      }
      // Central differences of two steps, extrapolated.
      constexpr double kStep = 4e-3;
      const auto difference = [&](double step) {
        const auto moved = [&](double by) {
          std::vector<double> shifted = value;
          for (std::size_t i = 0; i < value.size(); ++i) shifted[i] += by * direction[i];
          trial.set(parameter, shifted);
          trial.decoder.values_changed();
          return trial.loss();
        };
        return (moved(step) - moved(-step)) / (2 * step);
      };
      const double measured = (4 * difference(kStep) - difference(2 * kStep)) / 3;
      trial.set(parameter, value);
      trial.decoder.values_changed();
      INFO(c.model_type << " " << parameter.spec.name << " slope " << slope << " measured " << measured);
      CHECK(std::abs(measured - slope) < kTolerance + 0.01 * std::abs(slope));
      if (std::abs(slope) > 10 * kTolerance) ++told;
    }
    // So that a gradient that is wrong by a tenth is seen in nearly every parameter.
    CHECK(told > trial.decoder.parameters().size() * 3 / 4);
  }
}

TEST_CASE("activation checkpointing changes memory and not one bit") {
  for (const Config& config : {small_gpt2(), small_everything(), small_gemma3(), small_neox()}) {
    for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16}) {
      Config dropping = config;
      dropping.attention_dropout = 0.2;
      dropping.residual_dropout = 0.1;
      dropping.embedding_dropout = 0.1;
      std::string expected;
      std::int64_t most = 0;
      for (const Checkpointing& checkpointing :
           {Checkpointing{}, Checkpointing{Checkpointing::Kind::kAttention, 1},
            Checkpointing{Checkpointing::Kind::kEveryBlock, 2}, Checkpointing{Checkpointing::Kind::kEveryBlock, 1}}) {
        Trial trial(dropping, {.compute = dtype, .gradients = true, .checkpointing = checkpointing});
        trial.batch.dropout = Batch::Dropout{11, 5, 2};
        trial.bench.ledger().reset_peaks();
        trial.decoder.zero_gradients();
        trial.loss();
        const std::int64_t kept = trial.bench.ledger().current_bytes(Space::kDevice, Category::kActivations);
        trial.decoder.backward(trial.weights.view(), trial.batch, trial.settings);
        trial.decoder.finish_gradients();
        if (expected.empty()) {
          expected = trial.gradient_bytes();
          most = kept;
        } else {
          CHECK(trial.gradient_bytes() == expected);
          CHECK(kept < most);
          most = kept;
        }
        CHECK(trial.bench.ledger().current_bytes(Space::kDevice, Category::kActivations) == 0);
      }
    }
  }
}

TEST_CASE("a step gives the same bits on any number of threads, and takes memory from the system once") {
  for (const Config& config : {small_gpt2(), small_everything(), small_gemma3(), small_neox()}) {
    std::string expected;
    with_threads([&](int) {
      Trial trial(config, {.compute = Dtype::kBfloat16, .gradients = true, .checkpointing = {}}, 3, 17);
      trial.step();
      if (expected.empty()) expected = trial.gradient_bytes();
      CHECK(trial.gradient_bytes() == expected);
      const std::int64_t regions = trial.bench.arena().system_allocations();
      trial.step();
      CHECK(trial.gradient_bytes() == expected);
      CHECK(trial.bench.arena().system_allocations() == regions);
    });
  }
}

TEST_CASE("sequences do not depend on what stands beside them") {
  Trial trial(small_llama(), {.compute = Dtype::kFloat32, .gradients = false, .checkpointing = {}}, 4, 9);
  const Shape shape{4, 9, 29};
  const TestTensor all(Dtype::kFloat32, shape);
  trial.decoder.logits(all.view(), trial.batch);
  for (std::int64_t b = 0; b < 4; ++b) {
    const TestTensor one(Dtype::kFloat32, Shape{1, 9, 29});
    Batch batch;
    batch.ids = trial.ids.view().slice(0, b, b + 1);
    trial.decoder.logits(one.view(), batch);
    const auto size = static_cast<std::size_t>(9 * 29 * 4);
    CHECK(one.bytes() == all.bytes().substr(static_cast<std::size_t>(b) * size, size));
  }
}

TEST_CASE("initial values depend on the seed, the name and the element only") {
  Config config = small_llama();
  Trial first(config, {.compute = Dtype::kFloat32, .gradients = false, .checkpointing = {}});
  config.layers = 5;
  config.vocabulary = 40;
  Trial second(config, {.compute = Dtype::kFloat32, .gradients = false, .checkpointing = {}});
  first.decoder.initialise(8);
  second.decoder.initialise(8);
  std::size_t compared = 0;
  for (const model::Parameter& parameter : first.decoder.parameters()) {
    for (const model::Parameter& other : second.decoder.parameters()) {
      if (other.spec.name != parameter.spec.name) continue;
      const std::vector<double> a = first.get(parameter.value);
      const std::vector<double> b = second.get(other.value);
      CHECK(std::equal(a.begin(), a.end(), b.begin()));
      ++compared;
      if (parameter.spec.initial != model::Initial::kNormal) continue;
      double squares = 0;
      for (const double value : a) squares += value * value;
      const double count = static_cast<double>(a.size());
      CHECK(std::sqrt(squares / count) == Approx(parameter.spec.std).epsilon(4 / std::sqrt(2 * count)));
    }
  }
  CHECK(compared == first.decoder.parameters().size());
  const std::vector<double> before = first.get(first.decoder.parameters()[0].value);
  first.decoder.initialise(9);
  CHECK(first.get(first.decoder.parameters()[0].value) != before);
  for (const model::ParameterSpec& spec : model::parameter_specs(small_gpt2())) {
    // Projections into the residual stream begin smaller, the more of them there are.
    const bool into_stream = spec.name.ends_with("c_proj.weight");
    if (spec.initial == model::Initial::kNormal) {
      CHECK(spec.std == Approx(into_stream ? 0.3 / std::sqrt(6.0) : 0.3).epsilon(1e-12));
    }
  }
}

TEST_CASE("weights that do not fit are refused, each by its name") {
  Bench bench;
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "model.safetensors";
  Decoder decoder(bench.stream(), small_llama(), {.compute = Dtype::kFloat32, .gradients = false, .checkpointing = {}});
  decoder.initialise(1);
  std::vector<weights::NewTensor> tensors;
  for (const model::Parameter& parameter : decoder.parameters()) {
    if (parameter.spec.name == "model.layers.1.self_attn.k_proj.weight") continue;
    const bool reshaped = parameter.spec.name == "lm_head.weight";
    tensors.push_back({parameter.spec.name, weights::Encoding::kF32, reshaped ? Shape{20, 29} : parameter.spec.shape});
  }
  tensors.push_back({"model.layers.7.extra", weights::Encoding::kF32, Shape{1}});
  weights::SafetensorsWriter writer(path, tensors, {});
  for (const weights::NewTensor& tensor : tensors) {
    writer.write(tensor.name, std::vector<std::byte>(static_cast<std::size_t>(tensor.shape.elements() * 4)));
  }
  writer.finish();
  CHECK_THROWS_WITH(decoder.load(weights::open_weights(path)),
                    Contains("model.layers.1.self_attn.k_proj.weight is missing") &&
                        Contains("lm_head.weight is 20 x 29, not 29 x 20") &&
                        Contains("model.layers.7.extra is not the model's"));
}

TEST_CASE("batches that do not go together are refused") {
  Trial trial(small_gpt2(), {.compute = Dtype::kFloat32, .gradients = true, .checkpointing = {}});
  CHECK_THROWS_WITH(trial.decoder.backward(trial.weights.view(), trial.batch), Contains("no forward pass before"));
  Batch batch = trial.batch;
  batch.targets = {};
  CHECK_THROWS_WITH(trial.decoder.forward(trial.losses.view(), batch), Contains("targets is no tensor"));
  const TestTensor longer(Dtype::kInt32, Shape{1, 21}, std::vector<double>(21, 0));
  const TestTensor logits(Dtype::kFloat32, Shape{1, 21, 31});
  batch.ids = longer.view();
  CHECK_THROWS_WITH(trial.decoder.logits(logits.view(), batch),
                    Contains("sequences of 21 tokens, but the model has 20"));
  const TestTensor unknown(Dtype::kInt32, Shape{1, 21}, std::vector<double>(21, 31));
  Trial llama(small_llama(), {.compute = Dtype::kFloat32, .gradients = false, .checkpointing = {}});
  const TestTensor llama_logits(Dtype::kFloat32, Shape{1, 21, 29});
  batch.ids = unknown.view();
  CHECK_THROWS_WITH(llama.decoder.logits(llama_logits.view(), batch), Contains("31"));
}
