"""Records in one YAML file, which people may edit.

:class:`YamlFile` needs no event loop; the store of the service stands on it.
"""

from __future__ import annotations

from .file import ChangedMeanwhileError, YamlFile
from .problems import BrokenFileError, WrongFileError
from .store import YamlRecordStore

__all__ = ["BrokenFileError", "ChangedMeanwhileError", "WrongFileError", "YamlFile", "YamlRecordStore"]
