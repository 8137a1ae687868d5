// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "kernels/core/error.h"
#include "kernels/optimizer/adam.h"
#include "kernels/optimizer/rms_prop.h"
#include "kernels/optimizer/sgd.h"
#include "tests/kernels/reference/optimizer.h"
#include "tests/support/support.h"
#include "tests/support/tensors.h"

using namespace braise;
using core::Dtype;
using core::Shape;
using core::TensorView;
using optimizer::Adam;
using optimizer::RmsProp;
using optimizer::Sgd;
using optimizer::Slice;
using optimizer::WeightDecay;
using test::TestTensor;

namespace {

using Options = std::variant<Sgd, RmsProp, Adam>;

/// Which of the three states an optimizer has.
std::array<bool, 3> states_of(const Options& options) {
  if (const auto* o = std::get_if<Sgd>(&options)) return {o->momentum != 0, false, false};
  if (const auto* o = std::get_if<RmsProp>(&options)) return {true, o->centered, o->momentum != 0};
  return {true, true, false};
}

void step_of(core::Stream& stream, const Slice& slice, const std::array<TensorView, 3>& states, const Options& options,
             std::int64_t step) {
  if (const auto* o = std::get_if<Sgd>(&options)) return sgd_step(stream, slice, states[0], *o, step);
  if (const auto* o = std::get_if<RmsProp>(&options)) {
    return rms_prop_step(stream, slice, states[0], states[1], states[2], *o);
  }
  adam_step(stream, slice, states[0], states[1], std::get<Adam>(options), step);
}

void reference_step(std::vector<double>& w, const std::vector<double>& gradient, reference::OptimizerState& state,
                    const Options& options, std::int64_t step) {
  if (const auto* o = std::get_if<Sgd>(&options)) return reference::sgd_step(w, gradient, state, *o, step);
  if (const auto* o = std::get_if<RmsProp>(&options)) return reference::rms_prop_step(w, gradient, state, *o);
  reference::adam_step(w, gradient, state, std::get<Adam>(options), step);
}

/// One element, the operations of the headers one by one.
struct Element {
  float w;
  std::array<float, 3> s;
};

/// beta^step as the header has it.
double power(double beta, std::int64_t step) {
  double result = 1;
  for (std::int64_t bit = 1; bit <= step; bit *= 2, beta *= beta) {
    if ((step & bit) != 0) result *= beta;
  }
  return result;
}

void spelled_out(Element& e, float gradient, float scale, const Options& options, std::int64_t step) {
  float g = scale * gradient;
  if (const auto* o = std::get_if<Sgd>(&options)) {
    if (o->weight_decay != 0) g = std::fma(static_cast<float>(o->weight_decay), e.w, g);
    float d = g;
    if (o->momentum != 0) {
      const auto momentum = static_cast<float>(o->momentum);
      const float damped = static_cast<float>(1 - o->dampening) * g;
      e.s[0] = step == 1 ? g : std::fma(momentum, e.s[0], damped);
      d = o->nesterov ? std::fma(momentum, e.s[0], g) : e.s[0];
    }
    e.w = std::fma(-static_cast<float>(o->learning_rate), d, e.w);
  } else if (const auto* r = std::get_if<RmsProp>(&options)) {
    if (r->weight_decay != 0) g = std::fma(static_cast<float>(r->weight_decay), e.w, g);
    const auto taken = static_cast<float>(1 - r->alpha);
    const float kept = static_cast<float>(r->alpha) * e.s[0];
    const float share = taken * g;
    e.s[0] = std::fma(share, g, kept);
    float square = e.s[0];
    if (r->centered) {
      const float distance = g - e.s[1];
      e.s[1] = std::fma(taken, distance, e.s[1]);
      square = std::fma(-e.s[1], e.s[1], e.s[0]);
      if (square < 0) square = 0;
    }
    const float root = std::sqrt(square);
    float d = g / (root + static_cast<float>(r->epsilon));
    if (r->momentum != 0) {
      e.s[2] = std::fma(static_cast<float>(r->momentum), e.s[2], d);
      d = e.s[2];
    }
    e.w = std::fma(-static_cast<float>(r->learning_rate), d, e.w);
  } else {
    const Adam& a = std::get<Adam>(options);
    if (a.decay == WeightDecay::kGradient && a.weight_decay != 0) {
      g = std::fma(static_cast<float>(a.weight_decay), e.w, g);
    } else if (a.weight_decay != 0) {
      e.w = static_cast<float>(1 - a.learning_rate * a.weight_decay) * e.w;
    }
    const float distance = g - e.s[0];
    e.s[0] = std::fma(static_cast<float>(1 - a.beta1), distance, e.s[0]);
    const float kept = static_cast<float>(a.beta2) * e.s[1];
    const float share = static_cast<float>(1 - a.beta2) * g;
    e.s[1] = std::fma(share, g, kept);
    const auto correction = static_cast<float>(1 / std::sqrt(1 - power(a.beta2, step)));
    const float root = std::sqrt(e.s[1]);
    const float d = std::fma(root, correction, static_cast<float>(a.epsilon));
    e.w = std::fma(static_cast<float>(-(a.learning_rate / (1 - power(a.beta1, step)))), e.s[0] / d, e.w);
  }
}

/// All options of all optimizers.
const std::vector<Options> kOptions{
    Sgd{.learning_rate = 0.1},
    Sgd{.learning_rate = 0.03, .weight_decay = 0.1},
    Sgd{.learning_rate = 0.03, .momentum = 0.9},
    Sgd{.learning_rate = 0.03, .weight_decay = 0.02, .momentum = 0.9, .dampening = 0.3},
    Sgd{.learning_rate = 0.03, .weight_decay = 0.02, .momentum = 0.9, .nesterov = true},
    RmsProp{.learning_rate = 0.01, .alpha = 0.99, .epsilon = 1e-8},
    RmsProp{.learning_rate = 0.01, .alpha = 0.9, .epsilon = 1e-6, .weight_decay = 0.1, .momentum = 0.8},
    RmsProp{.learning_rate = 0.01, .alpha = 0.9, .epsilon = 1e-4, .centered = true},
    RmsProp{
        .learning_rate = 0.01, .alpha = 0.95, .epsilon = 1e-4, .weight_decay = 0.1, .momentum = 0.7, .centered = true},
    Adam{.learning_rate = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8},
    Adam{.learning_rate = 0.02, .beta1 = 0.8, .beta2 = 0.95, .epsilon = 1e-6, .weight_decay = 0.1},
    Adam{.learning_rate = 0.02,
         .beta1 = 0.9,
         .beta2 = 0.95,
         .epsilon = 1e-6,
         .weight_decay = 0.1,
         .decay = WeightDecay::kGradient},
};

/// Tensors of a run over `count` parameters.
struct Run {
  Run(std::int64_t count, const std::vector<double>& weights, Dtype gradient_dtype, std::optional<Dtype> copy_dtype,
      const Options& options)
      : master(Dtype::kFloat32, Shape{count}, weights), gradient(gradient_dtype, Shape{count}) {
    if (copy_dtype) copy.emplace(*copy_dtype, Shape{count});
    for (std::size_t i = 0; i < 3; ++i) {
      if (!states_of(options)[i]) continue;
      states[i].emplace(Dtype::kFloat32, Shape{count}, std::vector<double>(static_cast<std::size_t>(count), 0.0));
    }
  }

