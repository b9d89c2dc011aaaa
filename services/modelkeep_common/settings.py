"""Settings of a service: flags, then environment, then a YAML file, then the defaults.

A service subclasses :class:`ServiceSettings` in its ``config.py``::

    class RecordSettings(ServiceSettings):
        service: ClassVar[str] = "record"
        port: int = Field(50051, ge=0, le=65535, description="TCP port; 0 takes a free one.")

``service`` gives the prefix of the environment (``MODELKEEP_RECORD_PORT``), the section of the YAML
file (``record: {port: 1}``; top-level keys count too) and the service's own folder below
``data_dir``. Every field's description is its ``--help`` text. A variable with the prefix that names
no field is an error, so that a typing mistake cannot silently leave a default in force.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeAlias, TypeVar, get_origin

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo

from modelkeep import yamltext
from modelkeep.defaults import DATA_DIR, EXIT_CONFIG, EXIT_FAILED, EXIT_OK, MODELS, SERVICES
from modelkeep.reserve import DEFAULT_BYTES

from . import modes
from .limits import StoreLimits
from .readiness import why_not_ready
from .urls import is_secret_name

S = TypeVar("S", bound="ServiceSettings")

#: Those of public keys: with a shared secret, whoever can check a token could make one.
JwtAlgorithm: TypeAlias = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]


class ServiceSettings(BaseModel):
    """What every service can be told. Frozen: a running service never changes its mind."""

    service: ClassVar[str] = "service"
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    host: str = Field(
        "127.0.0.1", description="Address to listen on; one that is not loopback needs --insecure."
    )
    port: int = Field(0, ge=0, le=65535, description="TCP port; 0 takes a free one.")
    unix_socket: Path | None = Field(None, description="Also listen on this UNIX socket (at most 107 bytes).")
    data_dir: Path = Field(DATA_DIR, description="The suite's data folder.")
    models_dir: Path | None = Field(
        None,
        description="The suite's folder of installed models, the same for all its services; "
        "<data-dir>/models when unset.",
    )
    base_dir: Path | None = Field(
        None, description="Folder that relative paths in the settings start from; the current one when unset."
    )
    token_file: Path | None = Field(
        None, description="JSON file of the tokens that callers show, and of their roles; mode 0600."
    )
    peer_token_file: Path | None = Field(
        None, description="File with the token that this service shows to the services it calls."
    )
    anonymous: Literal["none", "viewer"] = Field(
        "none", description="What callers may do who do not say who they are, where others have to."
    )
    insecure: bool = Field(
        False,
        description="Allow plaintext beyond loopback; without anything to know callers by, let every one do "
        "everything.",
    )
    tls_cert_file: Path | None = Field(
        None,
        description="PEM file of this service's certificate, then of those between it and its authority: "
        "TCP is TLS then. Read again when it changes, as all files of TLS and JWT are.",
    )
    tls_key_file: Path | None = Field(
        None, description="PEM file of the private key of tls_cert_file, without a passphrase; mode 0600."
    )
    tls_client_ca_file: Path | None = Field(
        None,
        description="PEM file of the authorities of callers: whoever calls over TCP must then show a "
        "certificate of theirs.",
    )
    tls_callers_file: Path | None = Field(
        None, description="JSON file that says whose the callers' certificates are, and their roles."
    )
    peer_ca_file: Path | None = Field(
        None,
        description="PEM file of the authorities of the services that this one calls: it calls them by TLS "
        "then, over TCP, and shows tls_cert_file.",
    )
    jwt_jwks_file: Path | None = Field(
        None, description="JSON file of the public keys (JWKS) of who issues JWTs that callers may show."
    )
    jwt_issuer: str = Field("", description="Who must have issued a JWT (its claim iss).")
    jwt_audience: str = Field("", description="For whom a JWT must be (its claim aud).")
    jwt_algorithms: tuple[JwtAlgorithm, ...] = Field(
        ("RS256", "ES256"), min_length=1, description="Algorithms that JWTs may be signed with."
    )
    jwt_skew_s: float = Field(
        30, ge=0, le=600, description="Seconds by which the clock of who issues JWTs may differ."
    )
    jwt_roles_claim: str = Field(
        "roles",
        min_length=1,
        description="Claim of a JWT with its roles, as a list or with blanks between them; a path by dots.",
    )
    jwt_denied_file: Path | None = Field(
        None, description="JSON file of the JWTs, or whose, are taken no longer though they have not expired."
    )
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="TCP port where /livez and /readyz answer over HTTP, and say nothing else; 0 takes a "
        "free one; none when unset.",
    )
    metrics_host: str | None = Field(None, description="Address of metrics_port; that of host when unset.")
    reflection: bool = Field(True, description="Serve gRPC reflection (v1 and v1alpha).")
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="Lowest level logged.")
    log_file: Path | None = Field(None, description="Write JSON log lines here; standard error when unset.")
    log_file_bytes: int = Field(
        64 << 20, ge=0, description="Size at which log_file is put aside as ….1 and begun anew; 0 never."
    )
    drain_delay_s: float = Field(
        0, ge=0, description="Seconds between NOT_SERVING and the end of the streams."
    )
    drain_grace_s: float = Field(10, ge=0, description="Seconds that calls under way get to finish.")
    drain_watchdog_s: float = Field(
        30, gt=0, description="Seconds after drain_delay_s at which a hanging drain is cut off."
    )
    watchdog_s: float = Field(
        30, ge=0, description="Seconds without an answer after which the process ends itself; 0 never."
    )
    reserve_bytes: int = Field(
        DEFAULT_BYTES, ge=0, description="Disk space kept so that a full disk can be cleared; 0 keeps none."
    )
    max_reads: int = Field(2000, ge=1, description="Unary calls at once that only look.")
    max_writes: int = Field(2000, ge=1, description="Unary calls at once that may change something.")
    max_watches: int = Field(8000, ge=1, description="Streams and long polls at once that only look.")
    max_holds: int = Field(4096, ge=1, description="Streams at once that keep something for the caller.")
    max_health: int = Field(1000, ge=1, description="Questions about the health at once.")
    max_connections: int = Field(
        4096, ge=1, description="Connections at once, over TCP and over the UNIX socket each."
    )
    max_connection_streams: int = Field(1000, ge=1, description="Calls at once on one connection.")
    principal_share: float = Field(
        0.5, gt=0, le=1, description="Part of each of these bounds, but health's, that one caller may take."
    )
    max_unary_s: float = Field(300, gt=0, description="Deadline in seconds of a unary call that states none.")

    history_bytes: int = Field(
        64 << 20,
        ge=4 << 20,
        description="Bytes of changes that are kept for watches that come back; the oldest go first.",
    )
    kept_answers_bytes: int = Field(
        32 << 20, ge=4 << 20, description="Bytes of answers that are kept for repeated request ids."
    )

    watch_queue_bytes: int = Field(
        1 << 20, ge=64 << 10, description="Bytes of changes that wait for one watcher to read them."
    )
    watch_queues_bytes: int = Field(
        256 << 20, ge=1 << 20, description="Bytes that wait for all watchers together."
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        """TLS and JWT are there with all that they need, or not at all."""
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file go together: set both")
        needed = {
            "tls_client_ca_file": "tls_cert_file",
            "tls_callers_file": "tls_client_ca_file",
            "jwt_denied_file": "jwt_jwks_file",
        }
        for name, needs in needed.items():
            if getattr(self, name) is not None and getattr(self, needs) is None:
                raise ValueError(f"{name} needs {needs}: set that, too")
        jwt = {name: getattr(self, name) for name in ("jwt_jwks_file", "jwt_issuer", "jwt_audience")}
        if any(jwt.values()) and not all(jwt.values()):
            missing = " and ".join(name for name, value in jwt.items() if not value)
            raise ValueError(f"JWTs need {missing}, too: a token of anybody, or for anybody, is no proof")
        return self

    @property
    def store_limits(self) -> StoreLimits:
        """What the service's database may keep."""
        return StoreLimits(
            self.history_bytes, self.kept_answers_bytes, self.watch_queue_bytes, self.watch_queues_bytes
        )

    @property
    def models(self) -> Path:
        """The folder of installed models in force, absolute and without links."""
        return Path(self.models_dir or self.data_dir / MODELS).expanduser().resolve()

    @property
    def service_dir(self) -> Path:
        """The folder that this service alone writes: ``<data_dir>/<service>``."""
        return self.data_dir / self.service

    @property
    def database(self) -> Path:
        """The service's database file: ``<data_dir>/<service>/<service>.db``."""
        return self.service_dir / f"{self.service}.db"

    @property
    def umask(self) -> int:
        """The process's umask; see modes.py."""
        return modes.PRIVATE

    @classmethod
    def env_prefix(cls) -> str:
        """The prefix of this service's environment variables."""
        return f"MODELKEEP_{cls.service.upper()}_"

    def redacted(self) -> dict[str, Any]:
        """The settings as plain values, secrets hidden; safe to log."""
        plain = self.model_dump(mode="json")
        return {name: _redact(name, type(self).model_fields[name], value) for name, value in plain.items()}

    @classmethod
    def for_test(cls, data_dir: Path, **values: Any) -> Self:
        """Settings for a server inside a test process: a free port, no environment or tokens, quick drain."""
        merged: dict[str, Any] = {
            "data_dir": data_dir,
            "port": 0,
            "drain_grace_s": 1.0,
            "insecure": True,
            **values,
        }
        return cls(**merged)


