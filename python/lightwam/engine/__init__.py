# SPDX-License-Identifier: Apache-2.0
"""What an engine file is (docs/reference/engine-format.md), read, written, verified and interpreted."""
