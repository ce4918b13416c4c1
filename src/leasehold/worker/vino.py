"""The one door to OpenVINO: its telemetry is out of reach before the import.

Spec: docs/spec/engines.md, W-21.
"""

from __future__ import annotations

import sys

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # reports home; may be absent

import openvino as ov
from openvino import opset13 as ops
from openvino._offline_transformations import paged_attention_transformation as to_pages
from openvino.frontend import FrontEndManager

__all__ = ["Runtime", "ops", "ov", "to_pages"]


class Runtime:
    """OpenVINO with the libraries that it would otherwise open later, when there are no files."""

    def __init__(self) -> None:
        """Starts no thread."""
        self.core = ov.Core()
        self.core.get_property("CPU", "FULL_DEVICE_NAME")
        self.core.get_property("CPU", "RANGE_FOR_STREAMS")
        self.reader = FrontEndManager().load_by_framework("ir")
