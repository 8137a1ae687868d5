// SPDX-License-Identifier: Apache-2.0
#include "tests/stages/shared/checkpoint/sample.h"

#include <catch2/catch.hpp>

#include "kernels/core/error.h"
#include "kernels/core/random.h"

namespace braise::checkpoint {

SampleTensor sample_tensor(const std::string& path, core::Dtype dtype, const core::Shape& shape, std::uint64_t seed) {
  SampleTensor tensor{path, dtype, shape, {}};
  tensor.bytes.resize(static_cast<std::size_t>(shape.elements() * core::bits(dtype) / 8));
  const core::RandomStream random(seed, core::Purpose::kData, std::hash<std::string>()(path));
  for (std::size_t i = 0; i < tensor.bytes.size(); ++i)
    tensor.bytes[i] = static_cast<std::byte>(random.word(i / 4) >> (8 * (i % 4)));
  return tensor;
}

Sample sample(std::uint64_t seed) {
  using core::Dtype;
  return {
      sample_tensor("parameters/h.0.weight", Dtype::kBfloat16, {130, 4096}, seed),
      sample_tensor("parameters/h.0.bias", Dtype::kBfloat16, {3, 5, 7}, seed),
      sample_tensor("parameters/h.1.weight", Dtype::kFloat32, {2, 1, 3, 4111}, seed),
      sample_tensor("parameters/block", Dtype::kFloat16, {4096}, seed),
      sample_tensor("parameters/chunk", Dtype::kFloat16, {64, 4096}, seed),
      sample_tensor("master/h.0.weight", Dtype::kFloat32, {130, 4096}, seed),
      sample_tensor("optimizer/exp_avg/h.0.weight", Dtype::kFloat32, {130, 4096}, seed),
      sample_tensor("optimizer/step", Dtype::kInt32, {}, seed),
      sample_tensor("optimizer/scale", Dtype::kFloat32, {}, seed),
      sample_tensor("optimizer/none", Dtype::kFloat32, {0, 4}, seed),
      sample_tensor("optimizer/flags", Dtype::kInt8, {4097}, seed),
      sample_tensor("optimizer/one", Dtype::kInt32, {1}, seed),
  };
}

Sample small_sample(std::uint64_t seed) {
  using core::Dtype;
  return {
      sample_tensor("parameters/weight", Dtype::kBfloat16, {10, 100}, seed),
      sample_tensor("parameters/bias", Dtype::kFloat32, {7}, seed),
      sample_tensor("optimizer/step", Dtype::kInt32, {}, seed),
  };
}

nlohmann::json sample_metadata(std::int64_t step) {
  return {{"model", {{"model_type", "llama"}, {"hidden_size", 64}}},
          {"tokenizer", {{"kind", "bytes"}, {"end_of_document", true}}},
          {"steps", 1000},
          {"updates", step},
          {"tokens", 9223372036854775807},
          {"best_validation_loss", 1.25},
          {"tier", "caf\xc3\xa9"}};
}

std::vector<Piece> pieces_of(const Sample& sample, int rank, int ranks) {
  std::vector<Piece> pieces;
  for (const SampleTensor& tensor : sample) {
    const Range range = share_of(tensor.shape.elements(), rank, ranks);
    pieces.push_back({tensor.path, tensor.shape, range.begin, tensor.view(range)});
  }
  return pieces;
}

std::filesystem::path save_sample(const std::filesystem::path& attempt, const Sample& sample, std::int64_t step,
                                  int ranks) {
  std::filesystem::create_directories(attempt);
  std::filesystem::path folder;
  test::with_ranks(ranks, [&](comm::Communicator& comm) {
    Host host;
    Saver saver(comm, *host.stream, host.arena, {.attempt_dir = attempt, .retention = {}, .log = {}});
    saver.save(step, pieces_of(sample, comm.rank(), ranks), sample_metadata(step));
    saver.wait();
    if (comm.rank() == 0) folder = saver.take_saved().at(0).folder;
  });
  return folder;
}

void require_equal(const Checkpoint& checkpoint, const Sample& sample) {
  REQUIRE(checkpoint.tensors().size() == sample.size());
  for (const SampleTensor& tensor : sample) {
    INFO(tensor.path);
    const TensorInfo& info = checkpoint.tensor(tensor.path);
    REQUIRE(info.dtype == tensor.dtype);
    REQUIRE(info.shape == tensor.shape);
    std::vector<std::byte> read(tensor.bytes.size());
    checkpoint.read(tensor.path, 0, core::TensorView(read.data(), tensor.dtype, tensor.shape));
    REQUIRE(read == tensor.bytes);
  }
}

std::string fault_of(const std::filesystem::path& folder) {
  try {
    Checkpoint(folder).verify();
    return "";
  } catch (const core::Error& error) {
    return error.what();
  }
}

}  // namespace braise::checkpoint
