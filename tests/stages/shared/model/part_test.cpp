// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/model/part.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "stages/shared/weights/weights.h"
#include "tests/stages/shared/model/golden.h"
#include "tests/stages/shared/model/parts.h"
#include "tests/stages/shared/model/small_models.h"

using namespace braise;
using namespace braise::core;
using namespace braise::test;
using Catch::Contains;
using model::Batch;
using model::Checkpointing;
using model::Config;
using nlohmann::json;

namespace {

/// Micro-batches of made-up tokens.
struct Data {
  Data(const Config& config, std::int64_t count, std::int64_t sequences, std::int64_t length)
      : weights(Dtype::kFloat32, Shape{sequences, length},
                random_values(Shape{sequences, length}, Dtype::kFloat32, 9)) {
    const Shape shape{sequences, length};
    for (std::int64_t m = 0; m < count; ++m) {
      std::vector<double> tokens, next;
      for (std::int64_t i = 0; i < shape.elements(); ++i) {
        tokens.push_back(static_cast<double>((i * 7 + i * i + 3 * m) % config.vocabulary));
        next.push_back(i % 6 == 4 ? -100 : static_cast<double>((i * 5 + 3 + m) % config.vocabulary));
      }
      ids.emplace_back(Dtype::kInt32, shape, tokens);
      targets.emplace_back(Dtype::kInt32, shape, next);
    }
  }
  std::vector<Batch> batches(bool dropout) const {
    std::vector<Batch> all;
    for (std::size_t m = 0; m < ids.size(); ++m) {
      Batch& batch = all.emplace_back();
      batch.ids = ids[m].view();
      batch.targets = targets[m].view();
      if (dropout) batch.dropout = Batch::Dropout{11, 5, 2 * m};
    }
    return all;
  }
  std::vector<TestTensor> ids, targets;
  TestTensor weights;
};

Config dropping(Config config) {
  config.attention_dropout = 0.2;
  config.residual_dropout = 0.1;
  config.embedding_dropout = 0.1;
  return config;
}

/// With heads that four ranks can share.
Config wide(Config config) {
  config.heads = 4;
  if (config.family != model::Family::kLlama) {
    config.kv_heads = 4;
    config.head_size = 6;
  }
  return config;
}

/// Random values, norms and biases too other than 1 and 0; a function of the logical elements alone. `scale`: what all
/// are multiplied with.
void make_values(Stream& stream, model::Decoder& decoder, double scale = 1) {
  decoder.initialise(3);
  for (const model::Parameter& parameter : decoder.parameters()) {
    const Shape& shape = parameter.spec.shape;
    const bool normal = parameter.spec.initial == model::Initial::kNormal;
    if (normal && scale == 1) continue;
    const TestTensor whole(Dtype::kFloat32, shape,
                           random_values(shape, Dtype::kFloat32, name_hash(parameter.spec.name), 0.3));
    const TestTensor cut(Dtype::kFloat32, parameter.value.shape()), was(Dtype::kFloat32, parameter.value.shape());
    model::take_cut(stream, cut.view(), whole.view(), parameter.cut);
    copy(stream, was.view(), parameter.value);
    std::vector<double> values = was.values();
    const std::vector<double> shift = cut.values();
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (!normal) values[i] += shift[i];
      values[i] *= shift[i] > 0 ? scale : 2 - scale;
    }
    const TestTensor made(Dtype::kFloat32, parameter.value.shape(), values);
    copy(stream, parameter.value, made.view());
  }
  decoder.values_changed();
}

std::vector<double> doubles(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

}  // namespace

TEST_CASE("parts have every element of every parameter, with the values it has in the whole model") {
  Config fused = small_llama();
  fused.fused = fused.qkv_bias = true;
  fused.kv_heads = 4;
  for (const Config& config : {wide(small_gpt2()), small_llama(), small_everything(), fused, wide(small_neox())}) {
    const Data data(config, 1, 2, 13);
    PartsRun run;
    run.settings = {.compute = Dtype::kFloat32, .gradients = false, .checkpointing = {}};
    run.micro_batches = data.batches(false);
    run.prepare = [](Stream&, model::Decoder& decoder) { decoder.initialise(8); };
    const Assembled whole = run_parts(config, run);
    CHECK(whole.values.size() == model::parameter_specs(config).size());
    for (const auto& [tensor, stages] : {std::pair{2, 1}, {4, 1}, {1, 3}, {2, 2}, {4, 2}}) {
      INFO(config.model_type << " tensor " << tensor << " stages " << stages);
      run.tensor = tensor;
      run.stages = stages;
      const Assembled parts = run_parts(config, run);
      CHECK(parts.values == whole.values);
      std::int64_t mine = 0, all = 0;
      for (int t = 0; t < tensor; ++t) {
        for (int s = 0; s < stages; ++s) {
          for (const model::PartSpec& one : model::part_specs(config, model::part_of(config, t, tensor, s, stages))) {
            mine += one.cut.shape().elements();
          }
        }
      }
      for (const auto& [name, values] : whole.values) all += static_cast<std::int64_t>(values.size());
      CHECK(mine >= all);
      CHECK(mine < 2 * all);
    }
  }
}

