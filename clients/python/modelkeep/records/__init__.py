"""The original's methods of a record store. See methods.py."""

from __future__ import annotations

from modelkeep.records.methods import Order, RecordMethods, UpdatePreview, model_filter, read_picture

__all__ = ["Order", "RecordMethods", "UpdatePreview", "model_filter", "read_picture"]
