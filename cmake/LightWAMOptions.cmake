# SPDX-License-Identifier: Apache-2.0
# Compiler settings shared by every target: C++20, Release by default, hidden symbols, warnings, sanitizers.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Release, RelWithDebInfo or Debug" FORCE)
endif()

add_compile_options(-Wall -Wextra)
if(LIGHTWAM_WARNINGS_AS_ERRORS)
  add_compile_options(-Werror)
endif()

if(LIGHTWAM_SANITIZE)
  if(LIGHTWAM_SANITIZE STREQUAL "thread")
    set(sanitizers -fsanitize=thread)
  elseif(LIGHTWAM_SANITIZE STREQUAL "address" OR LIGHTWAM_SANITIZE MATCHES "^(ON|TRUE|YES|1)$")
    set(sanitizers -fsanitize=address,undefined -fno-sanitize-recover=undefined)
  else()
    message(FATAL_ERROR "LIGHTWAM_SANITIZE is '${LIGHTWAM_SANITIZE}': give OFF, address or thread")
  endif()
  add_compile_options(${sanitizers} -fno-omit-frame-pointer)
  add_link_options(${sanitizers})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    add_compile_options(-Wno-restrict) # GCC 12 sees overlapping copies in instrumented std::string where there are none
  endif()
endif()