class _BadSettings(Exception):
    pass


def load_settings(cls: type[S], argv: list[str] | None = None) -> S:
    """Read the settings of ``cls``; with a bad one, print what is wrong and exit 78.

    Args:
        cls: The service's settings class.
        argv: Command line without the program's name; None reads ``sys.argv``.
    """
    try:
        flags, options = _parse_flags(cls, sys.argv[1:] if argv is None else argv)
        settings = _build(cls, flags, options.config)
    except _BadSettings as error:
        print(f"modelkeep {cls.service}: {error}", file=sys.stderr)
        raise SystemExit(EXIT_CONFIG) from None
    if options.print_config:
        print(json.dumps(settings.redacted(), indent=2))
        raise SystemExit(0)
    if options.check_config:
        print(f"modelkeep {cls.service}: the configuration is good")
        raise SystemExit(0)
    if options.health:
        raise SystemExit(_tell_health(settings))
    return settings


def _tell_health(settings: ServiceSettings) -> int:
    """Whether the service that runs with these settings is ready, as an exit code."""
    if not settings.metrics_port:
        why, code = "--health asks at metrics_port: set it, for the service too", EXIT_CONFIG
    else:
        why = why_not_ready(settings.metrics_host or settings.host, settings.metrics_port)
        code = EXIT_FAILED if why else EXIT_OK
    print(f"modelkeep {settings.service}: {f'not ready: {why}' if why else 'ready'}")
    return code