TEST_CASE("models that ranks share give the logits, losses and gradients of transformers in fp64") {
  std::size_t shared = 0;
  for (const auto& folder : golden_models()) {
    const json golden = read_json(folder / "golden.json");
    const Config config = model::read_hugging_face(folder / "config.json");
    const weights::Weights weights = weights::open_weights(folder / "model.safetensors");
    const TestTensor ids = tensor_of(golden.at("ids")), targets = tensor_of(golden.at("targets"));
    double count = 0;
    for (const double target : targets.values()) count += target == -100 ? 0 : 1;
    const Shape shape = ids.view().shape();
    const TestTensor mean(Dtype::kFloat32, shape,
                          std::vector<double>(static_cast<std::size_t>(shape.elements()), 1 / count));
    for (const int tensor : {2, 3, 4}) {
      if (!model::split_problems(config, tensor, 1).empty()) continue;
      ++shared;
      for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}) {
        INFO(folder.filename().string() << " " << name(dtype) << " on " << tensor);
        PartsRun run;
        run.tensor = tensor;
        run.settings = {.compute = dtype, .gradients = true, .checkpointing = {}};
        run.prepare = [&](Stream&, model::Decoder& decoder) { decoder.load(weights); };
        Batch batch;
        batch.ids = ids.view();
        batch.targets = targets.view();
        run.micro_batches = {batch};
        run.weights = mean.view();
        run.logits = true;
        const Assembled got = run_parts(config, run);
        const auto last = static_cast<std::int64_t>(golden.at("logits").at(0).size());
        CHECK(worst_difference(last_logits(got.logits, shape, config.vocabulary, last), flat(golden.at("logits"))) <
              golden_tolerance(golden, "logits", dtype));
        CHECK(worst_difference(got.losses, flat(golden.at("losses"))) < golden_tolerance(golden, "losses", dtype));
        const json& gradients = golden.at("gradients");
        CHECK(got.gradients.size() == gradients.size());
        for (const auto& [parameter, gradient] : got.gradients) {
          check_gradient(doubles(gradient), gradients.at(parameter), golden_tolerance(golden, "gradients", dtype),
                         parameter);
        }
      }
    }
  }
  CHECK(shared >= 14);
}

TEST_CASE("with dropout, smoothing and z-loss ranks that share a model stay within rounding of one") {
  for (const Config& small : {wide(small_gpt2()), small_llama(), small_everything(), small_gemma2(), small_gemma3(),
                              wide(small_neox())}) {
    const Config config = dropping(small);
    const Data data(config, 2, 2, 13);
    PartsRun run;
    run.settings = {.compute = Dtype::kFloat32, .gradients = true, .checkpointing = {}};
    run.micro_batches = data.batches(true);
    run.weights = data.weights.view();
    run.loss = {-100, 0.1f, 0.01f};
    run.prepare = [](Stream& stream, model::Decoder& decoder) { make_values(stream, decoder); };
    const Assembled one = run_parts(config, run);
    // What a hundred roundings of every weight do, by the twentieth: those of some thirty operations in three layers,
    // each of sums of up to forty terms, which err like the square root of their number.
    constexpr double kRoundings = 100;
    run.prepare = [](Stream& stream, model::Decoder& decoder) {
      make_values(stream, decoder, 1 + kRoundings * unit_roundoff(Dtype::kFloat32));
    };
    const Assembled moved = run_parts(config, run);
    run.prepare = [](Stream& stream, model::Decoder& decoder) { make_values(stream, decoder); };
    for (const int tensor : {2, 4}) {
      INFO(config.model_type << " on " << tensor);
      run.tensor = tensor;
      const Assembled shared = run_parts(config, run);
      CHECK(worst_difference(shared.losses, one.losses) < worst_difference(moved.losses, one.losses));
      for (const auto& [name, gradient] : one.gradients) {
        INFO(name);
        const std::vector<double> want = doubles(gradient);
        const double allowed = largest_of(want) * 1e-5 + worst_difference(doubles(moved.gradients.at(name)), want);
        CHECK(worst_difference(doubles(shared.gradients.at(name)), want) < allowed);
        CHECK(allowed < largest_of(want) / 20);  // a mask of dropout that is another would be seen
      }
    }
  }
}

