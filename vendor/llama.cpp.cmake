# Included by CMake right after llama.cpp's own project(): makes it compile in less than half the time, with the same
# speed where speed counts. Nothing here is needed for correctness, and what a tree does not have is left out.
function(cpuft_set_up_targets)
    if(NOT CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
        return()
    endif()
    # Small files spend most of their time reading the standard library. Headers of llama.cpp's own are not among these:
    # some of its files define macros before they include them.
    set(headers algorithm array atomic chrono condition_variable cstdint cstring filesystem fstream functional iomanip
        iostream list map memory mutex optional random regex set sstream stdexcept string thread unordered_map
        unordered_set variant vector)
    list(TRANSFORM headers REPLACE "(.+)" "$<$<COMPILE_LANGUAGE:CXX>:<\\1$<ANGLE-R>>")
    # Only ggml computes, at the -O3 of a release. These build graphs, read options and serve a few requests at a time.
    set(levels llama -O1 llama-common -O1 server-context -O1 llama-server-impl -O1)
    # Images and sound, which cpuft has no use for, and HTTP.
    list(APPEND levels mtmd -O0 cpp-httplib -O0)
    while(levels)
        list(POP_FRONT levels target level)
        if(TARGET ${target})
            target_compile_options(${target} PRIVATE ${level})
            target_precompile_headers(${target} PRIVATE ${headers})
        endif()
    endwhile()
    # What works for each token or each weight. GCC 12 crashes where a precompiled header has another level.
    foreach(name IN ITEMS llama-context llama-grammar llama-graph llama-kv-cache llama-quant llama-sampler llama-vocab
            unicode)
        set(source "${CMAKE_SOURCE_DIR}/src/${name}.cpp")
        if(TARGET llama AND EXISTS "${source}")
            set_source_files_properties("${source}" TARGET_DIRECTORY llama PROPERTIES
                COMPILE_OPTIONS -O3 SKIP_PRECOMPILE_HEADERS ON)
        endif()
    endforeach()
endfunction()
cmake_language(DEFER CALL cpuft_set_up_targets)