def _build(cls: type[S], flags: Mapping[str, Any], config: str | None) -> S:
    environment, env_config = _read_environment(cls, os.environ)
    path = config or env_config
    base = flags.get("base_dir") or environment.get("base_dir")
    if path and base:
        path = os.path.join(base, os.path.expanduser(path))
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    file_values = _read_yaml(cls, Path(path)) if path else {}
    prefix = cls.env_prefix()
    for layer, name_of in (
        (file_values, lambda name: f"{name} in {path}"),
        (environment, lambda name: prefix + name.upper()),
        (flags, lambda name: "--" + name.replace("_", "-")),
    ):
        for name, value in layer.items():
            values[name] = value
            origin[name] = name_of(name)
    try:
        return _anchored(cls(**values))
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False, include_context=False, include_input=False):
            name = str(problem["loc"][0]) if problem["loc"] else ""
            what = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{origin.get(name, name) or 'settings'}: {what}")
        raise _BadSettings("; ".join(lines)) from None


def _anchored(settings: S) -> S:
    """The settings with their relative paths joined to ``base_dir``, if that is set."""
    if (base := settings.base_dir) is None:
        return settings

    def anchor(value: Any) -> Any:
        if isinstance(value, Path):
            return base / value.expanduser()
        return tuple(map(anchor, value)) if isinstance(value, tuple) else value

    return settings.model_copy(
        update={name: anchor(getattr(settings, name)) for name in type(settings).model_fields}
    )


