// SPDX-License-Identifier: Apache-2.0
// The small models of tests/golden/models, which Hugging Face transformers has computed in fp64: one for each thing a
// configuration may say.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>

#include "kernels/core/copy.h"
#include "kernels/optimizer/adam.h"
#include "kernels/optimizer/grad_norm.h"
#include "stages/shared/io/file.h"
#include "stages/shared/model/decoder.h"
#include "stages/shared/weights/safetensors.h"
#include "stages/shared/weights/weights.h"
#include "tests/stages/shared/model/configs.h"
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

struct Subject {
  Subject(const fs::path& folder, Dtype dtype, bool gradients)
      : golden(read_json(folder / "golden.json")),
        weights(weights::open_weights(folder / "model.safetensors")),
        decoder(bench.stream(), model::read_hugging_face(folder / "config.json"),
                {.compute = dtype, .gradients = gradients, .checkpointing = {}}) {
    decoder.load(weights);
  }

  std::vector<double> get(const ConstTensorView& tensor) {
    const TestTensor copied(Dtype::kFloat32, tensor.shape());
    copy(bench.stream(), copied.view(), tensor);
    return copied.values();
  }

  /// Of all parameters, by their names, after a pass over one batch or several.
  std::map<std::string, std::vector<double>> gradients() {
    decoder.finish_gradients();
    std::map<std::string, std::vector<double>> all;
    for (const model::Parameter& parameter : decoder.parameters()) {
      all.emplace(parameter.spec.name, get(parameter.gradient));
    }
    return all;
  }

  json golden;
  weights::Weights weights;
  Bench bench;
  Decoder decoder;
};

/// Ids and targets as a batch.
struct Rows {
  Rows(const std::vector<std::vector<std::int32_t>>& id_rows, const std::vector<std::vector<std::int32_t>>& target_rows)
      : ids(tensor_of(id_rows)), targets(tensor_of(target_rows)), losses(Dtype::kFloat32, ids.view().shape()) {
    batch.ids = ids.view();
    batch.targets = targets.view();
  }

  /// Weights that make the sum of losses their mean over all positions that count.
  TestTensor mean_weights() const {
    double count = 0;
    for (const double target : targets.values()) count += target == -100 ? 0 : 1;
    const Shape shape = ids.view().shape();
    return TestTensor(Dtype::kFloat32, shape,
                      std::vector<double>(static_cast<std::size_t>(shape.elements()), 1 / count));
  }

  TestTensor ids, targets, losses;
  Batch batch;
};

double tolerance(const Subject& subject, const char* of, Dtype dtype) {
  return golden_tolerance(subject.golden, of, dtype);
}

}  // namespace

TEST_CASE("small models give the logits and losses of transformers in fp64") {
  for (const fs::path& folder : golden_models()) {
    for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}) {
      INFO(folder.filename().string() << " " << name(dtype));
      Subject s(folder, dtype, false);
      Rows rows(s.golden.at("ids"), s.golden.at("targets"));
      const auto last = static_cast<std::int64_t>(s.golden.at("logits").at(0).size());
      const std::vector<double> logits = last_logits(logits_of(s.bench, s.decoder, rows.batch), rows.ids.view().shape(),
                                                     s.decoder.config().vocabulary, last);
      CHECK(worst_difference(logits, flat(s.golden.at("logits"))) < tolerance(s, "logits", dtype));
      s.decoder.forward(rows.losses.view(), rows.batch);
      CHECK(worst_difference(rows.losses.values(), flat(s.golden.at("losses"))) < tolerance(s, "losses", dtype));
    }
  }
}

TEST_CASE("small models give the gradients of transformers in fp64") {
  for (const fs::path& folder : golden_models()) {
    for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}) {
      INFO(folder.filename().string() << " " << name(dtype));
      Subject s(folder, dtype, true);
      Rows rows(s.golden.at("ids"), s.golden.at("targets"));
      s.decoder.zero_gradients();
      s.decoder.forward(rows.losses.view(), rows.batch);
      s.decoder.backward(rows.mean_weights().view(), rows.batch);
      const auto gradients = s.gradients();
      const json& golden = s.golden.at("gradients");
      CHECK(gradients.size() == golden.size());
      const double relative = tolerance(s, "gradients", dtype);
      for (const auto& [parameter, gradient] : gradients) {
        check_gradient(gradient, golden.at(parameter), relative, parameter);
      }
    }
  }
}

