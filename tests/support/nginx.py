"""nginx as a process of its own on loopback: the server that downloads are measured against."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.ports import free_port

#: A certificate for localhost and 127.0.0.1 that is its own authority, and its key.
CERTIFICATE = Path(__file__).resolve().parents[1] / "data" / "tls" / "localhost.pem"

_CONFIG = """
{user}
daemon off;
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    root "{root}";
    server {{ listen 127.0.0.1:{port}; }}
    server {{
        listen 127.0.0.1:{tls_port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {certificate};
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Nginx:
    """A running nginx.

    Attributes:
        root: Folder whose files it serves.
    """

    root: Path
    port: int
    tls_port: int

    def url(self, name: str, *, tls: bool = False) -> str:
        """Address of a file of the folder."""
        return f"https://127.0.0.1:{self.tls_port}/{name}" if tls else f"http://127.0.0.1:{self.port}/{name}"


@contextmanager
def nginx(root: Path, folder: Path) -> Iterator[Nginx]:
    """Serve the files of `root` over http and https, from page cache by sendfile; `folder` keeps its own.

    Raises:
        FileNotFoundError: nginx is not installed.
    """
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise FileNotFoundError("nginx is missing: apt-get install nginx (scripts/tools.sh does it as root)")
    served = Nginx(root, free_port(), free_port())
    config = folder / "nginx.conf"
    config.write_text(
        _CONFIG.format(
            # Its workers would be another user, who cannot read the folder of this one.
            user="user root;" if os.geteuid() == 0 else "",
            folder=folder,
            root=root,
            port=served.port,
            tls_port=served.tls_port,
            certificate=CERTIFICATE,
        )
    )
    process = subprocess.Popen(
        [program, "-e", str(folder / "error.log"), "-c", str(config), "-p", str(folder)],
        start_new_session=True,
    )
    try:
        wait_for(served.port, process)
        yield served
    finally:
        process.terminate()
        process.wait(20)


def wait_for(port: int, process: subprocess.Popen[bytes], name: str = "nginx", seconds: float = 10) -> None:
    """Wait until a process listens."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not start") from error
            time.sleep(0.02)
        else:
            return
