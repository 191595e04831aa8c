# SPDX-License-Identifier: Apache-2.0
"""Simulators, the scripted expert, recording and closed-loop evaluation."""
