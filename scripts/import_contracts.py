"""A contract for import-linter: modules chosen by name patterns must not reach others, directly or not.

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

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """The chains from a matching module to a forbidden one."""
        chains: list[tuple[str, ...]] = []
        for forbidden in set(self.forbidden) & graph.modules:
            for module in sorted(graph.find_downstream_modules(forbidden)):
                if _matches(module, self.modules) and not _matches(module, self.exempt or []):
                    chain = graph.find_shortest_chain(importer=module, imported=forbidden)
                    chains.append(chain or (module, forbidden))
        return ContractCheck(kept=not chains, metadata={"chains": chains})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """One line a chain."""
        for chain in check.metadata["chains"]:
            output.print_error(" -> ".join(chain), bold=False)


def _matches(module: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(module, pattern) for pattern in patterns)
