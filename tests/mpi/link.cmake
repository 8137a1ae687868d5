target_link_libraries(test_${name} PRIVATE
  braise_stages_shared_model braise_test_tensors braise_test_ranks braise_stages_api braise_kernels_comm
  braise_stages_shared_hdf5 braise_schemas MPI::MPI_C)
target_compile_definitions(test_${name} PRIVATE OMPI_SKIP_MPICXX)
add_dependencies(test_${name} braise braise-worker)
set(more_properties PROCESSORS 2)
