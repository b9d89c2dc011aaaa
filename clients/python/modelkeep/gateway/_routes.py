"""Which request goes where. Routes are tried in order, after a request over HTTP has become one of gRPC."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TypeAlias

from modelkeep.defaults import SERVICES
from modelkeep.gateway import _api
from modelkeep.gateway._pages import page_routes
from modelkeep.gateway._settings import Gateway, GatewayError

Config: TypeAlias = dict[str, Any]

_CORS = "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy"
#: What a page of another origin may send, and see of an answer.
_SENT = (
    "authorization, content-type, grpc-timeout, x-grpc-web, x-request-id, x-user-agent, "
    "connect-protocol-version, connect-timeout-ms"
)
_SEEN = "grpc-status, grpc-message, grpc-status-details-bin, x-request-id"
_HEALTH = "grpc.health.v1.Health"
#: Set by the transcoder. A caller who sets it himself chooses which service tells about itself, no more.
_ASKED_PATH = "x-envoy-original-path"
#: What reaches a service is gRPC: it ends the stream of anything else, which would look like its failure.
_GRPC: Config = {"name": "content-type", "string_match": {"prefix": "application/grpc"}}


def cluster_name(service: str) -> str:
    """Envoy's name for the processes of a service."""
    return f"modelkeep-{service}"


def virtual_hosts(gateway: Gateway) -> list[Config]:
    """The hosts that are answered for, and one that refuses the rest."""
    ours: Config = {"name": "modelkeep", "domains": _domains(gateway), "routes": list(_routes(gateway))}
    if gateway.origins:
        ours["typed_per_filter_config"] = {
            "envoy.filters.http.cors": {
                "@type": _CORS,
                "allow_origin_string_match": [{"exact": origin} for origin in gateway.origins],
                "allow_methods": "GET, POST, PUT, PATCH, DELETE",
                "allow_headers": _SENT,
                "expose_headers": _SEEN,
                "max_age": "600",
            }
        }
    if gateway.names is None:
        return [ours]
    asked = " or ".join(_domains(gateway))
    refusal = f"This gateway answers for {asked} only. Ask it by that name, or have it told this one."
    return [ours, {"name": "others", "domains": ["*"], "routes": [_answer({"prefix": "/"}, 421, refusal)]}]


def _domains(gateway: Gateway) -> list[str]:
    return ["*"] if gateway.names is None else list(gateway.hosts)


def _routes(gateway: Gateway) -> Iterable[Config]:
    yield from _foreign_pages(gateway)
    yield from _preflights(gateway)
    if gateway.pages is not None:
        yield from page_routes(gateway.pages, gateway.pages_at or gateway.pages)
    yield from _denied(gateway)
    for name in SERVICES:
        yield from _service_routes(gateway, name)
    yield _answer(
        {"prefix": "/"},
        404,
        "Nothing is served here. Paths of the API begin with /v1/ (proto/http.yaml lists them); by gRPC-Web, "
        "health and GetServerInfo of a service are asked at /record/, /download/, /install/ and /loader/.",
    )


def _foreign_pages(gateway: Gateway) -> Iterable[Config]:
    """What a browser sends for a page of somebody else.

    Without it such a page could post where no token is wanted (`--insecure`, or a certificate of the
    browser's): a form asks for no permission first. A picture or a script is got without telling an origin:
    there only ``sec-fetch-…`` tells, of browsers that send it. Whoever follows a link may come.
    """
    origin: Config = {"name": "origin", "present_match": True}
    known = _one_of("origin", [*gateway.own_origins, *gateway.origins])
    refusal = "Pages of this origin may not call this gateway. Name the origin to it if they shall."
    yield _answer({"prefix": "/", "headers": [origin, {**known, "invert_match": True}]}, 403, refusal)
    embedded = [
        {"name": "origin", "present_match": False},
        _one_of("sec-fetch-site", ["cross-site", "same-site"]),
        {**_one_of("sec-fetch-mode", ["navigate"]), "invert_match": True},
    ]
    yield _answer({"prefix": "/", "headers": embedded}, 403, refusal)


