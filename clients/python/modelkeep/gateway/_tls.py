"""Certificates of the gateway: named in its configuration, or in files of their own.

Envoy reads certificates again, when they are replaced, only if a file of secrets (SDS) names them; each such
file has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from modelkeep.gateway._routes import Config
from modelkeep.gateway._settings import SERVICE, Gateway, ServerCertificate, UpstreamCertificate

_TYPE: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
#: Names of the secrets: what the gateway shows to callers and to services, and the authorities of both.
_SHOWN_TO_CALLERS, _CALLERS = "shown-to-callers", "authorities-of-callers"
_SHOWN_TO_SERVICES, _SERVICES = "shown-to-services", "authorities-of-services"


def secrets(gateway: Gateway) -> dict[str, Config]:
    """The files of the folder ``gateway.secrets_at``, by name; all of YAML is good for them, also JSON."""
    found: dict[str, Config] = {}
    if (tls := gateway.tls) is not None:
        found[_SHOWN_TO_CALLERS] = {"tls_certificate": _certificate(tls.cert_file, tls.key_file)}
        if tls.client_ca_file is not None:
            found[_CALLERS] = {"validation_context": _authorities(tls.client_ca_file)}
    if (upstream := gateway.upstream_tls) is not None:
        found[_SERVICES] = {"validation_context": _authorities(upstream.ca_file)}
        if upstream.cert_file is not None and upstream.key_file is not None:
            shown = _certificate(upstream.cert_file, upstream.key_file)
            found[_SHOWN_TO_SERVICES] = {"tls_certificate": shown}
    for value in found.values():
        for part in value.values():
            # It is turned as a whole, as Kubernetes does, or a file in it is replaced.
            named = part.get("certificate_chain") or part["trusted_ca"]
            part["watched_directory"] = {"path": str(Path(named["filename"]).parent)}
    return {
        f"{name}.yaml": {"resources": [{"@type": f"{_TYPE}.Secret", "name": name, **value}]}
        for name, value in found.items()
    }


def serving(gateway: Gateway, tls: ServerCertificate) -> Config:
    """How the gateway is called."""
    common: Config = {
        "alpn_protocols": ["h2", "http/1.1"],
        **_shown(gateway, _SHOWN_TO_CALLERS, tls.cert_file, tls.key_file),
    }
    if tls.client_ca_file is not None:
        common.update(_known(gateway, _CALLERS, tls.client_ca_file, {}))
    return {
        "@type": f"{_TYPE}.DownstreamTlsContext",
        "common_tls_context": common,
        "require_client_certificate": tls.client_ca_file is not None,
    }


def calling(gateway: Gateway, tls: UpstreamCertificate, service: str) -> Config:
    """How it calls a service."""
    names = [name.replace(SERVICE, service) for name in tls.names]
    expected = {
        "match_typed_subject_alt_names": [
            {"san_type": "URI" if "://" in name else "DNS", "matcher": {"exact": name}} for name in names
        ]
    }
    common: Config = {"alpn_protocols": ["h2"], **_known(gateway, _SERVICES, tls.ca_file, expected)}
    if tls.cert_file is not None and tls.key_file is not None:
        common.update(_shown(gateway, _SHOWN_TO_SERVICES, tls.cert_file, tls.key_file))
    return {"@type": f"{_TYPE}.UpstreamTlsContext", "common_tls_context": common}


def _shown(gateway: Gateway, secret: str, cert_file: Path, key_file: Path) -> Config:
    if gateway.secrets_at is None:
        return {"tls_certificates": [_certificate(cert_file, key_file)]}
    return {"tls_certificate_sds_secret_configs": [_named(gateway.secrets_at, secret)]}


def _known(gateway: Gateway, secret: str, ca_file: Path, expected: Mapping[str, object]) -> Config:
    if gateway.secrets_at is None:
        return {"validation_context": {**_authorities(ca_file), **expected}}
    return {
        "combined_validation_context": {
            "default_validation_context": dict(expected),
            "validation_context_sds_secret_config": _named(gateway.secrets_at, secret),
        }
    }


def _named(secrets_at: Path, secret: str) -> Config:
    file = secrets_at / f"{secret}.yaml"
    source = {"path_config_source": {"path": str(file)}, "resource_api_version": "V3"}
    return {"name": secret, "sds_config": source}


def _certificate(cert_file: Path, key_file: Path) -> Config:
    return {"certificate_chain": {"filename": str(cert_file)}, "private_key": {"filename": str(key_file)}}


def _authorities(ca_file: Path) -> Config:
    return {"trusted_ca": {"filename": str(ca_file)}}
