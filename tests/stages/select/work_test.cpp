// SPDX-License-Identifier: Apache-2.0
#include "stages/select/work.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <valijson/adapters/nlohmann_json_adapter.hpp>
#include <valijson/schema.hpp>
#include <valijson/schema_parser.hpp>
#include <valijson/validator.hpp>

#include "kernels/core/error.h"
#include "kernels/core/ledger.h"
#include "schemas/schemas.h"
#include "stages/api/descriptor.h"
#include "stages/registry.h"
#include "stages/shared/checkpoint/saver.h"
#include "stages/shared/io/file.h"
#include "tests/stages/fake_context.h"
#include "tests/support/support.h"

namespace braise::select {
namespace {
namespace fs = std::filesystem;
using Catch::Contains;
using nlohmann::json;

/// A checkpoint of one small tensor, of step 10.
fs::path save(const fs::path& attempt, std::optional<double> loss) {
  fs::create_directories(attempt);
  core::MemoryLedger ledger(core::kUnlimited, core::kUnlimited);
  core::Arena arena(core::kCpu, core::Space::kHost, ledger);
  const std::unique_ptr<core::Stream> stream = core::make_stream(arena);
  const std::unique_ptr<comm::Communicator> comm = comm::single();
  checkpoint::Saver saver(*comm, *stream, arena, {.attempt_dir = attempt, .retention = {}, .log = {}});
  const std::vector<float> values(4, 1.0f);
  saver.save(10, {{{"parameters/w", {4}, 0, core::ConstTensorView(values.data(), core::Dtype::kFloat32, {4})}}},
             json{{"job", {}}}, loss);
  saver.wait();
  return saver.take_saved().at(0).folder;
}

bool is_a_selection(const json& value) {
  valijson::Schema schema;
  const valijson::adapters::NlohmannJsonAdapter text(schemas::schema("selected.schema.json"));
  valijson::SchemaParser().populateSchema(text, schema);
  const valijson::adapters::NlohmannJsonAdapter adapter(value);
  return valijson::Validator().validate(schema, adapter, nullptr);
}

TEST_CASE("the best are named, the very best first; what is missing or not a number comes last or not at all") {
  const test::TemporaryFolder folder;
  test::FakeContext context(folder.path());
  json candidates = json::array();
  const auto add = [&](const std::string& name, std::optional<double> loss) {
    candidates.push_back({{"name", name}, {"checkpoint", save(folder.path() / name / "1-aaaaaa", loss).string()}});
  };
  add("nan", std::numeric_limits<double>::quiet_NaN());
  add("good", 2.5);
  candidates.push_back({{"name", "failed"}, {"checkpoint", ""}});
  add("best", 2.25);
  add("unmeasured", std::nullopt);
  add("as good", 2.5);
  context.job_.config = {{"candidates", candidates}, {"keep", 3}};
  stages::Outputs outputs;
  REQUIRE(run(context, outputs) == stages::Ending::completed);
  const json selected = json::parse(io::read_file(context.attempt_dir_ / outputs.at("selected").files.at(0).path));
  CHECK(is_a_selection(selected));
  CHECK_FALSE(is_a_selection(json::object()));
  CHECK(selected.at("selected") == json({"best", "good", "as good"}));
  CHECK(selected.at("candidates").at(2) == json{{"name", "failed"}, {"step", nullptr}, {"validation_loss", nullptr}});
  CHECK(selected.at("candidates").at(3) == json{{"name", "best"}, {"step", 10}, {"validation_loss", 2.25}});
  CHECK_THAT(context.log_, Contains("failed has left no checkpoint"));
  CHECK_THAT(context.log_, Contains("unmeasured has no validation loss"));
}

TEST_CASE("what cannot be ranked is an error") {
  const test::TemporaryFolder folder;
  test::FakeContext context(folder.path());
  stages::Outputs outputs;
  context.job_.config = {{"candidates", {{{"name", "a"}, {"checkpoint", ""}}}}, {"keep", 1}};
  CHECK_THROWS_WITH(run(context, outputs), Contains("no candidate has a validation loss"));
  context.job_.config["candidates"][0]["checkpoint"] = (folder.path() / "none").string();
  CHECK_THROWS_WITH(run(context, outputs), Contains("is no checkpoint"));
}

TEST_CASE("candidates have names of their own, and are as many as are kept") {
  std::string told;
  const json config = {{"candidates", {{{"name", "a"}, {"checkpoint", ""}}, {{"name", "a"}, {"checkpoint", ""}}}},
                       {"keep", 3}};
  const stages::Resources resources;
  stages::find_kind("select")->check(
      {config, resources, {}, [&](std::string_view pointer, const std::string& problem, const std::string&) {
         told += std::string(pointer) + " " + problem + "\n";
       }});
  CHECK(told == "/candidates/1/name is `a`, as another candidate's\n/keep is 3 of 2 candidates\n");
}

}  // namespace
}  // namespace braise::select
