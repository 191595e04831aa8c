# SPDX-License-Identifier: Apache-2.0
"""Choose an off-screen OpenGL library for MuJoCo before anything imports robosuite."""

from __future__ import annotations

import ctypes
import ctypes.util
import logging
import os

from lightwam.errors import SimulatorError

log = logging.getLogger(__name__)

_LIBRARIES = {"osmesa": ("OSMesa", "libOSMesa.so.8"), "egl": ("EGL", "libEGL.so.1")}
_HINT = "install libosmesa6, or libegl1 with libgl1-mesa-dri (apt-get install -y libosmesa6)"


def _loads(backend: str) -> bool:
    """True where the shared library behind MUJOCO_GL=`backend` opens on this machine."""
    short_name, soname = _LIBRARIES[backend]
    for name in (ctypes.util.find_library(short_name), soname):
        if name is None:
            continue
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False


def choose_renderer() -> str:
    """Set MUJOCO_GL to a headless backend that loads here: osmesa, else egl. Returns its name.

    A value that the user has set is kept if its library loads.
    MuJoCo may be imported already: robosuite makes contexts of its own. Raises SimulatorError where no backend loads.
    """
    chosen = os.environ.get("MUJOCO_GL", "").lower().strip()
    if chosen and chosen not in _LIBRARIES:
        raise SimulatorError(f"MUJOCO_GL={chosen!r} is not a headless backend: unset it, or set it to osmesa or egl")
    candidates = (chosen,) if chosen else tuple(_LIBRARIES)
    for backend in candidates:
        if _loads(backend):
            break
    else:
        raise SimulatorError(f"no off-screen OpenGL library for MuJoCo ({' or '.join(candidates)}) loads here: {_HINT}")
    platform = os.environ.get("PYOPENGL_PLATFORM") or backend
    if platform != backend:
        raise SimulatorError(f"PYOPENGL_PLATFORM={platform!r} contradicts MUJOCO_GL={backend!r}: unset it")
    os.environ["MUJOCO_GL"] = os.environ["PYOPENGL_PLATFORM"] = backend
    log.info("MuJoCo renders with %s", backend)
    return backend