TEST_CASE("small models give the logits of plain loops in fp64") {
  const std::string name =
      GENERATE(as<std::string>(), "olmo2", "phi3", "gemma2", "gemma3_text", "gpt_neox", "stablelm");
  const json golden = read_json(source_dir() / "tests/golden" / (name + ".json"));
  std::vector<std::string> problems;
  const auto config = model::read_hugging_face(golden.at("config"), problems);
  REQUIRE(config.has_value());
  Rows rows({golden.at("ids").get<std::vector<std::int32_t>>()}, {golden.at("ids").get<std::vector<std::int32_t>>()});
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}) {
    INFO(name << " " << core::name(dtype));
    Bench bench;
    Decoder decoder(bench.stream(), *config, {.compute = dtype, .gradients = false, .checkpointing = {}});
    for (const model::Parameter& parameter : decoder.parameters()) {
      const TestTensor value(Dtype::kFloat32, parameter.spec.shape, flat(golden.at("weights").at(parameter.spec.name)));
      copy(bench.stream(), parameter.value, value.view());
    }
    decoder.values_changed();
    // A dozen roundings a layer on the way of each value, which norms make up to twice as large.
    CHECK(worst_difference(logits_of(bench, decoder, rows.batch), flat(golden.at("logits"))) <
          24 * static_cast<double>(config->layers) * unit_roundoff(dtype));
  }
}

TEST_CASE("twenty steps of AdamW with clipping go as in torch in fp64") {
  std::size_t trained = 0;
  for (const fs::path& folder : golden_models()) {
    if (!read_json(folder / "golden.json").contains("training")) continue;
    ++trained;
    INFO(folder.filename().string());
    Subject s(folder, Dtype::kFloat32, true);
    const auto length = static_cast<std::int64_t>(s.golden.at("ids").at(0).size());
    std::vector<std::pair<Tensor, Tensor>> moments;
    for (const model::Parameter& parameter : s.decoder.parameters()) {
      auto& [m, v] = moments.emplace_back();
      for (Tensor* const moment : {&m, &v}) {
        *moment = s.bench.arena().tensor(Dtype::kFloat32, parameter.spec.shape, Category::kOptimizer, "moment");
        fill(s.bench.stream(), moment->view, 0);
      }
    }
    const auto losses = s.golden.at("training").at("losses").get<std::vector<double>>();
    const auto norms = s.golden.at("training").at("norms").get<std::vector<double>>();
    REQUIRE(losses.size() == 20);
    for (std::size_t step = 0; step < losses.size(); ++step) {
      INFO("step " << step);
      std::vector<std::vector<std::int32_t>> ids(2);
      std::vector<std::vector<std::int32_t>> targets(2);
      for (std::size_t b = 0; b < 2; ++b) {
        for (std::int64_t t = 0; t < length; ++t) {
          const auto token = [&](std::int64_t at) {
            const std::int64_t number =
                7 * static_cast<std::int64_t>(step) + 13 * static_cast<std::int64_t>(b) + 3 * at * at + 5 * at + 1;
            return static_cast<std::int32_t>(number % s.decoder.config().vocabulary);
          };
          ids[b].push_back(token(t));
          targets[b].push_back(token(t + 1));
        }
      }
      Rows rows(ids, targets);
      s.decoder.zero_gradients();
      s.decoder.forward(rows.losses.view(), rows.batch);
      s.decoder.backward(rows.mean_weights().view(), rows.batch);
      s.decoder.finish_gradients();
      double loss = 0;
      for (const double value : rows.losses.values()) loss += value / static_cast<double>(2 * length);
      std::vector<ConstTensorView> gradients;
      for (const model::Parameter& parameter : s.decoder.parameters()) gradients.emplace_back(parameter.gradient);
      const double norm = optimizer::gradient_norm(s.bench.stream(), gradients);
      // Each step adds its own errors to the weights.
      const auto steps = static_cast<double>(step + 1);
      CHECK(std::abs(loss - losses[step]) < steps * tolerance(s, "losses", Dtype::kFloat32));
      CHECK(std::abs(norm - norms[step]) < steps * tolerance(s, "gradients", Dtype::kFloat32) * norms[step]);
      std::size_t i = 0;
      for (const model::Parameter& parameter : s.decoder.parameters()) {
        const optimizer::Adam adam{.learning_rate = 1e-3,
                                   .beta1 = 0.9,
                                   .beta2 = 0.95,
                                   .epsilon = 1e-8,
                                   .weight_decay = parameter.spec.shape.rank() == 2 ? 0.1 : 0.0};
        optimizer::Slice slice;
        slice.master = parameter.value;
        slice.gradient = parameter.gradient;
        slice.gradient_scale = optimizer::clip_factor(norm, 1.0);
        optimizer::adam_step(s.bench.stream(), slice, moments[i].first.view, moments[i].second.view, adam,
                             static_cast<std::int64_t>(step) + 1);
        ++i;
      }
      s.decoder.values_changed();
    }
  }
  CHECK(trained == 2);
}

