target_link_libraries(test_${name} PRIVATE HDF5::HDF5)
