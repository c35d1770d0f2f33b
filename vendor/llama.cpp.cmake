# Included by CMake right after the project() of the llama.cpp that llama.cpp.lock names: the same programs, as fast where
# speed counts, compiled in half the time. ggml, which computes, keeps the -O3 of a release.

# Compile a target at a level of optimization.
#   TOGETHER  many of its files at a time, with the headers that most of their text is made of read once
#   FAST      its files that look at a whole vocabulary for each token, compiled as for a release
#   ALONE     its files that do not go together with others
function(cpuft_compile target level)
    cmake_parse_arguments(PARSE_ARGV 2 its "TOGETHER" "" "FAST;ALONE")
    if(NOT TARGET ${target})
        return()
    endif()
    target_compile_options(${target} PRIVATE ${level})
    if(NOT its_TOGETHER)
        return()
    endif()
    set(headers algorithm array atomic chrono condition_variable cstdint cstring filesystem fstream functional iomanip
        iostream list map memory mutex optional random regex set sstream stdexcept string thread unordered_map
        unordered_set variant vector)
    list(TRANSFORM headers REPLACE "(.+)" "$<$<COMPILE_LANGUAGE:CXX>:<\\1$<ANGLE-R>>")
    target_precompile_headers(${target} PRIVATE ${headers})
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 12)
    get_target_property(directory ${target} SOURCE_DIR)
    file(GLOB sources "${directory}/*.cpp")
    set_source_files_properties(${sources} TARGET_DIRECTORY ${target} PROPERTIES SKIP_UNITY_BUILD_INCLUSION OFF)
    foreach(name IN LISTS its_FAST its_ALONE)
        set_source_files_properties("${directory}/${name}" TARGET_DIRECTORY ${target} PROPERTIES
            SKIP_UNITY_BUILD_INCLUSION ON)
    endforeach()
    # GCC 12 crashes where a precompiled header was made at another level.
    foreach(name IN LISTS its_FAST)
        set_source_files_properties("${directory}/${name}" TARGET_DIRECTORY ${target} PROPERTIES
            SKIP_PRECOMPILE_HEADERS ON COMPILE_OPTIONS -O3)
    endforeach()
endfunction()

function(cpuft_compile_targets)
    if(NOT CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
        return()
    endif()
    cpuft_compile(llama -O1 TOGETHER FAST llama-grammar.cpp llama-sampler.cpp llama-vocab.cpp)
    cpuft_compile(llama-common -O1 TOGETHER FAST sampling.cpp ALONE arg.cpp json.cpp)
    cpuft_compile(server-context -O1 TOGETHER)
    cpuft_compile(llama-server-impl -O1 TOGETHER)
    cpuft_compile(llama-bench-impl -O1)
    # Images and sound, which cpuft has no use for, and HTTP.
    cpuft_compile(mtmd -O0 TOGETHER ALONE mtmd-helper.cpp mtmd-helper-gen.cpp)
    cpuft_compile(cpp-httplib -O0)
endfunction()
cmake_language(DEFER CALL cpuft_compile_targets)
