"""The helper process: turns a component's installed files into sealed memory that can be lent.

Started by the service as ``python -m modelkeep_convert --fd N``, and fed over the socket that N is; it
ends when the service does. A file that brings it down costs one load, not the service. It opens no path on
its own: every file comes as a descriptor, and no network is touched.

A request is ``{"build": {...}}`` with the fields of :class:`modelkeep_convert.request.Build` and one
descriptor per file. Answers: ``{"progress": bytes}`` any number of times, then ``{"built": {...}}`` with the
sealed memory's descriptor, or ``{"error": {"reason", "message", "metadata"}}``.

``{"gather": {...}}`` only asks where the component's bytes lie in its files. The answer is ``{"gathered":
{...}}`` with what :class:`modelkeep_convert.build.Gathered` says and its two descriptors, or
``{"gathered": null}``.
"""

from __future__ import annotations

import argparse
import os
import queue
import socket
import sys
import threading
import time
import traceback
from typing import Any

from modelkeep import frames, sealed
from modelkeep.exceptions import ModelkeepError
from modelkeep_convert.request import Build

_PROGRESS_INTERVAL_S = 0.05


def serve(sock: socket.socket) -> None:
    """Answer requests until the service closes its end."""
    requests: queue.SimpleQueue[tuple[dict[str, Any], list[int]]] = queue.SimpleQueue()

    def receive() -> None:
        try:
            while (frame := frames.receive_frame(sock)) is not None:
                requests.put(frame)
        finally:
            # The service is gone, by a reset too if it left answers unread: what is half built is of no use.
            os._exit(0)

    threading.Thread(target=receive, name="receive", daemon=True).start()
    while True:
        message, descriptors = requests.get()
        try:
            _answer(sock, message, descriptors)
        finally:
            for fd in descriptors:
                os.close(fd)


def _answer(sock: socket.socket, message: dict[str, Any], descriptors: list[int]) -> None:
    if "build" not in message and "gather" not in message:
        import modelkeep_convert.build  # noqa: F401  (warming: the slow imports happen now)

        frames.send_frame(sock, {"warm": True})
        return
    last = time.monotonic()

    def progress(done: int) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= _PROGRESS_INTERVAL_S:
            last = now
            frames.send_frame(sock, {"progress": done})

    asked: dict[str, Any] = message.get("build") or message["gather"]
    made: list[int] = []
    try:
        wanted = Build(**asked)
        from modelkeep_convert.build import build, gather  # torch comes with it

        if "gather" in message:
            found = gather(wanted, descriptors)
            facts = None
            if found is not None:
                made += [found.head, found.made]
                facts = {"size_bytes": found.size_bytes, "segments": found.segments}
            frames.send_frame(sock, {"gathered": facts}, made)
            return
        made.append(build(wanted, descriptors, progress))
        frames.send_frame(sock, {"built": {"size_bytes": os.fstat(made[0]).st_size}}, made)
    except ModelkeepError as error:
        reply = {"reason": error.reason, "message": error.message, "metadata": error.metadata}
        frames.send_frame(sock, {"error": reply})
    except Exception as error:  # the libraries raise all sorts for files that do not fit
        if sealed.is_out_of_memory(error):
            remedy = "Lower ram_budget_bytes of LoaderService, or give the host more memory."
            no_memory = {"message": "The host has no memory left.", "metadata": {"remedy": remedy}}
            frames.send_frame(sock, {"error": {"reason": "RAM_EXHAUSTED", **no_memory}})
            return
        traceback.print_exc(file=sys.stderr)
        # The first line: torch goes on with where in its own code it was.
        said = str(error).strip().partition("\n")[0]
        detail = f"{type(error).__name__}: {said}"[:500]
        what = asked["class_name"] or "Its state dict"
        message_text = f"{what} cannot be built from the model's files: {detail}"
        why = {"detail": detail, "remedy": "Fetch config.json and the weights anew, both of one model."}
        reply = {"reason": "INVALID_MODEL", "message": message_text, "metadata": why}
        frames.send_frame(sock, {"error": reply})
    finally:
        for memory in made:
            os.close(memory)


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="descriptor of the socket to the service")
    arguments = parser.parse_args(argv)
    # Nothing here may reach for the internet, whatever a configuration names.
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    serve(socket.socket(fileno=arguments.fd))


if __name__ == "__main__":
    main()
