"""What a model on disk is, from headers and configs only; no weight is read, no library is imported."""

from __future__ import annotations

from .matching.pipeline import pickle_in
from .probe import probe
from .readers.folder import lone_pickle
from .readers.headers import open_regular, read_header
from .readers.listing import list_files
from .result import Evidence, Hints, Match, NoMatch, ProbeResult, RuledOut, Strength

__all__ = [
    "Evidence",
    "Hints",
    "Match",
    "NoMatch",
    "ProbeResult",
    "RuledOut",
    "Strength",
    "list_files",
    "lone_pickle",
    "open_regular",
    "pickle_in",
    "probe",
    "read_header",
]
