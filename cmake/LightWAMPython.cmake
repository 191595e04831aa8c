# SPDX-License-Identifier: Apache-2.0
# Decides whether the Python extension is built, and sets `lightwam_python`. LIGHTWAM_BUILD_PYTHON=AUTO builds it in
# `pip install`, and where Python's headers and pybind11 are found; a C or C++ robot needs neither. ON requires both.

set(lightwam_python ${LIGHTWAM_BUILD_PYTHON})
if(LIGHTWAM_BUILD_PYTHON STREQUAL "AUTO")
  if(SKBUILD)
    set(lightwam_python ON)
  else()
    set(lightwam_python ${PROJECT_IS_TOP_LEVEL})
  endif()
endif()
if(NOT lightwam_python)
  return()
endif()

set(without "")
set(ask_for_gil "import sysconfig; print(sysconfig.get_config_vars().get('Py_GIL_DISABLED') or 0)")
find_package(Python 3.10 QUIET COMPONENTS Interpreter)
if(Python_FOUND)
  execute_process(COMMAND "${Python_EXECUTABLE}" -c "${ask_for_gil}" OUTPUT_VARIABLE free_threaded ERROR_QUIET)
  find_package(Python 3.10 QUIET COMPONENTS Interpreter Development.Module)
  if(NOT pybind11_DIR)
    execute_process(COMMAND "${Python_EXECUTABLE}" -m pybind11 --cmakedir
                    OUTPUT_VARIABLE pybind11_DIR OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
endif()
if(free_threaded MATCHES 1)
  string(CONCAT without "${Python_EXECUTABLE} is free-threaded Python, which lightwam does not support yet (take "
                        "python3.13, not python3.13t)")
elseif(NOT Python_FOUND)
  set(without "Python 3.10 or newer with its headers was not found (python3-dev; -DPython_EXECUTABLE=... chooses one)")
else()
  set(PYBIND11_FINDPYTHON ON)
  find_package(pybind11 3.0 CONFIG QUIET)
  if(NOT pybind11_FOUND)
    set(without "pybind11 3.0 or newer was not found for ${Python_EXECUTABLE} (pip install pybind11)")
  endif()
endif()

if(without AND LIGHTWAM_BUILD_PYTHON STREQUAL "AUTO" AND NOT SKBUILD)
  set(lightwam_python OFF)
  message(STATUS "lightwam: the Python extension is not built: ${without}")
elseif(without)
  message(FATAL_ERROR "lightwam: the Python extension cannot be built: ${without}; "
                      "-DLIGHTWAM_BUILD_PYTHON=OFF builds without it")
endif()
