"""The gateway: an Envoy that speaks gRPC-Web and HTTP with JSON to browsers and scripts.

:func:`bootstrap` makes its configuration from the API's descriptors and from addresses. ``modelkeep up``
starts one by :func:`start`; ``python -P -m modelkeep.gateway`` writes the configuration of another one.
"""

from modelkeep.gateway._api import DESCRIPTOR_SET
from modelkeep.gateway._config import bootstrap
from modelkeep.gateway._pages import find_pages
from modelkeep.gateway._process import NoGatewayError, start
from modelkeep.gateway._settings import Gateway, GatewayError, ServerCertificate, UpstreamCertificate
from modelkeep.gateway._tls import secrets

__all__ = [
    "DESCRIPTOR_SET",
    "Gateway",
    "GatewayError",
    "NoGatewayError",
    "ServerCertificate",
    "UpstreamCertificate",
    "bootstrap",
    "find_pages",
    "secrets",
    "start",
]
