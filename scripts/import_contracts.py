"""Contracts for import-linter: modules chosen by name patterns must not reach others, or not name them.

Its own contracts know whole packages only; `modelkeep_*.domain.*` needs patterns. Used in pyproject.toml.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class UnreachableContract(Contract):
    """No module of `modules`, save those of `exempt`, imports one of `forbidden`, also not indirectly.

    Options:
        modules: fnmatch patterns of full module names.
        forbidden: Names of modules or whole external packages.
        exempt: fnmatch patterns of modules that may (optional).
    """

    type_name = "unreachable"

    modules: Any = fields.ListField(subfield=fields.StringField())
    forbidden: Any = fields.ListField(subfield=fields.StringField())
    exempt: Any = fields.ListField(subfield=fields.StringField(), required=False)

    def importers(self, graph: ImportGraph, forbidden: str) -> set[str]:
        """The modules that import a forbidden one, as this contract sees it."""
        return graph.find_downstream_modules(forbidden)

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """The chains from a matching module to a forbidden one."""
        chains: list[tuple[str, ...]] = []
        for forbidden in set(self.forbidden) & graph.modules:
            for module in sorted(self.importers(graph, forbidden)):
                if _matches(module, self.modules) and not _matches(module, self.exempt or []):
                    chain = graph.find_shortest_chain(importer=module, imported=forbidden)
                    chains.append(chain or (module, forbidden))
        return ContractCheck(kept=not chains, metadata={"chains": chains})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """One line a chain."""
        for chain in check.metadata["chains"]:
            output.print_error(" -> ".join(chain), bold=False)


class HomesContract(UnreachableContract):
    """No module of `modules`, save those of `exempt`, imports one of `forbidden` itself."""

    type_name = "homes"

    def importers(self, graph: ImportGraph, forbidden: str) -> set[str]:
        """Those whose own text names it."""
        return graph.find_modules_that_directly_import(forbidden)


def _matches(module: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(module, pattern) for pattern in patterns)