TEST_CASE("however a model is cut into stages, recomputed and threaded, its bits are those of one stage") {
  for (const Config& small : {wide(small_gpt2()), small_everything()}) {
    const Config config = dropping(small);
    const Data data(config, 5, 2, 13);
    for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16}) {
      for (const int tensor : {1, 2, 4}) {
        PartsRun run;
        run.tensor = tensor;
        run.settings = {.compute = dtype, .gradients = true, .checkpointing = {}};
        run.micro_batches = data.batches(true);
        run.weights = data.weights.view();
        run.prepare = [](Stream& stream, model::Decoder& decoder) { make_values(stream, decoder); };
        const std::string expected = run_parts(config, run).bytes();
        for (const int stages : {1, 2, 3}) {
          for (const Checkpointing& checkpointing : {Checkpointing{}, Checkpointing{Checkpointing::Kind::kAttention, 1},
                                                     Checkpointing{Checkpointing::Kind::kEveryBlock, 2}}) {
            if (tensor == 4 && stages == 3) continue;
            INFO(config.model_type << " " << name(dtype) << " tensor " << tensor << " stages " << stages);
            run.stages = stages;
            run.settings.checkpointing = checkpointing;
            CHECK(run_parts(config, run).bytes() == expected);
          }
        }
        if (tensor != 2 || dtype != Dtype::kBfloat16) continue;
        run.stages = 1;
        with_threads([&](int) { CHECK(run_parts(config, run).bytes() == expected); });
      }
    }
  }
}

TEST_CASE("a stage keeps no more micro-batches than there are stages from it on") {
  Config config = small_llama();
  config.layers = 4;
  const Data data(config, 12, 2, 32);
  PartsRun run;
  run.settings = {.compute = Dtype::kFloat32, .gradients = true, .checkpointing = {}};
  run.weights = data.weights.view();
  run.prepare = [](Stream& stream, model::Decoder& decoder) { make_values(stream, decoder); };
  run.stages = 4;
  const auto peaks = [&](std::size_t micro_batches) {
    run.micro_batches = data.batches(false);
    run.micro_batches.resize(micro_batches);
    return run_parts(config, run).activations;
  };
  const std::map<int, std::int64_t> few = peaks(5), many = peaks(12);
  CHECK(few == many);
  CHECK(few.at(0) > few.at(1));
  CHECK(few.at(1) > few.at(2));
}

TEST_CASE("what cannot be shared is said, with what can") {
  const auto told = [](const Config& config, int tensor, int stages) {
    std::string text;
    for (const model::SplitProblem& problem : model::split_problems(config, tensor, stages)) {
      text += problem.axis + " " + problem.problem + "; " + problem.remedy + "\n";
    }
    return text;
  };
  CHECK(told(small_llama(), 4, 3).empty());
  CHECK(told(small_gpt2(), 2, 1) == "tensor is 2, which does not divide the 3 heads; take 1\n");
  CHECK(told(small_olmo(), 2, 1) ==
        "tensor is 2, but the norms of q and k go over all heads together, which no rank would have; take 1\n");
  Config config = small_llama();
  config.heads = config.kv_heads = 12;
  config.intermediate = 30;
  CHECK(told(config, 4, 4) ==
        "tensor is 4, which does not divide the feed-forward width of 30; take 1, 2 or 3\n"
        "pipeline is 4, more than the 3 layers; take at most 3\n");
  config.kv_heads = 6;
  config.intermediate = 24;
  CHECK(told(config, 4, 1) ==
        "tensor is 4, which neither divides the 6 heads of keys and values nor is a multiple of them; "
        "take 1, 2 or 3\n");
  Config fused = small_llama();
  fused.fused = true;
  CHECK(told(fused, 4, 1) ==
        "tensor is 4, more than the 2 heads of keys and values, which are one parameter with the queries; "
        "take at most 2\n");
  config.vocabulary = 2;
  CHECK_THAT(told(config, 3, 1), Contains("more than the 2 tokens of the vocabulary"));

  const auto made = [&](const model::Part& part) {
    with_ranks(2, [&](comm::Communicator& comm) {
      Bench bench;
      model::Part mine = part;
      mine.tensor += comm.rank();
      model::Decoder(bench.stream(), small_gpt2(), {.compute = Dtype::kFloat32, .gradients = true, .checkpointing = {}},
                     mine, comm);
    });
  };
  CHECK_THROWS_WITH(made({0, 2, {0, 3}}), Contains("which does not divide the 3 heads"));
  CHECK_THROWS_WITH(made({1, 2, {0, 3}}), Contains("of its place among the ranks"));
  CHECK_THROWS_WITH(made({0, 2, {2, 2}}), Contains("must have blocks"));
}
