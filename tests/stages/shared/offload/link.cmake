pkg_check_modules(libseccomp REQUIRED IMPORTED_TARGET libseccomp)
target_link_libraries(test_${name} PRIVATE braise_kernels_optimizer PkgConfig::libseccomp)