  /// A step on elements [begin, end).
  void step(core::Stream& stream, const Options& options, std::int64_t number, float scale, std::int64_t begin,
            std::int64_t end) const {
    Slice slice;
    slice.master = master.view().slice(0, begin, end);
    slice.gradient = gradient.view().slice(0, begin, end);
    if (copy) slice.copy = copy->view().slice(0, begin, end);
    slice.gradient_scale = scale;
    std::array<TensorView, 3> views;
    for (std::size_t i = 0; i < 3; ++i) {
      if (states[i]) views[i] = states[i]->view().slice(0, begin, end);
    }
    step_of(stream, slice, views, options, number);
  }

  bool intact() const {
    bool whole = master.intact() && gradient.intact() && (!copy || copy->intact());
    for (const auto& state : states) whole = whole && (!state || state->intact());
    return whole;
  }

  std::string bytes() const {
    std::string all = master.bytes() + (copy ? copy->bytes() : "");
    for (const auto& state : states) all += state ? state->bytes() : "";
    return all;
  }

  TestTensor master;
  TestTensor gradient;
  std::optional<TestTensor> copy;
  std::array<std::optional<TestTensor>, 3> states;
};

bool same(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b) || (std::isnan(a) && std::isnan(b));
}

/// Runs three steps and compares every element with the operations of the headers.
void check_spelled_out(const Options& options, const std::vector<double>& weights,
                       const std::vector<std::vector<double>>& gradients, Dtype gradient_dtype,
                       std::optional<Dtype> copy_dtype, float scale) {
  test::Bench bench;
  const auto count = static_cast<std::int64_t>(weights.size());
  Run run(count, weights, gradient_dtype, copy_dtype, options);
  const auto before = run.master.values();
  std::vector<Element> elements(weights.size());
  for (std::size_t i = 0; i < elements.size(); ++i) elements[i] = {static_cast<float>(before[i]), {0, 0, 0}};
  for (std::size_t step = 1; step <= gradients.size(); ++step) {
    run.gradient.set(gradients[step - 1]);
    const auto stored = run.gradient.values();
    run.step(bench.stream(), options, static_cast<std::int64_t>(step), scale, 0, count);
    for (std::size_t i = 0; i < elements.size(); ++i) {
      spelled_out(elements[i], static_cast<float>(stored[i]), scale, options, static_cast<std::int64_t>(step));
    }
  }
  CHECK(run.intact());
  const auto copies = run.copy ? run.copy->values() : std::vector<double>();
  std::size_t differences = 0;
  for (std::size_t i = 0; i < elements.size(); ++i) {
    bool equal = same(run.master.view().data<float>()[i], elements[i].w);
    for (std::size_t s = 0; s < 3; ++s) {
      if (run.states[s]) equal = equal && same(run.states[s]->view().data<float>()[i], elements[i].s[s]);
    }
    if (run.copy) {
      const double copied = copies[i];
      const auto expected = test::rounded(elements[i].w, *copy_dtype);
      equal = equal && (copied == expected || (std::isnan(copied) && std::isnan(expected)));
    }
    if (!equal && ++differences < 3) {
      FAIL_CHECK("element " << i << " is " << run.master.view().data<float>()[i] << ", not " << elements[i].w);
    }
  }
  CHECK(differences == 0);
}

}  // namespace

