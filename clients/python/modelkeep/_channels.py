"""Channels whose calls show a token, and that are opened anew when the caller's certificate was replaced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import grpc

from modelkeep.tls import CallerSecrets, CallerTls

#: Gives the token to show; called before each call.
Token: TypeAlias = Callable[[], str]
#: Opens a channel, with these credentials of TLS or in plaintext.
Open: TypeAlias = Callable[[grpc.ChannelCredentials | None], Any]


def credentials_of(secrets: CallerSecrets) -> grpc.ChannelCredentials:
    """The credentials of a caller."""
    key, certificates = secrets.pair or (None, None)
    return grpc.ssl_channel_credentials(secrets.authorities, key, certificates)


class CallerChannel:
    """A channel as gRPC's, of either kind, with what the caller shows.

    gRPC's own call credentials need TLS, its interceptors replace the call objects, and its channels keep the
    certificate that they were made with.

    Args:
        open: Opens a channel.
        token: Gives the token to show; None shows none.
        tls: The caller's files; None is plaintext.
    """

    def __init__(self, open: Open, token: Token | None, tls: CallerTls | None) -> None:
        self._open, self._tls = open, tls
        self.token = token
        self._secrets = None if tls is None else tls.secrets()
        self._channel = self._opened()

    @property
    def current(self) -> Any:
        """The channel for new calls. One whose certificate was replaced is let go; its calls go on."""
        if self._tls is not None and (secrets := self._tls.secrets()) is not self._secrets:
            self._secrets = secrets
            self._channel = self._opened()
        return self._channel

    def _opened(self) -> Any:
        return self._open(None if self._secrets is None else credentials_of(self._secrets))

    def _of_kind(self, kind: str) -> Callable[..., _Method]:
        return lambda *arguments, **options: _Method(self, kind, arguments, options)

    def __getattr__(self, name: str) -> Any:
        if name in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
            return self._of_kind(name)
        return getattr(self._channel, name)

    def __enter__(self) -> CallerChannel:
        self._channel.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._channel.__exit__(*error)

    async def __aenter__(self) -> CallerChannel:
        await self._channel.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> Any:
        return await self._channel.__aexit__(*error)


class _Method:
    """A method of a stub, on whatever channel is the current one."""

    def __init__(self, channel: CallerChannel, kind: str, arguments: Any, options: Any) -> None:
        self._caller = channel
        self._kind, self._arguments, self._options = kind, arguments, options
        self._made: tuple[Any, Any] = (None, None)

    def __call__(self, *arguments: Any, metadata: Any = None, **options: Any) -> Any:
        return self._method()(*arguments, metadata=self._shown(metadata), **options)

    def future(self, *arguments: Any, metadata: Any = None, **options: Any) -> Any:
        return self._method().future(*arguments, metadata=self._shown(metadata), **options)

    def with_call(self, *arguments: Any, metadata: Any = None, **options: Any) -> Any:
        return self._method().with_call(*arguments, metadata=self._shown(metadata), **options)

    def _method(self) -> Any:
        on, method = self._made
        channel = self._caller.current
        if on is not channel:
            method = getattr(channel, self._kind)(*self._arguments, **self._options)
            self._made = channel, method
        return method

    def _shown(self, metadata: Any) -> Any:
        token = self._caller.token
        return metadata if token is None else (*(metadata or ()), ("authorization", f"Bearer {token()}"))