TEST_CASE("small models that are written and read again are the same to the bit") {
  for (const fs::path& folder : golden_models()) {
    for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}) {
      INFO(folder.filename().string() << " " << name(dtype));
      Subject s(folder, dtype, false);
      const TemporaryFolder written;
      std::vector<weights::NewTensor> tensors;
      for (const model::Parameter& parameter : s.decoder.parameters()) {
        tensors.push_back({parameter.spec.name, weights::encoding_of(dtype), parameter.spec.shape});
      }
      weights::SafetensorsWriter writer(written.path() / "model.safetensors", tensors, {{"format", "pt"}});
      for (const model::Parameter& parameter : s.decoder.parameters()) {
        writer.write(parameter.spec.name, parameter.value);
      }
      writer.finish();
      written.write("config.json", model::to_hugging_face(s.decoder.config()).dump());

      const Config config = model::read_hugging_face(written.path() / "config.json");
      CHECK(equal(config, s.decoder.config()));
      const weights::Weights again = weights::open_weights(written.path() / "model.safetensors");
      Decoder decoder(s.bench.stream(), config, {.compute = dtype, .gradients = false, .checkpointing = {}});
      decoder.load(again);
      REQUIRE(decoder.parameters().size() == s.decoder.parameters().size());
      for (std::size_t i = 0; i < decoder.parameters().size(); ++i) {
        const TensorView& before = s.decoder.parameters()[i].value;
        const TensorView& after = decoder.parameters()[i].value;
        CHECK(std::memcmp(before.raw(), after.raw(), static_cast<std::size_t>(before.bytes())) == 0);
      }
      if (dtype != Dtype::kFloat32) continue;
      CHECK(again.tensors().size() == s.weights.tensors().size());
      for (const weights::TensorInfo& tensor : s.weights.tensors()) {
        INFO(tensor.name);
        CHECK(std::ranges::equal(again.tensor(tensor.name).bytes, tensor.bytes));
      }
    }
  }
}

TEST_CASE("config.json of transformers 5 says what that of transformers 4 says") {
  for (const fs::path& folder : golden_models()) {
    INFO(folder.filename().string());
    CHECK(equal(model::read_hugging_face(folder / "config.v5.json"), model::read_hugging_face(folder / "config.json")));
  }
}

