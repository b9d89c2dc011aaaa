"""A hub that is a resolver: plans files of a web server under names, and counts how often it is asked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from modelkeep.exceptions import SourceNotFoundException, TokenRequiredException
from modelkeep_download.resolve.plans import Asked, Plan, PlanKind, PlannedFile
from support.httpserver import HttpServer, Resource

REVISION = "5d2f" * 10


class Shelf:
    """A `Resolver` of the names that were put on it.

    Args:
        web: Serves the files, at `/NAME/PATH`.
    """

    def __init__(self, web: HttpServer) -> None:
        self._web = web
        self._plans: dict[str, Plan] = {}
        self._tokens: dict[str, str] = {}
        #: What it was asked, in order.
        self.asked: list[Asked] = []

    def put(self, name: str, bodies: Mapping[str, bytes], *, token: str = "", folder: bool = True) -> Plan:
        """Serve files, and plan them under a name; with a token for nobody without it."""
        for path, body in bodies.items():
            gate = {"authorization": f"Bearer {token}"} if token else {}
            self._web.put(f"/{name}/{path}", Resource(body, **gate))  # type: ignore[arg-type]
        files = [
            PlannedFile(self._web.url(f"/{name}/{path}"), path, len(body), hashlib.sha256(body).hexdigest())
            for path, body in bodies.items()
        ]
        plan = Plan(PlanKind.HUGGING_FACE, name, name, files, is_folder=folder, revision=REVISION)
        self._tokens[name] = token
        return self.plan(name, plan)

    def plan(self, name: str, plan: Plan) -> Plan:
        """Answer with another plan."""
        self._plans[name] = plan
        return plan

    def takes(self, asked: Asked) -> bool:
        """See `Resolver`."""
        return self._name(asked) in self._plans or asked.source.startswith("gone/")

    async def resolve(self, asked: Asked) -> Plan:
        """See `Resolver`."""
        self.asked.append(asked)
        name = self._name(asked)
        if name not in self._plans:
            raise SourceNotFoundException(f"there is no {name}", metadata={"source": name})
        if asked.access_token != self._tokens.get(name, ""):
            raise TokenRequiredException(f"{name} wants a token", metadata={"host": "hub", "needs": ""})
        return replace(self._plans[name], variant=asked.variant)

    @staticmethod
    def _name(asked: Asked) -> str:
        """A page of it is at hub.test."""
        return asked.source.rpartition("hub.test/")[2].partition("?")[0]