TEST_CASE("optimizer: steps are the operations of the headers, to the bit") {
  std::uint64_t seed = 0;
  for (const Options& options : kOptions) {
    for (const std::int64_t count : {0, 1, 3, 7, 17, 33, 129, 1030, 20001}) {
      const Shape shape{count};
      const auto weights = test::random_values(shape, Dtype::kFloat32, ++seed);
      for (const auto& [gradient_dtype, copy_dtype] :
           std::vector<std::pair<Dtype, std::optional<Dtype>>>{{Dtype::kFloat32, std::nullopt},
                                                               {Dtype::kFloat32, Dtype::kBfloat16},
                                                               {Dtype::kBfloat16, Dtype::kFloat16},
                                                               {Dtype::kFloat16, Dtype::kFloat32}}) {
        if (count > 2000 && gradient_dtype != Dtype::kFloat32) continue;
        std::vector<std::vector<double>> gradients;
        for (int step = 0; step < 3; ++step) {
          gradients.push_back(test::random_values(shape, gradient_dtype, ++seed, step == 1 ? 1e-3 : 3.0));
        }
        check_spelled_out(options, weights, gradients, gradient_dtype, copy_dtype, seed % 2 == 0 ? 1.0f : 0.37f);
      }
    }
  }
}

TEST_CASE("optimizer: extreme values go through as the operations say") {
  const double inf = std::numeric_limits<double>::infinity();
  const std::vector<double> edge{0.0,   -0.0,  1.0,   -1e30, 1e30, 3e38,         -3e38,
                                 1e-40, 1e-45, 1e-20, inf,   -inf, std::nan(""), 0x1p-126};
  std::vector<double> weights;
  std::vector<double> first;
  std::vector<double> second;
  for (const double w : edge) {
    for (const double g : edge) {
      for (const double h : edge) {
        weights.push_back(w);
        first.push_back(g);
        second.push_back(h);
      }
    }
  }
  for (const Options& options : kOptions) {
    check_spelled_out(options, weights, {first, second, first}, Dtype::kFloat32, Dtype::kBfloat16, 1.0f);
    check_spelled_out(options, weights, {second, first}, Dtype::kFloat32, Dtype::kFloat16, 1e-6f);
  }
}

