"""Exports: findings of runs as files and objects of other tools, and their networks as graphs."""

from wsolfast.export.coco import write_coco
from wsolfast.export.findings import Finding, Findings, read_findings
from wsolfast.export.graph import export_program, write_network, write_onnx, write_program
from wsolfast.export.masks import write_masks
from wsolfast.export.objects import to_fiftyone, to_supervision

__all__ = [
    "Finding",
    "Findings",
    "export_program",
    "read_findings",
    "to_fiftyone",
    "to_supervision",
    "write_coco",
    "write_masks",
    "write_network",
    "write_onnx",
    "write_program",
]
