"""Where what a source is shown came from: for texts, which never show the credential itself. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class CredentialKind(StrEnum):
    """Who gave a credential; the values are shown."""

    NONE = ""
    #: With the request, for its own source alone.
    CALL = "call"
    #: In the address: a name and a password.
    ADDRESS = "address"
    #: In the settings of the service, by host.
    SETTING = "setting"
    #: In the environment, for the hub.
    ENVIRONMENT = "HF_TOKEN"
    #: In the hub's own file, for the hub.
    HUB_FILE = "hub_token_file"
    #: In the file that `modelkeep auth` keeps, by host.
    FILE = "file"

    @property
    def named(self) -> str:
        """The credential in a sentence."""
        return _NAMED[self]

    def another(self, host: str) -> str:
        """How to give another one; `host` is what it is kept under."""
        match self:
            case CredentialKind.FILE:
                return f"keep another one: modelkeep auth login {host}"
            case CredentialKind.SETTING:
                return "set another one in source_tokens"
            case CredentialKind.ENVIRONMENT | CredentialKind.HUB_FILE:
                return "log in at the hub anew, or give another one with the request"
            case _:
                return "give another one"


_NAMED: Final = {
    CredentialKind.NONE: "no access token",
    CredentialKind.CALL: "the access token of the request",
    CredentialKind.ADDRESS: "the name and the password in the address",
    CredentialKind.SETTING: "the access token that the setting source_tokens has for it",
    CredentialKind.ENVIRONMENT: "the access token in the variable HF_TOKEN of the service",
    CredentialKind.HUB_FILE: "the access token in the hub's own file (HF_HOME/token)",
    CredentialKind.FILE: "the access token that `modelkeep auth` keeps for it",
}