def _preflights(gateway: Gateway) -> Iterable[Config]:
    """What a browser asks first for a page of an origin that may call.

    Envoy answers that itself, and only where a request would go to a service. It lets through what is of no
    such origin: that must not come here.
    """
    reached = [name for name in SERVICES if gateway.services.get(name)]
    if gateway.origins and reached:
        headers = [
            {"name": ":method", "string_match": {"exact": "OPTIONS"}},
            {"name": "access-control-request-method", "present_match": True},
            _one_of("origin", gateway.origins),
        ]
        route = {"cluster": cluster_name(reached[0])}
        yield {"match": {"prefix": "/", "headers": headers}, "route": route}


def _denied(gateway: Gateway) -> Iterable[Config]:
    if strange := sorted(set(gateway.denied) - _api.method_names()):
        raise GatewayError(
            f"There is no method {', '.join(strange)}: write it as modelkeep.record.v1.RecordService/GetModel"
        )
    for method in gateway.denied:
        path = f"(/({'|'.join(SERVICES)}))?/{re.escape(method)}"
        yield _answer(
            {"safe_regex": {"regex": path}},
            403,
            f"{method} may not be called through this gateway. Call the service itself, or ask its operator.",
        )


def _service_routes(gateway: Gateway, name: str) -> Iterable[Config]:
    service, shared = _api.services()[name], _api.server_service()
    info: Config = {"prefix": f"/{shared.full_name}/"}
    asked = {"name": _ASKED_PATH, "string_match": {"safe_regex": {"regex": rf"/v1/servers/{name}(\?.*)?"}}}
    prefixed = [f"/{name}/{shared.full_name}/", f"/{name}/{_HEALTH}/"]
    if not gateway.services.get(name):
        absent = f"There is no {name} service behind this gateway. Start one, and name its address to it."
        for match in (
            {**info, "headers": [asked]},
            *({"prefix": prefix} for prefix in (*prefixed, f"/{service.full_name}/")),
        ):
            yield _answer(match, 503, absent)
        return
    yield _forward(gateway, name, {**info, "headers": [asked]})
    for prefix in prefixed:
        rewritten = prefix.removeprefix(f"/{name}")
        yield _forward(gateway, name, {"prefix": prefix}, prefix_rewrite=rewritten)
    methods = "|".join(service.repeatable)
    regex = f"/{re.escape(service.full_name)}/({methods})"
    yield _forward(gateway, name, {"safe_regex": {"regex": regex}}, **_retries(gateway))
    yield _forward(gateway, name, {"prefix": f"/{service.full_name}/"})


def _forward(gateway: Gateway, name: str, match: Config, **action: object) -> Config:
    route: Config = {
        "cluster": cluster_name(name),
        # A watch ends when one side wants it to, not after Envoy's 15 s.
        "timeout": "0s",
        "idle_timeout": f"{gateway.stream_idle_s:g}s",
        **action,
    }
    return {"match": {**match, "headers": [_GRPC, *match.get("headers", ())]}, "route": route}


def _retries(gateway: Gateway) -> Config:
    """For calls that may be sent twice."""
    if not gateway.retries:
        return {}
    predicate = "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    policy: Config = {
        # A process that ends cancels what it has not answered by then.
        "retry_on": "connect-failure,refused-stream,reset,unavailable,cancelled",
        "num_retries": gateway.retries,
        "retry_back_off": {"base_interval": "0.1s", "max_interval": "2s"},
        # Where there are several, another one.
        "retry_host_predicate": [
            {"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {"@type": predicate}}
        ],
        "host_selection_retry_max_attempts": 3,
    }
    return {"retry_policy": policy}


def _answer(match: Config, status: int, text: str) -> Config:
    """Answer from here; Envoy tells it in gRPC's form to who calls by gRPC."""
    return {"match": match, "direct_response": {"status": status, "body": {"inline_string": text}}}


def _one_of(header: str, values: Iterable[str]) -> Config:
    """A header that is there, and is one of these values."""
    regex = "|".join(map(re.escape, values)) or "-"
    return {"name": header, "string_match": {"safe_regex": {"regex": regex}}}
