// SPDX-License-Identifier: Apache-2.0
// GGUF models of the shared data, which llama.cpp wrote, against what other programs compute of them.
#include <catch2/catch.hpp>
#include <cmath>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "stages/shared/model/decoder.h"
#include "stages/shared/model/gguf_model.h"
#include "tests/stages/shared/model/golden.h"

using namespace braise;
using namespace braise::core;
using namespace braise::test;
using model::Batch;
using model::Decoder;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

using Ids = std::vector<std::int32_t>;

struct Subject {
  explicit Subject(const fs::path& path) : Subject(model::open_gguf_model(path)) {}
  explicit Subject(const model::GgufModel& model)
      : decoder(bench.stream(), model.config, {.compute = Dtype::kFloat32, .gradients = false, .checkpointing = {}}) {
    decoder.load(model.weights);
  }

  std::vector<double> logits(const Ids& ids) {
    const TestTensor tensor = tensor_of({ids});
    Batch batch;
    batch.ids = tensor.view();
    return logits_of(bench, decoder, batch);
  }

  /// The likeliest next id, and by how much its logit is above the next one's.
  std::pair<std::int32_t, double> next(const Ids& ids) {
    const std::vector<double> all = logits(ids);
    const auto last = all.end() - decoder.config().vocabulary;
    const auto best = std::max_element(last, all.end());
    double second = -HUGE_VAL;
    for (auto it = last; it != all.end(); ++it) {
      if (it != best) second = std::max(second, *it);
    }
    return {static_cast<std::int32_t>(best - last), *best - second};
  }

  Bench bench;
  Decoder decoder;
};

const std::vector<std::string> kQuantised{"q8_0", "q4_0", "q4_1"};

}  // namespace

TEST_CASE("stories260k in GGUF gives its golden logits, of fp32 and of dequantised blocks") {
  const auto folder = models();
  if (!folder) return;
  const fs::path base = *folder / "stories260k";
  const auto ids = read_json(base / "golden/logits_32x512.json").at("ids").get<Ids>();
  {
    Subject fp32(base / "stories260K-f32.gguf");
    const std::vector<double> logits = fp32.logits(ids);
    CHECK(worst_difference(logits, read_floats(base / "golden/logits_32x512.f32")) < 3e-5);
    // The same model in the layout of Hugging Face, but with a head of its own: equal to the bit.
    Bench bench;
    Decoder tied(bench.stream(), model::read_hugging_face(base / "config.json"),
                 {.compute = Dtype::kFloat32, .gradients = false, .checkpointing = {}});
    tied.load(weights::open_weights(base / "model.safetensors"));
    const TestTensor tensor = tensor_of({ids});
    Batch batch;
    batch.ids = tensor.view();
    CHECK(logits == logits_of(bench, tied, batch));
  }
  for (const std::string& type : kQuantised) {
    INFO(type);
    Subject subject(base / ("stories260K-" + type + ".gguf"));
    const std::vector<double> expected = read_floats(base / ("golden/logits_32x512_" + type + ".f32"));
    CHECK(worst_difference(subject.logits(ids), expected) < 3e-5);
  }
}

TEST_CASE("stories260k in GGUF has the losses of sixteen stories") {
  const auto folder = models();
  if (!folder) return;
  const fs::path base = *folder / "stories260k";
  const json golden = read_json(base / "golden/nll_tinystories.json");
  for (const std::string type : {"f32", "q8_0", "q4_0", "q4_1"}) {
    const std::string name = "stories260K-" + type + ".gguf";
    INFO(name);
    Subject subject(base / name);
    const json& expected = golden.at("models").at(name);
    double total = 0;
    std::int64_t tokens = 0;
    for (std::size_t i = 0; i < golden.at("cases").size(); ++i) {
      const auto ids = golden.at("cases")[i].at("ids").get<Ids>();
      const auto length = static_cast<std::int64_t>(ids.size()) - 1;
      const TestTensor inputs = tensor_of({Ids(ids.begin(), ids.end() - 1)});
      const TestTensor targets = tensor_of({Ids(ids.begin() + 1, ids.end())});
      const TestTensor losses(Dtype::kFloat32, Shape{1, length});
      Batch batch;
      batch.ids = inputs.view();
      batch.targets = targets.view();
      subject.decoder.forward(losses.view(), batch);
      double sum = 0;
      for (const double loss : losses.values()) sum += loss;
      CHECK(sum == Approx(expected.at("nll_sums_float64_on_dequantised_weights")[i].get<double>()).epsilon(2e-6));
      total += sum;
      tokens += length;
    }
    CHECK(tokens == expected.at("tokens").get<std::int64_t>());
    CHECK(total / static_cast<double>(tokens) ==
          Approx(expected.at("mean_nll_float64").get<double>()).epsilon(0).margin(1e-6));
  }
}

