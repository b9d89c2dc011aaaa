"""Makes what services need before their first start, in a folder, and leaves alone what is there.

``tokens.json`` knows callers by the digests of their tokens, and each token is in a file of its own: the
owner's in ``owner.token``. With ``--certs`` there are a private authority and its certificates besides, as
``modelkeep certs dev`` makes them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import secrets
import sys
from pathlib import Path

from modelkeep.defaults import SERVICES
from modelkeep.devcerts import make_certificates
from modelkeep.private import write_private


def main(argv: list[str] | None = None) -> int:
    """Make what is missing; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--certs", action="store_true", help="make an authority and certificates, too")
    parser.add_argument("--host", action="append", default=[], help="another name in the certificates")
    parser.add_argument(
        "--token", action="append", default=[], choices=SERVICES, help="make a token for this service, too"
    )
    said = parser.parse_args(argv)
    folder: Path = said.folder
    if (folder / "tokens.json").exists():
        print(f"{folder} has all that it needs")
        return 0
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(folder.iterdir()):
        print(f"{folder} is not empty and has no tokens.json: name another, or remove it", file=sys.stderr)
        return 1
    if said.certs:
        make_certificates(folder, said.host)
    roles = {"owner": ["admin", "owner"], **{name: [name] for name in said.token}}
    entries = [{"name": name, "roles": of, "sha256": _new_token(folder, name)} for name, of in roles.items()]
    write_private(folder / "tokens.json", json.dumps({"tokens": entries}, indent=1) + "\n")
    return 0


def _new_token(folder: Path, name: str) -> str:
    token = secrets.token_urlsafe(32)
    write_private(folder / f"{name}.token", token + "\n")
    return hashlib.sha256(token.encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
