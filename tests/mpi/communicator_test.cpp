// SPDX-License-Identifier: Apache-2.0
// The communicator over MPI: the ranks are this very program, started by mpirun for the hidden test case.
#include <mpi.h>

#include <catch2/catch.hpp>

#include "kernels/comm/communicator.h"
#include "kernels/core/error.h"
#include "tests/mpi/mpirun.h"

namespace braise::comm {
namespace {

TEST_CASE("a rank of the communicator's test", "[.rank]") {
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
  }
  MPI_Finalize();
}

TEST_CASE("ranks exchange bytes over MPI") {
  const test::TemporaryFolder folder;
  const test::Finished finished = test::run_program(
      test::mpirun_command(3, folder.path(), {std::string(BRAISE_BINARY_DIR) + "/tests/test_mpi", "[.rank]"}),
      test::mpi_environment());
  INFO(finished.out << finished.err);
  CHECK(finished.status == 0);
}

}  // namespace
}  // namespace braise::comm