TEST_CASE("documents packed in one row give what each gives alone") {
  using Row = std::vector<std::int32_t>;
  for (const fs::path& folder : golden_models()) {
    INFO(folder.filename().string());
    Subject packed(folder, Dtype::kFloat32, true);
    Subject alone(folder, Dtype::kFloat32, true);
    const auto ids = packed.golden.at("ids").get<std::vector<Row>>();
    const auto targets = packed.golden.at("targets").get<std::vector<Row>>();
    const std::size_t length = ids[0].size();
    const std::vector<std::size_t> cuts{2 * length / 3, length / 4};
    std::vector<Row> positions(2);
    std::vector<Row> starts(2);
    for (std::size_t b = 0; b < 2; ++b) {
      for (std::size_t t = 0; t < length; ++t) {
        const std::size_t start = t < cuts[b] ? 0 : cuts[b];
        positions[b].push_back(static_cast<std::int32_t>(t - start));
        starts[b].push_back(static_cast<std::int32_t>(start));
      }
    }
    Rows rows(ids, targets);
    const TestTensor position_ids = tensor_of(positions);
    const TestTensor document_starts = tensor_of(starts);
    rows.batch.positions = position_ids.view();
    const std::vector<double> mixed = logits_of(packed.bench, packed.decoder, rows.batch);
    rows.batch.document_starts = document_starts.view();
    const std::vector<double> together = logits_of(packed.bench, packed.decoder, rows.batch);
    CHECK(worst_difference(mixed, together) > 0.1);  // documents would have seen each other
    const TestTensor weights(Dtype::kFloat32, rows.ids.view().shape(),
                             random_values(rows.ids.view().shape(), Dtype::kFloat32, 31));
    packed.decoder.zero_gradients();
    packed.decoder.forward(rows.losses.view(), rows.batch);
    packed.decoder.backward(weights.view(), rows.batch);
    const std::vector<double> losses = rows.losses.values();

    const std::vector<double> all_weights = weights.values();
    const auto vocabulary = static_cast<std::size_t>(packed.decoder.config().vocabulary);
    alone.decoder.zero_gradients();
    for (std::size_t b = 0; b < 2; ++b) {
      for (const auto& [begin, end] : {std::pair{std::size_t{0}, cuts[b]}, std::pair{cuts[b], length}}) {
        const auto part = [begin = begin, end = end](const auto& row, std::size_t first, std::size_t width) {
          using Value = typename std::decay_t<decltype(row)>::value_type;
          const auto from = row.begin() + static_cast<std::ptrdiff_t>((first + begin) * width);
          return std::vector<Value>(from, from + static_cast<std::ptrdiff_t>((end - begin) * width));
        };
        Rows document({part(ids[b], 0, 1)}, {part(targets[b], 0, 1)});
        const std::vector<double> logits = logits_of(alone.bench, alone.decoder, document.batch);
        CHECK(worst_difference(part(together, b * length, vocabulary), logits) <
              tolerance(alone, "logits", Dtype::kFloat32));
        alone.decoder.forward(document.losses.view(), document.batch);
        CHECK(worst_difference(part(losses, b * length, 1), document.losses.values()) <
              tolerance(alone, "losses", Dtype::kFloat32));
        const TestTensor own(Dtype::kFloat32, document.ids.view().shape(), part(all_weights, b * length, 1));
        alone.decoder.backward(own.view(), document.batch);
      }
    }
    const auto expected = alone.gradients();
    for (const auto& [parameter, gradient] : packed.gradients()) {
      const std::vector<double>& want = expected.at(parameter);
      check_close(gradient, want, 0, tolerance(alone, "gradients", Dtype::kFloat32) * largest_of(want), parameter);
    }
  }
}

TEST_CASE("what a small model's configuration says is seen in its logits") {
  const auto [folder, key, value] =
      GENERATE(table<std::string, std::string, json>({{"gpt2", "activation_function", "gelu"},
                                                      {"gpt2", "layer_norm_epsilon", 1e-6},
                                                      {"llama2", "rms_norm_eps", 1e-6},
                                                      {"llama2", "rope_theta", 10000},
                                                      {"llama31", "rope_scaling", nullptr},
                                                      {"llama_yarn", "rope_scaling", nullptr},
                                                      {"llama_linear", "rope_scaling", nullptr},
                                                      {"llama_linear", "hidden_act", "silu"},
                                                      {"mistral", "sliding_window", nullptr},
                                                      {"mistral", "sliding_window", 8},
                                                      {"qwen3", "use_sliding_window", false},
                                                      {"starcoder2", "sliding_window", 10}}));
  INFO(folder << " " << key << " " << value);
  Subject s(source_dir() / "tests/golden/models" / folder, Dtype::kFloat32, false);
  json changed = read_json(source_dir() / "tests/golden/models" / folder / "config.json");
  REQUIRE(changed.contains(key));
  changed[key] = value;
  std::vector<std::string> problems;
  const auto config = model::read_hugging_face(changed, problems);
  REQUIRE(config.has_value());
  Decoder other(s.bench.stream(), *config, {.compute = Dtype::kFloat32, .gradients = false, .checkpointing = {}});
  other.load(s.weights);
  const TestTensor ids = tensor_of(s.golden.at("ids"));
  Batch batch;
  batch.ids = ids.view();
  CHECK(worst_difference(logits_of(s.bench, other, batch), logits_of(s.bench, s.decoder, batch)) >
        4 * tolerance(s, "logits", Dtype::kFloat32));
}