def _read_environment(cls: type[S], environ: Mapping[str, str]) -> tuple[dict[str, Any], str | None]:
    prefix = cls.env_prefix()
    values: dict[str, Any] = {}
    config = None
    for variable, text in environ.items():
        if not variable.startswith(prefix):
            continue
        name = variable[len(prefix) :].lower()
        if name == "config":
            config = text
        elif name in cls.model_fields:
            values[name] = _from_text(variable, cls.model_fields[name], text)
        else:
            raise _BadSettings(f"unknown environment variable {variable}; --help lists the settings")
    return values, config


def _read_yaml(cls: type[S], path: Path) -> dict[str, Any]:
    import yaml  # only with --config: keeps it out of a plain start

    try:
        loaded = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise _BadSettings(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, *yamltext.ODD):
        raise _BadSettings(f"{path} is not a YAML file") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise _BadSettings(f"{path} must be a mapping of settings")
    values = {key: value for key, value in loaded.items() if key not in SERVICES}
    section = loaded.get(cls.service) or {}
    if not isinstance(section, dict):
        raise _BadSettings(f"section {cls.service} of {path} must be a mapping of settings")
    values.update(section)
    for name in values:
        if name not in cls.model_fields:
            raise _BadSettings(f"unknown setting {name} in {path}; --help lists the settings")
    return values


def _parse_flags(cls: type[S], argv: list[str]) -> tuple[dict[str, Any], argparse.Namespace]:
    parser = _Parser(prog=f"python -m modelkeep_{cls.service}", allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE", help="YAML file with settings")
    parser.add_argument("--check-config", action="store_true", help="check the settings and exit")
    parser.add_argument(
        "--health", action="store_true", help="ask the service that runs with these settings if it is ready"
    )
    parser.add_argument("--print-config", action="store_true", help="print the settings, redacted, and exit")
    for name, field in cls.model_fields.items():
        flag = "--" + name.replace("_", "-")
        text = (field.description or "").replace("%", "%%")
        if field.annotation is bool:
            parser.add_argument(
                flag, dest=f"field.{name}", action=argparse.BooleanOptionalAction, default=None, help=text
            )
        elif _is_sequence(field):
            parser.add_argument(flag, dest=f"field.{name}", action="append", help=text + " May be repeated.")
        else:
            parser.add_argument(flag, dest=f"field.{name}", metavar="VALUE", help=text)
    options = parser.parse_args(argv)
    flags: dict[str, Any] = {}
    for key, value in vars(options).items():
        if key.startswith("field.") and value is not None:
            name = key.removeprefix("field.")
            flags[name] = _from_text(f"--{name}", cls.model_fields[name], value)
    return flags, options


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise _BadSettings(message)


def _is_sequence(field: FieldInfo) -> bool:
    return get_origin(field.annotation) in (tuple, list, set, frozenset)


def _from_text(name: str, field: FieldInfo, text: Any) -> Any:
    """Turn text into what pydantic validates: JSON for structures, commas also for lists."""
    if not isinstance(text, str):
        return text
    origin = get_origin(field.annotation)
    if text.startswith(("[", "{")) and isinstance(origin, type) and issubclass(origin, Collection):
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            raise _BadSettings(f"{name}: not valid JSON") from None
    if _is_sequence(field):
        return [part for part in text.split(",") if part]
    return text


def _redact(name: str, field: FieldInfo, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _redact(name, field, one) for key, one in value.items()}
    secret = field.annotation is SecretStr or is_secret_name(name)
    return "***" if secret and value and not isinstance(value, int | float) else value


__all__ = ["ServiceSettings", "load_settings"]
