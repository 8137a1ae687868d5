// SPDX-License-Identifier: Apache-2.0
#include "stages/train/parameter_rules.h"

#include <catch2/catch.hpp>
#include <map>

namespace braise::train {
namespace {

model::Config tiny() {
  model::Config config;
  config.model_type = "gpt2";
  config.family = model::Family::kGpt2;
  config.vocabulary = 7;
  config.layers = 2;
  config.hidden = 4;
  config.heads = config.kv_heads = 2;
  config.head_size = 2;
  config.intermediate = 8;
  config.positions = 3;
  config.norm = model::Norm::kLayer;
  config.gated = false;
  config.qkv_bias = config.o_bias = config.mlp_bias = true;
  config.tied = true;
  return config;
}

std::map<std::string, ParameterRule> rules(const OptimizerSettings& optimizer, const std::vector<std::string>& freeze,
                                           std::vector<std::string>& unused) {
  const std::vector<model::ParameterSpec> specs = model::parameter_specs(tiny());
  const std::vector<ParameterRule> list = parameter_rules(specs, optimizer, freeze, unused);
  std::map<std::string, ParameterRule> result;
  for (std::size_t i = 0; i < specs.size(); ++i) result[specs[i].name] = list[i];
  return result;
}

TEST_CASE("patterns fit names") {
  CHECK(fits("*", ""));
  CHECK(fits("*", "anything"));
  CHECK(fits("a?c", "abc"));
  CHECK_FALSE(fits("a?c", "ac"));
  CHECK(fits("*.wte.*", "transformer.wte.weight"));
  CHECK(fits("*a*b", "xaaxb"));
  CHECK(fits("*ab", "aab"));
  CHECK_FALSE(fits("*ab", "aba"));
  CHECK_FALSE(fits("", "a"));
  CHECK(fits("**", "a"));
  // Many stars must not take for ever.
  CHECK_FALSE(fits(std::string(40, '*') + "b", std::string(10000, 'a')));
}

TEST_CASE("matrices decay, and norms, biases and embeddings do not") {
  OptimizerSettings optimizer;
  optimizer.weight_decay = 0.1;
  std::vector<std::string> unused;
  auto rule = rules(optimizer, {}, unused);
  CHECK(rule.at("transformer.h.0.attn.c_attn.weight").weight_decay == 0.1);
  CHECK(rule.at("transformer.h.1.mlp.c_proj.weight").weight_decay == 0.1);
  CHECK(rule.at("transformer.h.0.attn.c_attn.bias").weight_decay == 0);
  CHECK(rule.at("transformer.h.0.ln_1.weight").weight_decay == 0);
  CHECK(rule.at("transformer.ln_f.bias").weight_decay == 0);
  CHECK(rule.at("transformer.wte.weight").weight_decay == 0);
  CHECK(rule.at("transformer.wpe.weight").weight_decay == 0);
  CHECK(unused.empty());
}

TEST_CASE("the first group that fits counts, and patterns that fit nothing are told") {
  OptimizerSettings optimizer;
  optimizer.weight_decay = 0.1;
  optimizer.groups = {{"*.wte.weight", 0.5, 0.2}, {"transformer.w?e.weight", 3, 0.3}, {"model.*", 1, 1}};
  std::vector<std::string> unused;
  auto rule = rules(optimizer, {"*.h.0.*", "*.h.7.*"}, unused);
  CHECK(rule.at("transformer.wte.weight").lr_scale == 0.5);
  CHECK(rule.at("transformer.wte.weight").weight_decay == 0.2);
  CHECK(rule.at("transformer.wpe.weight").lr_scale == 3);
  CHECK(rule.at("transformer.h.0.ln_1.bias").frozen);
  CHECK_FALSE(rule.at("transformer.h.1.ln_1.bias").frozen);
  CHECK(unused == std::vector<std::string>{"model.*", "*.h.7.*"});
}

}  // namespace
}  // namespace braise::train
