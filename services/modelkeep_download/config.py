"""Settings of DownloadService."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from modelkeep.defaults import DEFAULT_PORTS
from modelkeep.exceptions import FieldInvalidException
from modelkeep.hubs import CIVITAI
from modelkeep.source_tokens import HostPattern, is_token, tokens_path
from modelkeep_common.data_folder import DOWNLOADS
from modelkeep_common.modes import umask_for
from modelkeep_common.settings import ServiceSettings
from modelkeep_common.urls import parse_url, request_target
from modelkeep_download.domain.limits import Limits
from modelkeep_download.engine.proxies import ENVIRONMENT, proxies_of
from modelkeep_download.resolve.hugging_face import endpoint_of


class DownloadSettings(ServiceSettings):
    """What DownloadService can be told, besides what every service can."""

    service: ClassVar[str] = "download"

    port: int = Field(DEFAULT_PORTS["download"], ge=0, le=65535, description="TCP port; 0 takes a free one.")
    download_roots: tuple[Path, ...] = Field(
        (), description="Folders that downloads may be written beneath; <data-dir>/downloads when unset."
    )
    import_roots: tuple[Path, ...] = Field(
        (), description="Folders that local sources may be taken from, besides the download roots."
    )
    allow_any_import_root: bool = Field(
        False, description="Let the owner of the suite, and nobody else, take local sources from anywhere."
    )
    allow_private_addresses: bool = Field(
        False,
        description="Ask private, loopback and link-local addresses too; for closed networks.",
    )
    proxy: SecretStr = Field(
        SecretStr(""),
        description="Forward proxy for every source, http://[user:password@]host:port, which then is the"
        f" guard of names; `{ENVIRONMENT}` honours HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY of the"
        " environment. None when unset.",
    )
    proxy_file: Path | None = Field(
        None, description="File with that address, where it holds a password; mode 0600; in place of proxy."
    )
    no_proxy: tuple[str, ...] = Field(
        (),
        description="Hosts (with all below them), addresses and networks that are asked without the proxy.",
    )
    tls_ca_file: Path | None = Field(
        None, description="PEM file of the authorities to trust for https, in place of the system's."
    )
    source_tokens: Mapping[str, SecretStr] = Field(
        {},
        description='Access tokens of sources by host, as JSON: {"models.example.com": "…"}; also host:port,'
        " *.domain, http://host. They go to these hosts alone, and over https unless http:// says otherwise.",
    )
    source_tokens_file: Path | None = Field(
        None,
        description="File of such tokens that `modelkeep auth` keeps, mode 0600;"
        " <data-dir>/download/source_tokens.json when unset.",
    )
    hub_cache: Literal[""] | Path | None = Field(
        None,
        description="Cache of the hub's own client, from which files of an expected hash are copied; empty:"
        " none; that of HF_HUB_CACHE, HF_HOME or ~/.cache/huggingface when unset.",
    )
    hub_endpoint: str = Field(
        "",
        description="Address of a mirror of Hugging Face, which then is asked in its place; the variable"
        " HF_ENDPOINT, else https://huggingface.co, when unset.",
    )
    civitai_endpoint: str = Field(
        CIVITAI, description="Where Civitai's API is asked, and its files: the site, or a mirror of it."
    )
    max_parallel_downloads: int = Field(5, ge=1, le=100, description="Downloads at once, of all queues.")
    max_bytes_per_second: int = Field(
        0, ge=0, description="Bytes a second from the network, of all downloads together; 0 is no limit."
    )
    max_connections_per_file: int = Field(
        32,
        ge=1,
        le=64,
        description="Connections at once for one file: as many as bring something; beyond 16 if slow.",
    )
    max_connections_per_host: int = Field(
        32, ge=1, le=256, description="Connections at once to one host, besides the first of each file."
    )
    max_connections: int = Field(
        64, ge=1, le=1024, description="Connections at once in all, besides the first of each file."
    )
    max_jobs: int = Field(100_000, ge=1, description="Jobs kept that have not ended; more are QUEUE_FULL.")
    checkpoint_bytes: int = Field(
        16 << 20, ge=64 << 10, description="Bytes after which progress is made durable, at the latest."
    )
    checkpoint_s: float = Field(1.0, gt=0, description="Seconds after which progress is made durable.")
    connect_timeout_s: float = Field(10, gt=0, description="Seconds to connect to one address.")
    headers_timeout_s: float = Field(30, gt=0, description="Seconds until an answer's headers are complete.")
    stall_timeout_s: float = Field(30, gt=0, description="Seconds without (or with hardly any) bytes.")
    min_bytes_per_second: int = Field(
        1024, ge=0, description="Rate below which a connection counts as stalled, over stall_timeout_s."
    )
    max_attempts: int = Field(8, ge=1, description="Tries in a row that get no further, before a job fails.")
    retry_base_s: float = Field(1.0, ge=0, description="Delay before the first retry; doubles with each one.")
    retry_cap_s: float = Field(60.0, ge=0, description="Longest delay by back-off alone.")
    max_retry_after_s: float = Field(600.0, ge=0, description="Longest delay that a source may ask for.")
    max_redirects: int = Field(10, ge=0, le=50, description="Redirects followed for one request.")
    max_unsized_bytes: int = Field(
        64 << 30, ge=1, description="Most bytes taken of a source that does not say how many it sends."
    )
    disk_reserve_bytes: int = Field(64 << 20, ge=0, description="Room that downloads leave on a file system.")

    @field_validator("proxy")
    @classmethod
    def _is_a_proxy(cls, value: SecretStr) -> SecretStr:
        proxies_of(value.get_secret_value(), (), {})
        return value

    @model_validator(mode="after")
    def _has_one_proxy(self) -> Self:
        if self.proxy_file is not None and self.proxy.get_secret_value():
            raise ValueError("proxy and proxy_file both name a proxy: leave out one")
        return self

    @field_validator("source_tokens")
    @classmethod
    def _are_of_hosts(cls, value: Mapping[str, SecretStr]) -> Mapping[str, SecretStr]:
        for host, token in value.items():
            try:
                HostPattern.parse(host)
            except ValueError as error:
                raise ValueError(f"{host!r}: {error}") from None
            if not is_token(token.get_secret_value()):
                raise ValueError(f"the token of {host} is empty, or has blanks or characters beyond ASCII")
        return value

    @property
    def tokens_by_host(self) -> Mapping[HostPattern, str]:
        """The tokens of `source_tokens`."""
        return {
            HostPattern.parse(host): token.get_secret_value() for host, token in self.source_tokens.items()
        }

    @property
    def tokens_file(self) -> Path:
        """The file of `modelkeep auth` in force."""
        return (self.source_tokens_file or tokens_path(self.data_dir)).expanduser().absolute()

    @field_validator("hub_endpoint")
    @classmethod
    def _is_an_endpoint(cls, value: str) -> str:
        return endpoint_of(value, {}) if value else value

    @field_validator("civitai_endpoint")
    @classmethod
    def _is_an_origin(cls, value: str) -> str:
        try:
            source = parse_url(value)
        except FieldInvalidException:
            source = None
        if source is None or source.userinfo or request_target(source.url) != "/":
            raise ValueError("must be http://HOST or https://HOST, with a port if need be, and no more")
        return source.url.rstrip("/")

    @property
    def roots(self) -> tuple[Path, ...]:
        """Where files may be written, absolute: the download roots, and the models for their staging."""
        roots = self.download_roots or (self.data_dir / DOWNLOADS,)
        return tuple(dict.fromkeys((*(Path(root).expanduser().resolve() for root in roots), self.models)))

    @property
    def limits(self) -> Limits:
        """What counts as long as no caller has set other limits."""
        return Limits(
            max_parallel_downloads=self.max_parallel_downloads,
            max_bytes_per_second=self.max_bytes_per_second,
            max_connections_per_file=self.max_connections_per_file,
            max_connections_per_host=self.max_connections_per_host,
            max_connections=self.max_connections,
        )

    @property
    def umask(self) -> int:
        """See modelkeep_common.modes."""
        return umask_for(self.data_dir, self.roots)
