"""Text for people out of HTML: what is read, without mark-up. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from typing import Final

#: Elements that begin a line of their own.
_LINES: Final = frozenset(
    {
        *("address", "article", "aside", "blockquote", "br", "dd", "div", "dl", "dt", "figure", "footer"),
        *("form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "main", "nav", "ol", "p", "pre"),
        *("section", "table", "tr", "ul"),
    }
)
#: Elements whose content is not read.
_HIDDEN: Final = frozenset({"script", "style", "template", "noscript", "head", "title"})
#: How a tag begins, in small letters: whether it closes, and its name.
_TAG: Final = re.compile(r"<(/?)([a-z][a-z0-9]*|[!?])")
#: Characters of mark-up that are looked at.
_MOST_LOOKED_AT: Final = 1 << 16


def plain_text(markup: str, most_bytes: int) -> str:
    """What a person reads of a piece of HTML, or of a plain text.

    Args:
        markup: The HTML; of more than 64 Ki characters the beginning counts.
        most_bytes: Most bytes of the result as UTF-8; a longer one is cut, and ends with an ellipsis.
    """
    if len(markup) > _MOST_LOOKED_AT:
        markup = markup[:_MOST_LOOKED_AT]
        markup = markup[: begin if (begin := markup.rfind("<")) > markup.rfind(">") else None]
    is_markup = re.search(r"<[a-zA-Z/!]|&[#a-zA-Z]", markup) is not None
    text = "".join(_read(markup)) if is_markup else markup
    lines = (re.sub(r"[^\S\n]+", " ", line).strip() for line in printable(text).split("\n"))
    return cut(re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip(), most_bytes)


def _read(markup: str) -> Iterator[str]:
    """The text of some HTML, and a line end for each element that makes one.

    Takes time in proportion to the mark-up, whatever is left open in it, which html.parser does not.
    """
    lower, at = markup.lower(), 0
    while (begin := markup.find("<", at)) >= 0:
        yield _words(markup[at:begin])
        if lower.startswith("<!--", begin):
            end, skipped = markup.find("-->", begin + 4), 3
        elif (tag := _TAG.match(lower, begin)) is None:
            yield "<"
            at = begin + 1
            continue
        else:
            end, skipped = markup.find(">", begin), 1
            if tag[2] in _HIDDEN and not tag[1] and end >= 0:
                end, skipped = lower.find(f"</{tag[2]}", end), 0
            elif tag[2] == "li" and not tag[1]:
                yield "\n- "
            elif tag[2] in _LINES:
                yield "\n"
        if end < 0:
            return
        at = end + skipped
    yield _words(markup[at:])


def _words(text: str) -> str:
    try:
        plain = unescape(text)
    except ValueError:  # a character's number that has thousands of digits
        plain = text
    return re.sub(r"\s+", " ", plain)


def printable(text: str) -> str:
    """A text without control characters but line ends, and without halves of characters."""
    whole = text.encode("utf-8", "ignore").decode("utf-8")
    return "".join(c for c in whole.replace("\r\n", "\n").replace("\t", " ") if c == "\n" or c.isprintable())


def cut(text: str, most_bytes: int) -> str:
    """A text of at most so many bytes as UTF-8; where something is missing it ends with an ellipsis."""
    raw = text.encode()
    if len(raw) <= most_bytes:
        return text
    return raw[: most_bytes - 3].decode("utf-8", "ignore").rstrip() + "…"
