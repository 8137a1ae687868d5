target_link_libraries(test_${name} PRIVATE ZLIB::ZLIB zstd::libzstd_shared)
