# SPDX-License-Identifier: Apache-2.0
"""Light-WAM policies: train in PyTorch, fold once into one engine file, run that file with no PyTorch."""
