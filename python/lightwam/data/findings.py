# SPDX-License-Identifier: Apache-2.0
"""What a check of a data set finds: one line each, and whether training would be wrong."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

from lightwam.errors import DataError, escaped

Severity = Literal["error", "warning", "note"]
_logger = logging.getLogger("lightwam.data")


@dataclass(frozen=True)
class Finding:
    """One thing about a data set."""

    severity: Severity
    """error: training would be wrong. warning: it probably is not what you want. note: good to know."""
    kind: str
    """What was checked, in one or two words."""
    where: str
    """The data set, and the episode, camera or dimension."""
    what: str
    """What is there, with its value."""
    remedy: str
    """What to do about it."""

    def __str__(self) -> str:
        return escaped(f"{self.severity}: {self.where}: {self.what}" + (f": {self.remedy}" if self.remedy else ""))

    def document(self) -> dict[str, str]:
        """JSON-ready."""
        return asdict(self)


def from_error(error: Exception, where: str, kind: str = "reading") -> Finding:
    """A reader's error as a finding: its message ends with the remedy."""
    text = " ".join(str(error).split())
    cut = max(text.rfind("; "), text.rfind(": "))
    what, remedy = (text[:cut], text[cut + 2 :]) if cut > 0 else (text, "")
    return Finding("error", kind, where, what.removeprefix(f"data set {where}").lstrip(": "), remedy)


def refuse(findings: Iterable[Finding]) -> None:
    """Log warnings (`lightwam.data`); raise `DataError` with the first error, and how many more there are."""
    findings = list(findings)
    for finding in findings:
        if finding.severity == "warning":
            _logger.warning("%s: %s: %s", finding.where, finding.what, finding.remedy)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        first = errors[0]
        more = f" ({len(errors) - 1} more: `lightwam data check` lists them)" if len(errors) > 1 else ""
        raise DataError(f"data set {first.where}: {first.what}: {first.remedy}{more}")
