"""What a search of a model's files yields, and where it begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelkeep.worker.manifest import Kind
from modelkeep_convert.checkpoints.parts import Part
from modelkeep_loader.domain.listing import Listing


@dataclass(slots=True)
class Found:
    """A component's files on disk, before they are identified.

    Attributes:
        library, class_name: What builds the module or object; empty for a state dict.
        config: Its configuration; None where the weights have to tell it; empty for what has none.
        files: Name in the listing, and where that leads.
        location: What to tell people: the model's folder, or its file.
        listing: The files of the model that they belong to.
        overrides: Entries of the configuration that the record says otherwise.
        kind: What it is to its worker.
        texts: Further files of an object, which no model brings along: name → contents.
        part: Which part of its file it is, if that holds a whole main model.
    """

    library: str
    class_name: str
    config: dict[str, Any] | None
    files: list[tuple[str, Path]]
    location: Path
    listing: Listing
    overrides: dict[str, Any] = field(default_factory=dict)
    kind: Kind = Kind.MODULE
    texts: Mapping[str, str] = field(default_factory=dict)
    part: Part | None = None


@dataclass(frozen=True, slots=True)
class Ground:
    """Where a model's files are looked for.

    Attributes:
        name: Path as a record names it; its last part is the name of a single file.
        place: Where that leads.
        listing: The files that belong to the model.
    """

    name: str
    place: Path
    listing: Listing
