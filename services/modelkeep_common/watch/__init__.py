"""Watching a collection: a snapshot, then every change, from any point at which one left off.

The guarantees, each with its test in tests/unit/common/test_common_watch.py:

1.  A watch without a token sends first a *snapshot*: every resource that matches the filter, in several
    frames. The last of them says so, also when there is no resource at all.
2.  Then it is *live*: each change arrives once, in the order of revisions; none is lost.
3.  A revision is never split between frames; changes that come close together share a frame.
4.  Every frame carries a resume token, and a watch from it goes on right after that frame. This holds
    inside a snapshot too: what was sent is not sent again unless it changed meanwhile.
5.  During a snapshot a resource may repeat but never goes back; after one, what it did not name is
    gone. What left meanwhile arrives as removed.
6.  A change that takes a resource out of the filter arrives as removed; a change of a resource that
    was outside and stays outside does not arrive.
7.  A frame without events is a bookmark: all earlier changes were delivered. There is one at least
    every bookmark interval (default 15 s, clamped to 1-30 s), and one at once when a watch is live.
8.  Progress has no revision and is not replayed: only the latest value of a resource is sent, at most
    four times a second, and after a reconnect the latest value comes. A change of the resource
    supersedes the progress that was reported before it.
9.  A token older than the history window (10,000 changes, 24 h, as many bytes as the store may keep)
    is refused as expired, one of another store (a restored back-up is one), another collection, or no
    token at all, as foreign.
10. The queue of a watcher is bounded, by events and bytes, and so is what all of them leave unread. One
    that reads slower than changes come catches up from the log; one that stalls for 20 s, falls out of
    the history window, or is the slowest when all of them leave too much, is ended with
    WATCHER_TOO_SLOW and its last token. Nobody else is slowed: each watcher is a task of its own.
11. A drain ends every watch with SERVER_DRAINING and its last token; new ones are refused.
12. Changes that other processes write to the same file arrive as well, within about a second.

A change is read and parsed once for all watchers, and where no filter is given they also share the
serialised frame. With many watchers, fan-outs are spaced so that they never take more than about half
of the event loop's time; changes in between share a frame.
"""

from .frames import Event, Frame, Phase, Serializable
from .hub import WatchHub
from .streams import stream_frames, until_ended, write_in_time
from .watch import Watch

__all__ = [
    "Event",
    "Frame",
    "Phase",
    "Serializable",
    "Watch",
    "WatchHub",
    "stream_frames",
    "until_ended",
    "write_in_time",
]