TEST_CASE("optimizer: any cut and any number of threads give the same bits") {
  test::Bench bench;
  const std::int64_t count = 50001;
  const auto weights = test::random_values(Shape{count}, Dtype::kFloat32, 1);
  const auto gradient = test::random_values(Shape{count}, Dtype::kBfloat16, 2);
  for (const Options& options : kOptions) {
    std::string first;
    test::with_threads([&](int) {
      for (const std::vector<std::int64_t>& cuts :
           {std::vector<std::int64_t>{0, count}, std::vector<std::int64_t>{0, 1, 17, 18, 4096, 33333, count}}) {
        Run run(count, weights, Dtype::kBfloat16, Dtype::kBfloat16, options);
        run.gradient.set(gradient);
        for (std::int64_t step = 1; step <= 2; ++step) {
          for (std::size_t i = 1; i < cuts.size(); ++i) {
            run.step(bench.stream(), options, step, 0.5f, cuts[i - 1], cuts[i]);
          }
        }
        if (first.empty()) first = run.bytes();
        CHECK(run.bytes() == first);
      }
    });
  }
}

TEST_CASE("optimizer: trajectories are those of PyTorch") {
  std::ifstream file(test::source_dir() / "tests/golden/optimizers.json");
  const auto golden = nlohmann::json::parse(file);
  const auto start = golden["parameters"].get<std::vector<double>>();
  const auto gradients = golden["gradients"].get<std::vector<std::vector<double>>>();
  const auto count = static_cast<std::int64_t>(start.size());
  for (const auto& [name, golden_case] : golden["cases"].items()) {
    INFO(name);
    const auto& given = golden_case["options"];
    const auto number = [&](const char* key) { return given.value(key, 0.0); };
    Options options;
    if (golden_case["kind"] == "SGD") {
      options = Sgd{.learning_rate = number("lr"),
                    .weight_decay = number("weight_decay"),
                    .momentum = number("momentum"),
                    .dampening = number("dampening"),
                    .nesterov = given.value("nesterov", false)};
    } else if (golden_case["kind"] == "RMSprop") {
      options = RmsProp{.learning_rate = number("lr"),
                        .alpha = number("alpha"),
                        .epsilon = number("eps"),
                        .weight_decay = number("weight_decay"),
                        .momentum = number("momentum"),
                        .centered = given.value("centered", false)};
    } else {
      options = Adam{.learning_rate = number("lr"),
                     .beta1 = given["betas"][0],
                     .beta2 = given["betas"][1],
                     .epsilon = number("eps"),
                     .weight_decay = number("weight_decay"),
                     .decay = golden_case["kind"] == "AdamW" ? WeightDecay::kDecoupled : WeightDecay::kGradient};
    }
    const auto exact = golden_case["fp64"].get<std::vector<std::vector<double>>>();
    const auto single = golden_case["fp32"].get<std::vector<std::vector<double>>>();
    test::Bench bench;
    Run run(count, start, Dtype::kFloat32, std::nullopt, options);
    std::vector<double> w = start;
    reference::OptimizerState state(start.size());
    // A weight is rounded up to twice a step (shrinking, and the step itself). What a step takes from it has at most
    // eight roundings of its own and as many as are left of each earlier step in the state: of the largest step so far,
    // 8 per step.
    std::vector<double> allowed(start.size(), 0.0);
    std::vector<double> largest(start.size(), 0.0);
    for (std::size_t step = 1; step <= gradients.size(); ++step) {
      const auto before = w;
      reference_step(w, gradients[step - 1], state, options, static_cast<std::int64_t>(step));
      run.gradient.set(gradients[step - 1]);
      run.step(bench.stream(), options, static_cast<std::int64_t>(step), 1.0f, 0, count);
      test::check_close(w, exact[step - 1], 1e-13, 1e-15, "the formulas in fp64");
      for (std::size_t i = 0; i < w.size(); ++i) {
        largest[i] = std::max(largest[i], std::abs(w[i] - before[i]));
        allowed[i] += 0x1p-24 * (2 * std::abs(w[i]) + 8 * static_cast<double>(step) * largest[i]);
      }
      test::check_close(
          run.master.values(), exact[step - 1], [&](std::size_t i) { return allowed[i]; }, "fp64");
      test::check_close(
          run.master.values(), single[step - 1], [&](std::size_t i) { return 2 * allowed[i]; }, "fp32");
    }
  }
}

