# SPDX-License-Identifier: Apache-2.0
"""An engine -> ONNX models for other runtimes (docs/guides/onnx.md)."""
