"""What a person chose for a command besides its own arguments: which suite, and how to print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from modelkeep.defaults import ServiceName


class Format(StrEnum):
    """How an answer is written."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


class DataFormat(StrEnum):
    """How an answer that is no list is written for a program."""

    JSON = "json"
    YAML = "yaml"


@dataclass(frozen=True, slots=True)
class Options:
    """What was chosen; what was not is as here.

    Attributes:
        data_dir: The suite's data folder.
        addresses: Service to address.
        token_file: File with the token to show.
        ca_file: Authorities of the services, which are called by TLS then.
        cert_file: Certificate to show.
        key_file: Its private key.
        context: Name of a context of the configuration file.
        colour: When to write in colour.
        format: How to write the answer.
        quiet: Keys alone.
        whole: Cut nothing off.
        filters: What rows must be like.
        limit: How many rows at most; 0: all.
        sort: Column to sort by.
        reverse: Turn the order round.
        watch: Show the list again whenever something changes.
    """

    data_dir: Path | None = None
    addresses: Mapping[ServiceName, str] = field(default_factory=dict)
    token_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    context: str | None = None
    colour: str = "auto"
    format: Format = Format.TABLE
    quiet: bool = False
    whole: bool = False
    filters: Sequence[str] = ()
    limit: int = 0
    sort: str | None = None
    reverse: bool = False
    watch: bool = False

    @property
    def as_data(self) -> bool:
        """Whether the answer is for a program."""
        return self.format in (Format.JSON, Format.YAML)


_chosen = Options()


def chosen() -> Options:
    """What was chosen for the command that runs."""
    return _chosen


def forget() -> None:
    """Nothing is chosen; a new command begins."""
    global _chosen
    _chosen = Options()


def choose(**values: Any) -> None:
    """Choose what is given and not None; addresses are added to those there are."""
    global _chosen
    given = {name: value for name, value in values.items() if value is not None}
    if "addresses" in given:
        given["addresses"] = {**_chosen.addresses, **given["addresses"]}
    _chosen = replace(_chosen, **given)
