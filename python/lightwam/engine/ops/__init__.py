# SPDX-License-Identifier: Apache-2.0
"""The op table (engine-format.md, section 4): one row an op drives validation, counting, the interpreter and tests.

To add an op, add its row (operands, shape rule, FLOPs, reference) to the module of its kind here, and cases to
tests/python/helpers/op_cases.py. The guide docs/guides/add-an-op.md lists what the C++ runtime and GPUs need.

Symbols: R rows, S tokens, D width, K inner width, N output width, L context rows, E proprio rows, M slots, G groups.
"""

from __future__ import annotations

from lightwam.engine.ops import attention, elementwise, linear, maps, norms
from lightwam.engine.ops.spec import Call, Operands, OpSpec, Role

#: Op name -> definition: the closed set, in the order of csrc/engine/ops.def.
OPS: dict[str, OpSpec] = {
    spec.name: spec for module in (maps, linear, norms, attention, elementwise) for spec in module.SPECS
}
#: The ops that have an eight-bit form.
EIGHT_BIT_MATMULS = tuple(spec.name for spec in OPS.values() if spec.integers.get("weight") == "i8")

__all__ = ["EIGHT_BIT_MATMULS", "OPS", "Call", "OpSpec", "Operands", "Role"]
