# `cmake --install` gives headers, both libraries, a package for find_package(pstmo_edge) and one for pkg-config.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set_target_properties(pstmo_edge PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR})
install(TARGETS pstmo_edge pstmo_edge_static EXPORT pstmo_edge)
install(FILES kernels/include/pstmo_edge.h kernels/include/pstmo_edge.hpp kernels/include/pstmo_edge_plan.h
              kernels/include/pstmo_edge_trt.hpp TYPE INCLUDE)

set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/pstmo_edge)
install(
  EXPORT pstmo_edge
  NAMESPACE pstmo_edge::
  FILE pstmo_edge-targets.cmake
  DESTINATION ${package_folder})
configure_package_config_file(cmake/pstmo_edge-config.cmake.in pstmo_edge-config.cmake
                              INSTALL_DESTINATION ${package_folder})
# While major is 0, a change of minor may change the ABI.
write_basic_package_version_file(pstmo_edge-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/pstmo_edge-config.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/pstmo_edge-config-version.cmake DESTINATION ${package_folder})

file(RELATIVE_PATH path_to_prefix ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
configure_file(cmake/pstmo_edge.pc.in pstmo_edge.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/pstmo_edge.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