TEST_CASE("stories260k in GGUF tells the stories that llama2.c tells") {
  const auto folder = models();
  if (!folder) return;
  const fs::path base = *folder / "stories260k";
  const json golden = read_json(base / "golden/greedy.json");
  Subject subject(base / "stories260K-f32.gguf");
  const auto vocabulary = subject.decoder.config().vocabulary;
  std::size_t choices = 0;
  for (const json& item : golden.at("cases")) {
    const auto ids = item.at("ids").get<Ids>();
    const std::size_t prompt = item.at("prompt_ids").size();
    // A row depends on what stands before it only, so all choices are those of one pass over the whole.
    const std::vector<double> logits = subject.logits(Ids(ids.begin(), ids.end() - 1));
    for (std::size_t t = prompt; t < ids.size(); ++t) {
      const auto row = logits.begin() + static_cast<std::ptrdiff_t>(t - 1) * vocabulary;
      const auto best = std::max_element(row, row + vocabulary) - row;
      CHECK(best == ids[t]);
      ++choices;
    }
  }
  CHECK(choices > 1000);
}

TEST_CASE("quantised stories260k goes on as llama.cpp does, until two words are as good") {
  const auto folder = models();
  if (!folder) return;
  const fs::path base = *folder / "stories260k";
  const json golden = read_json(base / "golden/gguf_quant.json").at("greedy");
  for (const std::string& type : kQuantised) {
    const std::string name = "stories260K-" + type + ".gguf";
    INFO(name);
    Subject subject(base / name);
    auto ids = golden.at(name).at("ids").get<Ids>();
    const auto expected = golden.at(name).at("greedy_next_40_peer").get<Ids>();
    std::size_t agreed = 0;
    for (const std::int32_t id : expected) {
      const auto [best, lead] = subject.next(ids);
      // The peer rounds activations to 8 bits too: a hundredth of them, in the worst case.
      if (best != id) {
        CHECK(lead < 0.3);
        break;
      }
      ids.push_back(id);
      ++agreed;
    }
    CHECK(agreed >= 20);
  }
}

TEST_CASE("a GGUF file of blocks that are not supported is refused by name") {
  const auto folder = models();
  if (!folder) return;
  const fs::path path = *folder / "stories260k/stories260K-q4_k_m-fallback.gguf";
  CHECK_THROWS_WITH(Subject(path),
                    Catch::Contains("tensor \"token_embd.weight\" (\"model.embed_tokens.weight\") is stored as Q5_0, "
                                    "which is not supported; F32, F16, BF16, Q8_0, Q4_0 and Q4_1 are"));
}

TEST_CASE("llama-2-tiny-random gives the logits of llama.cpp") {
  const auto folder = models();
  if (!folder) return;
  const fs::path base = *folder / "llama-2-tiny-random";
  const json golden = read_json(base / "golden.json");
  Subject subject(base / "llama-2-tiny-random.gguf");
  const auto vocabulary = static_cast<std::size_t>(subject.decoder.config().vocabulary);
  REQUIRE(vocabulary == 32000);
  auto ids = golden.at("ids").get<Ids>();
  const std::vector<double> logits = subject.logits(ids);
  double nll = 0;
  for (std::size_t t = 0; t < ids.size(); ++t) {
    const auto row = logits.begin() + static_cast<std::ptrdiff_t>(t * vocabulary);
    std::vector<double> every;
    for (std::size_t i = 0; i < vocabulary; i += 500) every.push_back(row[static_cast<std::ptrdiff_t>(i)]);
    CHECK(worst_difference(every, flat(golden.at("every_500th_logit")[t])) < 2e-6);
    std::vector<std::int32_t> order(vocabulary);
    for (std::size_t i = 0; i < vocabulary; ++i) order[i] = static_cast<std::int32_t>(i);
    std::partial_sort(order.begin(), order.begin() + 5, order.end(),
                      [&](std::int32_t a, std::int32_t b) { return row[a] > row[b]; });
    order.resize(5);
    CHECK(order == golden.at("top5_ids")[t].get<Ids>());
    if (t + 1 == ids.size()) break;
    double sum = 0;
    for (std::size_t i = 0; i < vocabulary; ++i) sum += std::exp(row[static_cast<std::ptrdiff_t>(i)]);
    nll += std::log(sum) - row[ids[t + 1]];
  }
  CHECK(nll == Approx(golden.at("nll_sum_float64").get<double>()).epsilon(1e-6));
  for (const std::int32_t expected : golden.at("greedy_next_24_peer").get<Ids>()) {
    const auto [best, lead] = subject.next(ids);
    INFO("after " << ids.size() << " ids, ahead by " << lead);
    CHECK(best == expected);
    ids.push_back(expected);
  }
}

TEST_CASE("the tiny Llama in GGUF gives the logits of Hugging Face transformers") {
  const auto folder = models();
  if (!folder) return;
  const json golden = read_json(*folder / "hf-tiny/tiny_llama_logits.json");
  const TestTensor ids = tensor_of(golden.at("sequences"));
  Batch batch;
  batch.ids = ids.view();
  for (const std::string type : {"f32", "f16"}) {
    INFO(type);
    Subject subject(*folder / "hf-tiny" / ("tiny_llama_" + type + ".gguf"));
    CHECK(worst_difference(logits_of(subject.bench, subject.decoder, batch), flat(golden.at("logits"))) <
          (type == "f32" ? 2e-5 : 24 * unit_roundoff(Dtype::kFloat16)));
  }
}
