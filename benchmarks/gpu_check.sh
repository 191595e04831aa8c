#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything that can be checked and timed on this machine's GPU, in one command of at most 8 minutes (docs/guides/gpu.md).
#
#     benchmarks/gpu_check.sh [--out FOLDER] [--wheels FOLDER] [--engine FILE ...] [--seconds 480]
#
# Exit status: 0 all is well, 1 a step failed or disagreed, 2 there is no GPU to check.
set -euo pipefail
exec "${PYTHON:-python3}" "$(dirname "${BASH_SOURCE[0]}")/gpu_check.py" "$@"
