// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>

#include <bit>
#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "kernels/core/half.h"
#include "stages/shared/checkpoint/checkpoint.h"
#include "stages/shared/checkpoint/saver.h"
#include "stages/shared/hdf5/hdf5_file.h"
#include "stages/shared/io/file.h"
#include "stages/shared/model/config.h"
#include "stages/shared/model/parameters.h"
#include "stages/shared/weights/safetensors.h"
#include "tests/support/support.h"

namespace braise::tools {
namespace {
namespace fs = std::filesystem;

using Catch::Contains;
using nlohmann::json;

/// Runs `braise-worker tool ...`.
test::Finished tool(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {test::program("braise-worker").string(), "tool"});
  return test::run_program(arguments);
}

fs::path golden_model(const std::string& name) {
  return test::source_dir() / "tests/golden/models" / name;
}

/// A tensor of a checkpoint made by hand.
struct Values {
  std::string path;
  core::Shape shape;
  std::vector<float> values;
  bool bf16 = false;
};

fs::path save(const fs::path& folder, std::int64_t step, const std::vector<Values>& tensors,
              const json& metadata = {{"model", {{"model_type", "gpt2"}}}}) {
  std::vector<checkpoint::Piece> pieces;
  std::vector<std::vector<core::Bfloat16>> narrow(tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const Values& tensor = tensors[i];
    core::ConstTensorView view(tensor.values.data(), core::Dtype::kFloat32, tensor.shape);
    if (tensor.bf16) {
      for (const float value : tensor.values) narrow[i].push_back(core::to_bfloat16(value));
      view = core::ConstTensorView(narrow[i].data(), core::Dtype::kBfloat16, tensor.shape);
    }
    pieces.push_back({tensor.path, tensor.shape, 0, view});
  }
  // As Saver names the folder, so that attempts are as they would be.
  checkpoint::write_checkpoint(folder, folder.parent_path().parent_path().filename(), step, pieces, metadata);
  return folder;
}

void append(const fs::path& attempt, const std::vector<json>& lines) {
  std::string text;
  if (fs::exists(attempt / "metrics.jsonl")) text = io::read_file(attempt / "metrics.jsonl");
  for (const json& line : lines) text += line.dump() + "\n";
  fs::create_directories(attempt);
  io::write_file_durably(attempt / "metrics.jsonl", text);
}

json loss_line(std::int64_t step, double loss) {
  char bits[17];
  std::snprintf(bits, sizeof bits, "%016llx", static_cast<unsigned long long>(std::bit_cast<std::uint64_t>(loss)));
  return {{"step", step}, {"loss", loss}, {"loss_bits", bits}};
}

TEST_CASE("every golden model goes in and comes out to the bit") {
  const test::TemporaryFolder folder;
  for (const char* const name : {"gpt2", "llama31", "qwen3", "gemma", "starcoder2"}) {
    INFO(name);
    const fs::path imported = folder.path() / (std::string(name) + "-checkpoint");
    const fs::path exported = folder.path() / (std::string(name) + "-files");
    const test::Finished in = tool({"import", golden_model(name).string(), "--to", imported.string()});
    INFO(in.err);
    REQUIRE(in.status == 0);
    CHECK(tool({"inspect", imported.string(), "--verify"}).status == 0);
    const test::Finished out = tool({"export", imported.string(), "--to", exported.string()});
    INFO(out.err);
    REQUIRE(out.status == 0);

    const weights::Safetensors before = weights::open_safetensors(golden_model(name) / "model.safetensors");
    const weights::Safetensors after = weights::open_safetensors(exported / "model.safetensors");
    CHECK(after.metadata.at("format") == "pt");
    const model::Config config = model::read_hugging_face(exported / "config.json");
    CHECK(model::to_hugging_face(config) ==
          model::to_hugging_face(model::read_hugging_face(golden_model(name) / "config.json")));
    CHECK(after.weights.tensors().size() == model::parameter_specs(config).size());
    for (const weights::TensorInfo& tensor : after.weights.tensors()) {
      const weights::TensorInfo* const original = before.weights.find(tensor.name);
      REQUIRE(original != nullptr);
      CHECK(original->shape == tensor.shape);
      CHECK(std::ranges::equal(original->bytes, tensor.bytes));
    }
  }
}

TEST_CASE("export takes master weights, rounds once, and writes the tokenizer") {
  const test::TemporaryFolder folder;
  const std::vector<float> exact = {1.0f, 1.00390625f * 1.0f + 0.0001f, -3.14159274f, 65000.5f};
  const fs::path saved =
      save(folder.path() / "1-a/checkpoints/step-00000003", 3,
           {{"parameters/w", {2, 2}, exact, true}, {"master/w", {2, 2}, exact}, {"optimizer/exp_avg/w", {2, 2}, exact}},
           {{"model", {{"model_type", "gpt2"}}}, {"tokenizer", {{"kind", "bytes"}, {"end_of_document", true}}}});
  const auto exported = [&](const std::string& to, const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"export", saved.string(), "--to", (folder.path() / to).string()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const test::Finished finished = tool(arguments);
    INFO(finished.err);
    REQUIRE(finished.status == 0);
    return weights::open_safetensors(folder.path() / to / "model.safetensors");
  };
  const weights::Safetensors plain = exported("plain", {});
  REQUIRE(plain.weights.tensors().size() == 1);
  CHECK(plain.weights.tensor("w").encoding == weights::Encoding::kBf16);
  CHECK(json::parse(io::read_file(folder.path() / "plain/config.json"))["torch_dtype"] == "bfloat16");
  const weights::Safetensors wide = exported("wide", {"--dtype", "fp32"});
  CHECK(std::memcmp(wide.weights.tensor("w").bytes.data(), exact.data(), 16) == 0);
  const weights::Safetensors half = exported("half", {"--dtype", "fp16"});
  for (std::size_t i = 0; i < exact.size(); ++i) {
    core::Bfloat16 as_bf16;
    core::Float16 as_fp16;
    std::memcpy(&as_bf16, plain.weights.tensor("w").bytes.data() + 2 * i, 2);
    std::memcpy(&as_fp16, half.weights.tensor("w").bytes.data() + 2 * i, 2);
    CHECK(as_bf16 == core::to_bfloat16(exact[i]));
    CHECK(as_fp16 == core::to_float16(exact[i]));
  }

  const json tokenizer = json::parse(io::read_file(folder.path() / "plain/tokenizer.json"));
  const json& vocabulary = tokenizer["model"]["vocab"];
  CHECK(vocabulary.size() == 256);
  CHECK(vocabulary["A"] == 65);
  CHECK(vocabulary["\u0120"] == 32);  // a space, as GPT-2 writes it
  CHECK(vocabulary["\u010a"] == 10);
  CHECK(vocabulary["\u00ff"] == 255);
  CHECK(tokenizer["added_tokens"][0]["id"] == 256);

  const test::Finished again = tool({"export", saved.string(), "--to", (folder.path() / "plain").string()});
  CHECK(again.status == 2);
  CHECK_THAT(again.err, Contains("is there already"));
}

TEST_CASE("what does not fit the model is not imported, and nothing is left") {
  const test::TemporaryFolder folder;
  const fs::path files = folder.path() / "files";
  fs::create_directories(files);
  const auto import_fault = [&](const fs::path& from) {
    const test::Finished finished = tool({"import", from.string(), "--to", (folder.path() / "made").string()});
    CHECK(finished.status == 2);
    CHECK_FALSE(fs::exists(folder.path() / "made"));
    return finished.err;
  };
  CHECK_THAT(import_fault(files), Contains("holds no checkpoint"));
  fs::copy(golden_model("gpt2") / "model.safetensors", files / "model.safetensors");
  CHECK_THAT(import_fault(files), Contains("config.json"));
  fs::copy(golden_model("llama31") / "config.json", files / "config.json");
  CHECK_THAT(import_fault(files), Contains("model.embed_tokens.weight is missing") && Contains("is not the model's"));
  io::write_file_durably(folder.path() / "x.gguf", "GGUF");
  CHECK_THAT(import_fault(folder.path() / "x.gguf"), Contains("llama.cpp"));
}

TEST_CASE("inspect shows statistics, and says so where they are not numbers") {
  const test::TemporaryFolder folder;
  const float infinity = std::numeric_limits<float>::infinity();
  const fs::path saved = save(folder.path() / "1-a/checkpoints/step-00000012", 12,
                              {{"parameters/w", {2, 3}, {1, 2, 3, 4, -6, 2}},
                               {"parameters/bad", {4}, {1, NAN, infinity, 3}},
                               {"parameters/none", {0}, {}}});
  const test::Finished finished = tool({"inspect", saved.string(), "--json", "--verify"});
  REQUIRE(finished.status == 0);
  const json found = json::parse(finished.out);
  CHECK(found["step"] == 12);
  CHECK(found["attempt"] == "1-a");
  CHECK(found["verified"] == true);
  CHECK(found["metadata"]["model"]["model_type"] == "gpt2");
  REQUIRE(found["tensors"].size() == 3);
  const json& bad = found["tensors"][0];
  CHECK(bad["statistics"]["nan"] == 1);
  CHECK(bad["statistics"]["infinite"] == 1);
  CHECK(bad["statistics"]["mean"] == 2.0);
  CHECK(found["tensors"][1]["statistics"] == json::object());
  const json& good = found["tensors"][2];
  CHECK(good["name"] == "parameters/w");
  CHECK(good["shape"] == json({2, 3}));
  CHECK(good["statistics"]["min"] == -6.0);
  CHECK(good["statistics"]["max"] == 4.0);
  CHECK(good["statistics"]["mean"] == 1.0);
  CHECK(good["statistics"]["std"].get<double>() == Approx(std::sqrt(64.0 / 6)));
  CHECK(good["digest"].get<std::string>().size() == 64);

  // All the ways to name it.
  for (const fs::path& path :
       {saved / "checkpoint.h5", saved / "manifest.json", saved / "part.00000.h5", folder.path() / "1-a"}) {
    const test::Finished same = tool({"inspect", path.string()});
    CHECK(same.status == 0);
    CHECK_THAT(same.out, Contains("step: 12") && Contains("parameters/bad") && Contains("2 x 3"));
  }
}

TEST_CASE("inspect finds damage, and names the file and the place") {
  const test::TemporaryFolder folder;
  const fs::path saved = save(folder.path() / "1-a/checkpoints/step-00000001", 1,
                              {{"parameters/w", {100}, std::vector<float>(100, 1.5f)}});
  const auto damaged = [&](const std::string& name, const std::string& what, const std::vector<std::string>& more) {
    const std::string content = io::read_file(saved / name);
    const std::size_t at =
        name == "part.00000.h5" && what == "elements" ? content.find(std::string("\x00\x00\xc0\x3f", 4)) : 64;
    std::string changed = content;
    changed[at] = static_cast<char>(changed[at] ^ 1);
    io::write_file_durably(saved / name, changed);
    std::vector<std::string> arguments = {"inspect", saved.string()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const test::Finished finished = tool(arguments);
    io::write_file_durably(saved / name, content);
    CHECK(finished.status == 1);
    CHECK_THAT(finished.err, Contains((saved / name).string()) && Contains(what));
  };
  damaged("part.00000.h5", "elements", {});
  damaged("part.00000.h5", "elements", {"--verify"});
  damaged("part.00000.h5", "around its tensors", {"--verify"});
  damaged("checkpoint.h5", "damaged", {"--verify"});
  damaged("manifest.json", "", {});
  CHECK(tool({"inspect", saved.string(), "--verify"}).status == 0);
}

TEST_CASE("inspect reads weight files and token files") {
  const test::TemporaryFolder folder;
  const test::Finished weights = tool({"inspect", golden_model("gpt2").string(), "--json"});
  REQUIRE(weights.status == 0);
  CHECK(json::parse(weights.out)["kind"] == "weights");
  const fs::path imported = folder.path() / "imported";
  REQUIRE(tool({"import", golden_model("gpt2").string(), "--to", imported.string()}).status == 0);
  // The same tensors have the same digests, wherever they are.
  std::map<std::string, json> digests;
  for (const json& tensor : json::parse(weights.out)["tensors"]) digests[tensor["name"]] = tensor["digest"];
  for (const json& tensor : json::parse(tool({"inspect", imported.string(), "--json"}).out)["tensors"]) {
    CHECK(digests.at(tensor["name"].get<std::string>().substr(11)) == tensor["digest"]);
  }

  const fs::path attempt = folder.path() / "attempts/1-a";
  fs::create_directories(attempt / "artifacts");
  {
    hdf5::Writer file(attempt / "artifacts/tokens.h5");
    file.attribute("/", "format", std::string("braise tokens"));
    file.attribute("/", "tokenizer", std::string("bytes"));
    file.attribute("/", "vocabulary_size", std::uint64_t{256});
    for (const std::string side : {"/train", "/validation"}) {
      const std::vector<std::uint16_t> tokens = {10, 20, 30};
      const std::vector<std::uint64_t> offsets = {0, 3};
      file.group(side);
      file.whole_dataset(side + "/tokens", hdf5::Element::uint16, {3}, tokens.data());
      file.whole_dataset(side + "/document_offsets", hdf5::Element::uint64, {2}, offsets.data());
    }
    file.close();
  }
  const test::Finished tokens = tool({"inspect", attempt.string(), "--json"});
  REQUIRE(tokens.status == 0);
  const json found = json::parse(tokens.out);
  CHECK(found["kind"] == "tokens");
  CHECK(found["tensors"][0]["statistics"]["mean"] == 20.0);
  CHECK_THAT(tool({"inspect", attempt.string()}).out, Contains("train/tokens") && Contains("vocabulary_size: 256"));
}

TEST_CASE("compare tells the first tensor that differs, and by how much") {
  const test::TemporaryFolder folder;
  const std::vector<float> values = {1, 2, 3, 4};
  std::vector<float> changed = values;
  changed[2] = std::nextafter(std::nextafter(3.0f, 4.0f), 4.0f);
  const auto made = [&](const std::string& name, std::int64_t step, const std::vector<Values>& tensors) {
    return save(folder.path() / name, step, tensors).string();
  };
  const std::string a = made("a", 5, {{"parameters/v", {2}, {0.0f, 1.0f}}, {"parameters/w", {4}, values}});
  const std::string same = made("same", 5, {{"parameters/v", {2}, {0.0f, 1.0f}}, {"parameters/w", {4}, values}});
  const test::Finished equal = tool({"compare", a, same});
  CHECK(equal.status == 0);
  CHECK_THAT(equal.out, Contains("step 5") && Contains("identical: 2 tensors"));

  const test::Finished near =
      tool({"compare", a, made("near", 5, {{"parameters/v", {2}, {0.0f, 1.0f}}, {"parameters/w", {4}, changed}})});
  CHECK(near.status == 1);
  CHECK_THAT(near.out, Contains("parameters/w: 1 of 4 elements differ, the first is element 2") && Contains("2 ulp"));
  // To the bit: -0 is not 0.
  const test::Finished zero =
      tool({"compare", a, made("zero", 5, {{"parameters/v", {2}, {-0.0f, 1.0f}}, {"parameters/w", {4}, changed}})});
  CHECK(zero.status == 1);
  CHECK_THAT(zero.out, Contains("parameters/v: 1 of 2 elements differ") && Contains("1 more tensor"));
  const test::Finished shape =
      tool({"compare", a, made("shape", 5, {{"parameters/v", {2}, {0, 1}}, {"parameters/w", {2, 2}, values}})});
  CHECK(shape.status == 1);
  CHECK_THAT(shape.out, Contains("parameters/w: fp32[4] against fp32[2 x 2]"));
  const test::Finished fewer = tool({"compare", a, made("fewer", 5, {{"parameters/w", {4}, values}})});
  CHECK(fewer.status == 1);
  CHECK_THAT(fewer.out, Contains("parameters/v is only in " + a));
  const test::Finished later =
      tool({"compare", a, made("later", 6, {{"parameters/v", {2}, {0.0f, 1.0f}}, {"parameters/w", {4}, values}})});
  CHECK(later.status == 1);
  CHECK_THAT(later.out, Contains("5 against 6"));

  CHECK(tool({"compare", a, (folder.path() / "gone").string()}).status == 2);
  CHECK(tool({"compare", a, golden_model("gpt2").string()}).status == 2);
  std::string manifest = io::read_file(folder.path() / "same/manifest.json");
  manifest[100] ^= 1;
  io::write_file_durably(folder.path() / "same/manifest.json", manifest);
  const test::Finished broken = tool({"compare", a, same});
  CHECK(broken.status == 2);
  CHECK_THAT(broken.err, Contains("damaged"));
}

TEST_CASE("compare follows the steps of two jobs") {
  const test::TemporaryFolder folder;
  const fs::path a = folder.path() / "runs/r1/jobs/pretrain", b = folder.path() / "runs/r2/jobs/pretrain";
  const auto attempt = [](const fs::path& job, const std::string& name) { return job / "attempts" / name; };
  const auto checkpoint = [&](const fs::path& in, std::int64_t step, float value) {
    char name[32];
    std::snprintf(name, sizeof name, "step-%08d", static_cast<int>(step));
    save(in / "checkpoints" / name, step, {{"parameters/w", {1}, {value}}});
  };
  // Straight, and killed after step 3 and resumed from step 2.
  append(attempt(a, "1-x"), {loss_line(1, 4.0), loss_line(2, 3.5), loss_line(3, 3.25), loss_line(4, 3.125)});
  checkpoint(attempt(a, "1-x"), 2, 0.5f);
  checkpoint(attempt(a, "1-x"), 4, 0.25f);
  append(attempt(b, "1-y"),
         {{{"step", 0}, {"resume_step", 0}}, loss_line(1, 4.0), loss_line(2, 3.5), loss_line(3, 99.0)});
  checkpoint(attempt(b, "1-y"), 2, 0.5f);
  append(attempt(b, "2-z"), {{{"step", 2}, {"resume_step", 2}}, loss_line(3, 3.25), loss_line(4, 3.125)});
  checkpoint(attempt(b, "2-z"), 4, 0.25f);
  for (const auto& [left, right] : {std::pair(a, b), std::pair(b, a), std::pair(folder.path() / "runs/r1", b)}) {
    const test::Finished finished = tool({"compare", left.string(), right.string()});
    INFO(finished.out << finished.err);
    CHECK(finished.status == 0);
    CHECK_THAT(finished.out, Contains("identical through step 4: 4 losses, the checkpoints of 2 steps"));
  }

  // One more step.
  append(attempt(b, "2-z"), {loss_line(5, 3.0)});
  const test::Finished longer = tool({"compare", a.string(), b.string()});
  CHECK(longer.status == 1);
  CHECK_THAT(longer.out, Contains("identical through step 4") && Contains("step 5 is only in " + b.string()));

  // A bit of a loss, and a tensor.
  append(attempt(a, "1-x"), {loss_line(5, std::nextafter(3.0, 4.0))});
  checkpoint(attempt(a, "1-x"), 5, 1.0f);
  checkpoint(attempt(b, "2-z"), 5, 2.0f);
  const test::Finished different = tool({"compare", a.string(), b.string()});
  CHECK(different.status == 1);
  CHECK_THAT(different.out, Contains("the losses differ from step 5 on: 3.0000000000000004") &&
                                Contains("differ at step 5") && Contains("parameters/w: 1 of 1 elements differ"));

  CHECK(tool({"compare", attempt(a, "1-x").string(), attempt(b, "2-z").string()}).status == 1);
  fs::create_directories(folder.path() / "runs/r1/jobs/other/attempts/1-a/checkpoints");
  const test::Finished several = tool({"compare", (folder.path() / "runs/r1").string(), b.string()});
  CHECK(several.status == 2);
  CHECK_THAT(several.err, Contains("name one of other, pretrain"));
}

TEST_CASE("wrong usage of tools ends with status 2") {
  for (const std::vector<std::string>& words :
       std::vector<std::vector<std::string>>{{},
                                             {"bake"},
                                             {"inspect"},
                                             {"inspect", "/gone"},
                                             {"export", "/gone", "--to", "/tmp/x"},
                                             {"import", "/gone"},
                                             {"compare", "/gone"},
                                             {"export", "/gone", "--to", "x", "--dtype", "int4"}}) {
    const test::Finished finished = tool(words);
    CHECK(finished.status == 2);
    CHECK_FALSE(finished.err.empty());
  }
  CHECK(tool({"--help"}).status == 0);
}

}  // namespace
}  // namespace braise::tools