TEST_CASE("optimizer: what does not go together is refused by name") {
  test::Bench bench;
  auto& stream = bench.stream();
  const TestTensor w(Dtype::kFloat32, Shape{4});
  const TestTensor half(Dtype::kBfloat16, Shape{4});
  const TestTensor other(Dtype::kFloat32, Shape{5});
  const TestTensor padded(Dtype::kFloat32, Shape{2, 2}, test::Layout::kPaddedRows);
  const auto slice = [](const TestTensor& master, const TestTensor& gradient) {
    Slice s;
    s.master = master.view();
    s.gradient = gradient.view();
    return s;
  };
  const Adam adam{.learning_rate = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8};
  CHECK_THROWS_WITH(adam_step(stream, slice(half, w), w.view(), w.view(), adam, 1),
                    "adam_step: master is bf16[4], not fp32[4]");
  CHECK_THROWS_WITH(adam_step(stream, slice(w, other), w.view(), w.view(), adam, 1),
                    "adam_step: gradient is fp32[5], not fp32, bf16 or fp16 [4]");
  CHECK_THROWS_WITH(adam_step(stream, slice(w, w), half.view(), w.view(), adam, 1),
                    "adam_step: m is bf16[4], not fp32[4]");
  CHECK_THROWS_WITH(adam_step(stream, slice(w, w), w.view(), {}, adam, 1), "adam_step: v is no tensor, not fp32[4]");
  CHECK_THROWS_WITH(adam_step(stream, slice(w, w), w.view(), w.view(), adam, 0), "adam_step: step is 0, not 1 or more");
  CHECK_THROWS_WITH(adam_step(stream, slice(padded, padded), padded.view(), padded.view(), adam, 1),
                    "adam_step: master is fp32[2 x 2] with strides 5 x 1, not contiguous");
  CHECK_THROWS_WITH(sgd_step(stream, slice(w, w), w.view(), Sgd{.learning_rate = 1}, 1),
                    "sgd_step: m is fp32[4], where the options ask for none");
  CHECK_THROWS_WITH(sgd_step(stream, slice(w, w), w.view(),
                             Sgd{.learning_rate = 1, .momentum = 0.9, .dampening = 0.1, .nesterov = true}, 1),
                    "sgd_step: nesterov asks for momentum without dampening");
  CHECK_THROWS_WITH(rms_prop_step(stream, slice(w, w), w.view(), {}, {},
                                  RmsProp{.learning_rate = 1, .alpha = 0.9, .epsilon = 1e-8, .centered = true}),
                    "rms_prop_step: a is no tensor, not fp32[4]");
}
