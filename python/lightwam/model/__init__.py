# SPDX-License-Identifier: Apache-2.0
"""The Light-WAM networks in PyTorch."""
