// SPDX-License-Identifier: Apache-2.0
// The communicator over MPI: the ranks are this very program, started by mpirun for the hidden test case.
#include <mpi.h>

#include <array>
#include <catch2/catch.hpp>

#include "kernels/comm/collectives.h"
#include "kernels/comm/communicator.h"
#include "kernels/core/arena.h"
#include "kernels/core/error.h"
#include "tests/mpi/mpirun.h"
#include "tests/support/exchange_checks.h"

namespace braise::comm {
namespace {

TEST_CASE("a rank of the communicator's test", "[.exchange]") {
  int provided = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided);
  REQUIRE(provided == MPI_THREAD_MULTIPLE);
  {
    const auto comm = mpi();
    const int size = comm->size(), rank = comm->rank();
    REQUIRE(size == 3);
    comm->barrier();
    CHECK(comm->all_max(rank == 1 ? INT64_MAX : -rank) == INT64_MAX);
    CHECK(comm->all_max(-rank - 1) == -1);

    // Texts of different lengths, none among them.
    const std::string mine(static_cast<std::size_t>(rank), static_cast<char>('a' + rank));
    CHECK(comm->all_gather(mine) == std::vector<std::string>{"", "b", "cc"});
    CHECK(comm->all_gather("") == std::vector<std::string>(3));

    // Longer than a round takes, so that it comes in several.
    const std::string large(static_cast<std::size_t>(10 + 20 * rank) << 20, static_cast<char>('x' + rank));
    const std::vector<std::string> all = comm->all_gather(large);
    for (int r = 0; r < size; ++r) {
      const auto i = static_cast<std::size_t>(r);
      CHECK(all[i].size() == static_cast<std::size_t>(10 + 20 * r) << 20);
      CHECK(all[i].find_first_not_of(static_cast<char>('x' + r)) == std::string::npos);
    }

    CHECK(comm->broadcast(rank == 2 ? "from 2" : "ignored", 2) == "from 2");
    CHECK(comm->broadcast("", 0) == "");
    // MPI's own complaint becomes an error with MPI's text.
    CHECK_THROWS_WITH(comm->broadcast("x", 17), Catch::Contains("MPI_Bcast failed: ") && Catch::Contains("root"));

    std::vector<std::byte> send, receive(6);
    for (int r = 0; r < size; ++r) {
      send.push_back(static_cast<std::byte>(10 * rank + r));
      send.push_back(std::byte{7});
    }
    comm->all_to_all(send, receive, 2);
    for (int r = 0; r < size; ++r) {
      CHECK(receive[static_cast<std::size_t>(2 * r)] == static_cast<std::byte>(10 * r + rank));
      CHECK(receive[static_cast<std::size_t>(2 * r + 1)] == std::byte{7});
    }
    CHECK_THROWS_AS(comm->all_to_all(send, receive, 1), core::Error);

    const std::array<std::byte, 2> own = {static_cast<std::byte>(rank), std::byte{9}};
    comm->all_gather(own, receive);
    for (int r = 0; r < size; ++r) {
      CHECK(receive[static_cast<std::size_t>(2 * r)] == static_cast<std::byte>(r));
      CHECK(receive[static_cast<std::size_t>(2 * r + 1)] == std::byte{9});
    }
    CHECK_THROWS_AS(comm->all_gather(own, std::span(receive).first(4)), core::Error);
  }
  MPI_Finalize();
}

/// What rank r gives of element i of tensor t.
float given(int r, int t, std::int64_t i) {
  return 1.0f / static_cast<float>(1 + r * 5 + t + i % 1013) * (r == 1 ? 1e5f : 1.0f);
}

TEST_CASE("a rank of the sum's test", "[.sum]") {
  int provided = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided);
  {
    const auto comm = mpi();
    core::MemoryLedger ledger;
    core::Arena arena(core::kCpu, core::Space::kDevice, ledger);
    // More than a round takes, an empty tensor, one smaller than the number of ranks.
    const std::vector<std::int64_t> sizes{(std::int64_t{5} << 20) + 17, 0, 2, 4097};
    std::vector<core::Tensor> memory;
    std::vector<core::TensorView> tensors;
    for (int t = 0; t < static_cast<int>(sizes.size()); ++t) {
      memory.push_back(arena.tensor(core::Dtype::kFloat32, core::Shape{sizes[static_cast<std::size_t>(t)]},
                                    core::Category::kGradients, "gradient"));
      tensors.push_back(memory.back().view);
      for (std::int64_t i = 0; i < tensors.back().elements(); ++i) {
        tensors.back().data<float>()[i] = given(comm->rank(), t, i);
      }
    }
    Collectives(*comm, arena, "data").all_reduce_sum(tensors, core::Category::kGradients).wait();
    std::int64_t wrong = 0;
    for (int t = 0; t < static_cast<int>(sizes.size()); ++t) {
      for (std::int64_t i = 0; i < tensors[static_cast<std::size_t>(t)].elements(); ++i) {
        const auto g = [&](int r) { return given(r, t, i); };
        const float expected = comm->size() == 4 ? (g(0) + g(1)) + (g(2) + g(3)) : (g(0) + g(1)) + g(2);
        wrong += tensors[static_cast<std::size_t>(t)].data<float>()[i] == expected ? 0 : 1;
      }
    }
    CHECK(wrong == 0);
    CHECK(ledger.current_bytes(core::Space::kDevice, core::Category::kCommunication) == 0);
    CHECK(ledger.peak_bytes(core::Space::kDevice, core::Category::kCommunication) <= std::int64_t{32} << 20);
  }
  MPI_Finalize();
}

