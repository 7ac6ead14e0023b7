# How every target of ours is compiled: C++17 without extensions, hidden symbols, warnings, sanitizers.
function(pstmo_edge_compile_as_ours target)
  target_compile_features(${target} PRIVATE cxx_std_17 c_std_11)
  set_target_properties(
    ${target}
    PROPERTIES C_EXTENSIONS OFF
               CXX_EXTENSIONS OFF
               C_VISIBILITY_PRESET hidden
               CXX_VISIBILITY_PRESET hidden
               VISIBILITY_INLINES_HIDDEN ON
               POSITION_INDEPENDENT_CODE ON)
  target_compile_options(
    ${target} PRIVATE -Wall -Wextra -Wpedantic -Wconversion -Wshadow -ffunction-sections -fdata-sections
                      $<$<CONFIG:Release>:-O3> $<$<BOOL:${PSTMO_EDGE_WERROR}>:-Werror>)
endfunction()

if(PSTMO_EDGE_SANITIZE)
  add_compile_options(-fsanitize=${PSTMO_EDGE_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all -g)
  add_link_options(-fsanitize=${PSTMO_EDGE_SANITIZE})
endif()
