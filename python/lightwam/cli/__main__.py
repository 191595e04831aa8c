# SPDX-License-Identifier: Apache-2.0
"""`python -m lightwam.cli` is the same as `lightwam`."""

import sys

from lightwam.cli import main

sys.exit(main())