TEST_CASE("a rank of the collectives' test", "[.collectives]") {
  int provided = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided);
  {
    const auto comm = mpi();
    CHECK_NOTHROW(test::exchange_checks(*comm));
    comm->barrier();

    // Ranks that disagree find it out, though the messages themselves are too long or too short.
    core::MemoryLedger ledger;
    core::Arena arena(core::kCpu, core::Space::kDevice, ledger);
    {
      const std::int64_t elements = comm->rank() == 0 ? 40'000 : 3;
      const core::Tensor tensor =
          arena.tensor(core::Dtype::kFloat32, core::Shape{elements}, core::Category::kGradients, "test");
      std::fill_n(tensor.view.data<float>(), elements, 0.0f);
      Collectives collectives(*comm, arena, "data");
      CHECK_THROWS_WITH(collectives.all_reduce_sum(std::span(&tensor.view, 1), core::Category::kGradients).wait(),
                        Catch::Contains("data axis: all_reduce_sum: ranks disagree"));
      comm->barrier();
    }
    // Given up: what another rank sends later goes nowhere.
    const core::Tensor tensor =
        arena.tensor(core::Dtype::kFloat32, core::Shape{1000}, core::Category::kGradients, "test");
    std::fill_n(tensor.view.data<float>(), 1000, 1.0f);
    const auto pair = comm->split(comm->rank() < 2 ? std::vector<int>{0, 1} : std::vector<int>{comm->rank()});
    if (comm->rank() == 0) {
      Collectives collectives(*pair, arena, "pipeline");
      { const Pending never = collectives.receive(tensor.view, 1, core::Category::kActivations); }
      CHECK_THROWS_WITH(collectives.receive(tensor.view, 1, core::Category::kActivations).wait(),
                        Catch::Contains("given up"));
    }
    comm->barrier();
    CHECK(tensor.view.data<float>()[500] == 1.0f);
  }
  MPI_Finalize();
}

void check_ranks(int ranks, const std::string& hidden_case) {
  const test::TemporaryFolder folder;
  const test::Finished finished = test::run_program(
      test::mpirun_command(ranks, folder.path(), {std::string(BRAISE_BINARY_DIR) + "/tests/test_mpi", hidden_case}),
      test::mpi_environment());
  INFO(finished.out << finished.err);
  CHECK(finished.status == 0);
}

TEST_CASE("ranks exchange bytes over MPI") {
  check_ranks(3, "[.exchange]");
}

TEST_CASE("ranks exchange tensors over MPI while they go on") {
  for (const int ranks : {2, 3, 4, 8}) check_ranks(ranks, "[.collectives]");
}

TEST_CASE("tensors are summed over ranks by a tree") {
  check_ranks(3, "[.sum]");
  check_ranks(4, "[.sum]");
}

}  // namespace
}  // namespace braise::comm
