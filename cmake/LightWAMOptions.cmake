# SPDX-License-Identifier: Apache-2.0
# What every target of lightwam is compiled with. All of it holds in this folder only: a project that adds lightwam as a
# subfolder keeps its own settings.

# A target that cannot run lightwam gets one line here instead of pages of compiler errors.
if(NOT CMAKE_SYSTEM_NAME STREQUAL "Linux")
  message(FATAL_ERROR "lightwam runs on Linux; this build is for ${CMAKE_SYSTEM_NAME}")
endif()
if(NOT CMAKE_SIZEOF_VOID_P EQUAL 8)
  message(FATAL_ERROR "lightwam needs a 64-bit target (x86-64 or ARM64), and this compiler makes "
                      "${CMAKE_SIZEOF_VOID_P}-byte pointers; remove -m32 or the like from the compiler flags")
endif()
if(CMAKE_CXX_BYTE_ORDER STREQUAL "BIG_ENDIAN")
  message(FATAL_ERROR "lightwam needs a little-endian target; engine files are little-endian")
endif()
if((CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 11)
   OR (CMAKE_CXX_COMPILER_ID STREQUAL "Clang" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 14))
  message(FATAL_ERROR "lightwam needs GCC 11, Clang 14 or newer; this is ${CMAKE_CXX_COMPILER_ID} "
                      "${CMAKE_CXX_COMPILER_VERSION} (choose another with -DCMAKE_CXX_COMPILER=g++-12)")
elseif(NOT CMAKE_CXX_COMPILER_ID MATCHES "^(GNU|Clang)$")
  message(WARNING "lightwam was built with GCC and Clang only; ${CMAKE_CXX_COMPILER_ID} was not tried")
endif()

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_UNITY_BUILD OFF) # files of one room have functions of the same name
if(PROJECT_IS_TOP_LEVEL)
  set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
  if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
    set(CMAKE_BUILD_TYPE Release CACHE STRING "Release, RelWithDebInfo or Debug" FORCE)
  endif()
  add_compile_options(-Wall -Wextra)
else()
  set(CMAKE_COMPILE_WARNING_AS_ERROR OFF)
  add_compile_options(-w) # warnings are for those who work on lightwam
endif()
if(LIGHTWAM_WARNINGS_AS_ERRORS)
  add_compile_options(-Werror)
endif()

# Flags of the environment or of a parent project that would change what is computed are taken out, and said. GCC also
# links start-up code for them that turns denormal numbers off in the whole process.
set(fast_math -Ofast -ffast-math -funsafe-math-optimizations -fassociative-math -freciprocal-math -ffinite-math-only
              -fno-signed-zeros -ffp-model=fast -mdaz-ftz)
set(removed "")
foreach(variable CMAKE_CXX_FLAGS CMAKE_CXX_FLAGS_DEBUG CMAKE_CXX_FLAGS_RELEASE CMAKE_CXX_FLAGS_RELWITHDEBINFO
                 CMAKE_CXX_FLAGS_MINSIZEREL)
  separate_arguments(flags UNIX_COMMAND "${${variable}}")
  foreach(flag IN LISTS fast_math)
    if(flag IN_LIST flags)
      list(APPEND removed "${flag}")
      string(REPLACE "-Ofast" "-O3" with "${flag}")
      if(with STREQUAL flag)
        set(with "")
      endif()
      string(REGEX REPLACE "(^| )${flag}( |$)" "\\1${with}\\2" ${variable} "${${variable}}")
    endif()
  endforeach()
endforeach()
if(removed)
  list(REMOVE_DUPLICATES removed)
  list(JOIN removed " " removed)
  message(WARNING "lightwam is compiled without ${removed}, which would change the actions that a policy computes; "
                  "set it on your own targets only")
endif()

# Relied on, whatever the flags before these say. GCC's -fno-fast-math leaves the parts that were set by name; in Clang
# it is enough, and -fno-unsafe-math-optimizations would forbid the contraction that csrc/cpu wants (14 to 16). An empty
# build type (a parent's) would mean no optimisation.
add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fexceptions> $<$<COMPILE_LANGUAGE:CXX>:-frtti> -fno-fast-math
                    $<$<CONFIG:>:-O2>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  add_compile_options(-fno-unsafe-math-optimizations -fno-finite-math-only -fno-associative-math -fno-reciprocal-math
                      -fsigned-zeros)
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
