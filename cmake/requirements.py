# SPDX-License-Identifier: Apache-2.0
"""Print what `pip install '.[EXTRA,...]'` would install beside lightwam, one requirement a line.

    python cmake/requirements.py EXTRA ...

`make develop` installs these while the extension compiles.
"""

import sys
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10; pip brings a copy of its back-port there
    from pip._vendor import tomli as tomllib

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = [line for extra in sys.argv[1:] for line in project["optional-dependencies"][extra]]
for line in [*project["dependencies"], *extras]:
    print(line)
