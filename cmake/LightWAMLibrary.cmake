# SPDX-License-Identifier: Apache-2.0
# The library for C and C++ programs, shared (target `lightwam`) or static (`lightwam_static`), and its package.
# lightwam::lightwam is the shared one where both are built.
include(GNUInstallDirs)

get_target_property(objects lightwam_cpu LIGHTWAM_LEVELS)
list(APPEND objects lightwam_runtime lightwam_engine lightwam_cpu lightwam_cuda)
list(TRANSFORM objects REPLACE "(.+)" "$<TARGET_OBJECTS:\\1>")

# add_lightwam(target SHARED|STATIC component)
function(add_lightwam target kind component)
  add_library(${target} ${kind} ${objects})
  set_target_properties(${target} PROPERTIES OUTPUT_NAME lightwam LINKER_LANGUAGE CXX)
  target_include_directories(${target} INTERFACE "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/csrc/include>"
                                                 "$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>")
  target_link_libraries(${target} PRIVATE Threads::Threads ${CMAKE_DL_LIBS})
  if(LIGHTWAM_INSTALL)
    install(TARGETS ${target} EXPORT lightwam-${component} COMPONENT library)
    install(EXPORT lightwam-${component} NAMESPACE lightwam:: DESTINATION ${package} COMPONENT library)
  endif()
endfunction()

set(package "${CMAKE_INSTALL_LIBDIR}/cmake/lightwam")
if(LIGHTWAM_BUILD_SHARED_LIBRARY OR LIGHTWAM_BUILD_TESTS)
  add_lightwam(lightwam SHARED shared)
  # Exports what the headers declare. Calls inside the library stay inside: two versions may be in one process.
  set(exports "${PROJECT_SOURCE_DIR}/cmake/lightwam.map")
  set_target_properties(lightwam PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION 0 LINK_DEPENDS "${exports}")
  target_link_options(lightwam PRIVATE "LINKER:--version-script=${exports}" "LINKER:-Bsymbolic-functions"
                                       "LINKER:--no-undefined")
  add_library(lightwam::lightwam ALIAS lightwam)
endif()
if(LIGHTWAM_BUILD_STATIC_LIBRARY)
  add_lightwam(lightwam_static STATIC static)
  # What a C++ compiler links by itself, for a program that a C compiler links.
  set(runtime ${CMAKE_CXX_IMPLICIT_LINK_LIBRARIES})
  list(FILTER runtime INCLUDE REGEX "^(std)?c\\+\\+(abi)?$|^m$")
  list(REMOVE_DUPLICATES runtime)
  target_link_libraries(lightwam_static INTERFACE "$<$<LINK_LANGUAGE:C>:${runtime}>")
  add_library(lightwam::lightwam_static ALIAS lightwam_static)
  if(NOT TARGET lightwam::lightwam)
    add_library(lightwam::lightwam ALIAS lightwam_static)
  endif()
endif()

if(LIGHTWAM_INSTALL AND (TARGET lightwam OR TARGET lightwam_static))
  include(CMakePackageConfigHelpers)
  set(built "${PROJECT_BINARY_DIR}/package")
  write_basic_package_version_file("${built}/lightwam-config-version.cmake" COMPATIBILITY SameMinorVersion)
  file(RELATIVE_PATH prefix_of_pc "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
  configure_file("${PROJECT_SOURCE_DIR}/cmake/lightwam.pc.in" "${built}/lightwam.pc" @ONLY)
  install(DIRECTORY "${PROJECT_SOURCE_DIR}/csrc/include/" DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT library)
  install(FILES "${PROJECT_SOURCE_DIR}/cmake/lightwam-config.cmake" "${built}/lightwam-config-version.cmake"
          DESTINATION ${package} COMPONENT library)
  install(FILES "${built}/lightwam.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig" COMPONENT library)
endif()
