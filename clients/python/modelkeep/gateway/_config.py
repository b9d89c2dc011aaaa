"""The configuration of an Envoy, as one value that JSON and YAML can hold."""

from __future__ import annotations

from typing import Any, Final

from modelkeep.gateway import _api
from modelkeep.gateway._routes import Config, cluster_name, virtual_hosts
from modelkeep.gateway._settings import Gateway, GatewayError
from modelkeep.gateway._tls import calling, serving

_TYPE: Final = "type.googleapis.com/envoy.extensions"
_CONNECTIONS: Final = "resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
#: Bytes of one message as JSON: one of gRPC may have 4 MiB, and base64 and names make more of it.
_MAX_JSON_BYTES: Final = 32 << 20
#: Bytes that are kept for one side that does not read.
_BUFFER_BYTES: Final = 1 << 20
#: Bytes of one file of the dashboard.
_MAX_PAGE_BYTES: Final = 4 << 20
#: Calls at once to one service. The services have limits of their own, which say who has too many.
_MAX_CALLS: Final = 20_000


def bootstrap(gateway: Gateway) -> Config:
    """The configuration with which Envoy is started (``envoy -c``)."""
    made: Config = {
        # Without names Envoy reads no file of secrets.
        "node": {"id": "modelkeep-gateway", "cluster": "modelkeep"},
        "static_resources": {
            "listeners": [_listener(gateway)],
            "clusters": [_cluster(gateway, name) for name in _api.services() if gateway.services.get(name)],
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": f"{_TYPE}.{_CONNECTIONS}",
                        "max_active_downstream_connections": gateway.max_connections,
                    },
                }
            ]
        },
    }
    # Routes name the methods of a service that may be sent twice in one expression: past Envoy's usual size.
    made["layered_runtime"] = {
        "layers": [
            {"name": "modelkeep", "static_layer": {"re2": {"max_program_size": {"error_level": 5000}}}},
        ]
    }
    if gateway.admin_socket is not None:
        made["admin"] = {"address": {"pipe": {"path": str(gateway.admin_socket), "mode": 0o600}}}
    return made


def _listener(gateway: Gateway) -> Config:
    chain: Config = {
        "filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": _manager(gateway)}
        ]
    }
    if gateway.tls is not None:
        chain["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": serving(gateway, gateway.tls),
        }
    return {
        "name": "modelkeep",
        "address": _address(gateway.host, gateway.port),
        # Two gateways at one port would each get some of the calls.
        "enable_reuse_port": False,
        "per_connection_buffer_limit_bytes": _BUFFER_BYTES,
        "filter_chains": [chain],
    }


def _manager(gateway: Gateway) -> Config:
    return {
        "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "modelkeep",
        "codec_type": "AUTO",
        # The address of the caller is what the connection says, and nobody's `x-envoy-…` headers count.
        "use_remote_address": True,
        "internal_address_config": {"unix_sockets": False},
        "preserve_external_request_id": True,
        "normalize_path": True,
        "stream_idle_timeout": f"{gateway.stream_idle_s:g}s",
        "request_headers_timeout": "10s",
        "common_http_protocol_options": {"idle_timeout": "3600s"},
        "http2_protocol_options": {
            "max_concurrent_streams": 1000,
            "initial_stream_window_size": _BUFFER_BYTES,
            "initial_connection_window_size": 4 * _BUFFER_BYTES,
        },
        "route_config": {
            "name": "modelkeep",
            "max_direct_response_body_size_bytes": _MAX_PAGE_BYTES,
            "virtual_hosts": virtual_hosts(gateway),
        },
        "http_filters": [
            _filter("grpc_web", "GrpcWeb"),
            _filter(
                "grpc_json_transcoder",
                "GrpcJsonTranscoder",
                proto_descriptor=str(gateway.descriptor_set),
                services=[*(service.full_name for service in _api.services().values()), _api.SERVER_SERVICE],
                # An error is a google.rpc.Status as JSON, with its reason and what helps.
                convert_grpc_status=True,
                print_options={"stream_newline_delimited": True},
                request_validation_options={"reject_unknown_query_parameters": True},
                query_param_unescape_plus=True,
                max_request_body_size=_MAX_JSON_BYTES,
                max_response_body_size=_MAX_JSON_BYTES,
            ),
            # After the transcoder: it adds nothing to an answer whose way is not one to a service yet.
            _filter("cors", "Cors"),
            _filter("router", "Router"),
        ],
    }


def _filter(name: str, kind: str, **options: Any) -> Config:
    typed = {"@type": f"{_TYPE}.filters.http.{name}.v3.{kind}", **options}
    return {"name": f"envoy.filters.http.{name}", "typed_config": typed}


def _cluster(gateway: Gateway, name: str) -> Config:
    made: Config = {
        "name": cluster_name(name),
        "type": "STRICT_DNS",
        "connect_timeout": "2s",
        "per_connection_buffer_limit_bytes": _BUFFER_BYTES,
        "load_assignment": {
            "cluster_name": cluster_name(name),
            "endpoints": [
                {
                    "lb_endpoints": [
                        {"endpoint": {"address": _split(address)}} for address in gateway.services[name]
                    ]
                }
            ],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPE}.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "upstream_connection_options": {
            "tcp_keepalive": {"keepalive_time": 30, "keepalive_interval": 10, "keepalive_probes": 3}
        },
        # A process that fails again and again is left out for a while, never the last half of them.
        "outlier_detection": {
            "consecutive_gateway_failure": 5,
            "enforcing_consecutive_gateway_failure": 100,
            "enforcing_consecutive_5xx": 0,
            "interval": "1s",
            "base_ejection_time": "2s",
            "max_ejection_percent": 50,
        },
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": _MAX_CALLS,
                    "max_pending_requests": _MAX_CALLS,
                    "max_requests": _MAX_CALLS,
                    "retry_budget": {"budget_percent": {"value": 25}, "min_retry_concurrency": 100},
                }
            ]
        },
    }
    if gateway.upstream_tls is not None:
        made["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": calling(gateway, gateway.upstream_tls, name),
        }
    return made


def _split(address: str) -> Config:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise GatewayError(f"{address!r} is no address of a service: write it as HOST:PORT")
    return _address(host, int(port))


def _address(host: str, port: int) -> Config:
    return {"socket_address": {"address": host.strip("[]"), "port_value": port}}
