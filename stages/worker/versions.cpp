// SPDX-License-Identifier: Apache-2.0
#include "stages/worker/versions.h"

#include <H5public.h>
#include <dnnl.h>
#include <elf.h>
#include <gnu/libc-version.h>
#include <link.h>
#include <mpi.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "stages/api/build.h"

namespace braise::worker {
namespace {

template <class Number>
std::string dotted(Number major, Number minor, Number patch) {
  return std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(patch);
}

/// Looks for the note in the program itself, which is the first object of the list; libraries are not looked at.
int find_build_id(dl_phdr_info* object, std::size_t, void* result) {
  for (int i = 0; i < object->dlpi_phnum; ++i) {
    const ElfW(Phdr)& header = object->dlpi_phdr[i];
    if (header.p_type != PT_NOTE) continue;
    const char* const begin = reinterpret_cast<const char*>(object->dlpi_addr + header.p_vaddr);
    const auto padded = [](std::size_t bytes) { return (bytes + 3) / 4 * 4; };
    for (std::size_t at = 0; at + sizeof(ElfW(Nhdr)) <= header.p_memsz;) {
      ElfW(Nhdr) note;
      std::memcpy(&note, begin + at, sizeof note);
      const char* const name = begin + at + sizeof note;
      const char* const content = name + padded(note.n_namesz);
      if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && std::memcmp(name, "GNU", 4) == 0) {
        static_cast<std::string*>(result)->assign(content, note.n_descsz);
        return 1;
      }
      at += sizeof note + padded(note.n_namesz) + padded(note.n_descsz);
    }
  }
  return 1;
}

}  // namespace

nlohmann::json versions() {
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  const dnnl_version_t& onednn = *dnnl_version();
  // "Open MPI v4.1.4, package: ...": the rest names who built it.
  char mpi[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  MPI_Get_library_version(mpi, &length);
  const std::string of_mpi(mpi, static_cast<std::size_t>(length));
  return {{"braise", stages::version()},
          {"mpi", of_mpi.substr(0, of_mpi.find_first_of(",\n"))},
          {"hdf5", dotted(major, minor, release)},
          {"onednn", dotted(onednn.major, onednn.minor, onednn.patch)},
          {"glibc", gnu_get_libc_version()}};
}

std::string build_identity() {
  std::string id;
  dl_iterate_phdr(find_build_id, &id);
  if (id.empty()) throw core::Error("this program was linked without a build id, so ranks cannot be compared");
  return id + versions().dump();
}

}  // namespace braise::worker
