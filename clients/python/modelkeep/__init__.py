"""modelkeep: services that look after machine-learning models through their whole life.

The package a client needs: generated stubs at ``modelkeep.<service>.v1``, the pydantic configs
(:mod:`modelkeep.configs`), the enums (:mod:`modelkeep.taxonomy`), the exceptions
(:mod:`modelkeep.exceptions`), the client (:mod:`modelkeep.client`), the part that runs in a worker
process (:mod:`modelkeep.worker`, the only one that needs torch) and the command line
(:mod:`modelkeep.cli`).
"""

from __future__ import annotations

__version__ = "0.1.0"
