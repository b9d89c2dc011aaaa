"""Who may call: a Principal for each call, and one table of the roles that each method takes."""

from .principal import (
    ADMIN,
    DOWNLOAD,
    INSTALL,
    LOADER,
    NOBODY,
    OPERATOR,
    OWNER,
    RECORD,
    ROLES,
    THE_OWNER,
    VIEWER,
    WORKER,
    Authenticator,
    Metadata,
    Principal,
    Transport,
)

__all__ = [
    "ADMIN",
    "DOWNLOAD",
    "INSTALL",
    "LOADER",
    "NOBODY",
    "OPERATOR",
    "OWNER",
    "RECORD",
    "ROLES",
    "THE_OWNER",
    "VIEWER",
    "WORKER",
    "Authenticator",
    "Metadata",
    "Principal",
    "Transport",
]
