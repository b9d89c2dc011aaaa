"""What a repository's card says of its model: metadata at the start of a README, then text. Pure."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from modelkeep.exceptions import FieldInvalidException
from modelkeep_common.urls import is_address, parse_url, request_target

#: Bytes of a description as UTF-8.
MAX_DESCRIPTION: Final = 4096
#: Characters of a description after which no further paragraph is taken.
_ENOUGH: Final = 600
#: Bytes of a README that are looked at.
MAX_README: Final = 128 << 10
_MAX_LINE: Final = 300
_MAX_TAGS: Final = 64
#: Beginnings of tags that the hub makes of other facts.
_NOISE: Final = (
    *("arxiv:", "region:", "license:", "base_model:", "dataset:", "doi:", "diffusers:", "deploy:"),
    *("endpoints_compatible", "autotrain_compatible", "has_space", "model-index", "eval-results"),
)
_FRONT_MATTER: Final = re.compile(r"\A\ufeff?\s*---\s*\n.*?\n---\s*(?:\n|\Z)", re.DOTALL)
_COMMENT: Final = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_FENCE: Final = re.compile(r"^(```|~~~).*?(?:^\1|\Z)", re.DOTALL | re.MULTILINE)
_DROPPED: Final = re.compile(
    r"<(script|style|table|video|details)\b.*?(?:</\1\s*>|\Z)", re.DOTALL | re.IGNORECASE
)
_TAG: Final = re.compile(r"</?[A-Za-z][^<>]{0,2000}>")
_PICTURE: Final = re.compile(r"!\[([^\[\]]{0,300})\]\(\s*<?([^()\s<>]{1,2000})>?[^()]{0,300}\)")
_IMG: Final = re.compile(r"<img\b[^<>]{0,2000}?\bsrc\s*=\s*[\"']([^\"'<>]{1,2000})[\"']", re.IGNORECASE)
_LINK: Final = re.compile(r"\[([^\[\]]{0,500})\](?:\([^()]{0,2000}\)|\[[^\[\]]{0,200}\])")
_EMPHASIS: Final = re.compile(r"(\*{1,3}|_{2,3}|~~|`{1,3})(?=\S)(.{1,300}?)(?<=\S)\1", re.DOTALL)
_HEADING: Final = re.compile(r"^\s{0,3}(?:#{1,6}\s.*|[=-]{3,}\s*|\*\*[^*]+\*\*:?\s*)$")
_RUBRIC: Final = re.compile(r"^\s*(?:\||:?-{3,}|\[\w[^\]]*\]:\s)")
_BULLET: Final = re.compile(r"^\s*(?:[-*+]|\d+[.)])\s+")
_TRIGGER: Final = re.compile(r"[Yy]ou should use (.{1,300}?) to trigger the (?:image|video) generation")
_TRIGGER_LINE: Final = re.compile(
    r"^[ >*_#-]{0,20}(?:trigger|activation) (?:words?|phrases?|tokens?|prompts?)"
    r"[ *_]{0,8}:[ *_]{0,8}(.{1,300})$",
    re.IGNORECASE | re.MULTILINE,
)
_BADGES: Final = ("shields.io", "badge", "colab.research", "githubassets", "/badges/")
_PICTURES: Final = (".png", ".jpg", ".jpeg", ".webp", ".gif")


def description(readme: str) -> str:
    """The first paragraphs of a README as plain text: without headings, pictures, tables, code and HTML."""
    text = _COMMENT.sub("", _FRONT_MATTER.sub("", readme[:MAX_README]))
    text = _DROPPED.sub("", _FENCE.sub("", text))
    text = _plain(text)
    found: list[str] = []
    for block in re.split(r"\n\s*\n", text):
        lines = [line for line in block.splitlines() if not (_HEADING.match(line) or _RUBRIC.match(line))]
        paragraph = " ".join(_BULLET.sub("", line).strip() for line in lines if line.strip())
        paragraph = re.sub(r"\s+", " ", paragraph).strip()
        if _says_something(paragraph):
            found.append(paragraph)
        if sum(map(len, found)) > _ENOUGH:
            break
    return _cut("\n\n".join(found), MAX_DESCRIPTION)


def license_of(card: Mapping[str, Any], address: Callable[[str], str]) -> str:
    """The licence by its short name; one of its own by its name, with where it stands."""
    names = texts(card.get("license"))
    name = ", ".join(names)
    if not name or "other" in names:
        name = line(card.get("license_name")) or name
        link = line(card.get("license_link"))
        if link:
            target = link if _is_web(link) else address(link.removeprefix("./"))
            return f"{name} ({target})" if name else target
    return name


def tags(told: Iterable[str]) -> list[str]:
    """Tags without those that the hub makes by itself of other facts."""
    plain = (line(tag) for tag in told)
    return list(dict.fromkeys(tag for tag in plain if tag and not tag.startswith(_NOISE)))[:_MAX_TAGS]


def trigger_phrases(card: Mapping[str, Any], readme: str) -> list[str]:
    """Words that a prompt needs, where the card calls them so."""
    found = texts(card.get("instance_prompt"))
    text = _plain(_FRONT_MATTER.sub("", readme[:MAX_README]))
    found += [match[1] for match in _TRIGGER.finditer(text)]
    found += [part for match in _TRIGGER_LINE.finditer(text) for part in match[1].split(",")]
    plain = (line(phrase).strip(" `\"'.“”") for phrase in found)
    return list(dict.fromkeys(phrase for phrase in plain if phrase and phrase.lower() != "none"))[:16]


def base_of(card: Mapping[str, Any]) -> str:
    """What the model was made from, as its card spells it."""
    return ", ".join(texts(card.get("base_model"))[:8])


def preview(card: Mapping[str, Any], readme: str, address: Callable[[str], str]) -> str:
    """The address of the first picture of what the model makes; empty if there is none."""
    widgets = card.get("widget")
    told = [
        output.get("url")
        for widget in (widgets if isinstance(widgets, list) else ())
        if isinstance(widget, dict) and isinstance(output := widget.get("output"), dict)
    ]
    body = _COMMENT.sub("", _FRONT_MATTER.sub("", readme[:MAX_README]))
    pictures = [(match.start(), match[2]) for match in _PICTURE.finditer(body)]
    pictures += [(match.start(), match[1]) for match in _IMG.finditer(body)]
    candidates = [*told, card.get("thumbnail"), *(target for _, target in sorted(pictures))]
    for target in candidates:
        if isinstance(target, str) and (url := _picture(html.unescape(target), address)):
            return url
    return ""


def texts(value: object) -> list[str]:
    """A text, or a list of texts, as cleaned lines."""
    values = value if isinstance(value, list) else [value]
    return [text for text in map(line, values) if text]


def line(value: object) -> str:
    """A text on one line, cut, without control characters; empty for what is none."""
    if not isinstance(value, str):
        return ""
    plain = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in value[: 4 * _MAX_LINE])
    return " ".join(plain.split())[:_MAX_LINE]


def _picture(target: str, address: Callable[[str], str]) -> str:
    target = target.strip()
    if any(badge in target.lower() for badge in _BADGES) or not target.isprintable():
        return ""
    if is_address(target):
        try:
            source = parse_url(target)
        except FieldInvalidException:
            return ""
        is_open = source.url.startswith("https:") and not source.has_secret
        return source.url if is_open and _is_picture(request_target(source.url)) else ""
    own = re.split("[?#]", target.removeprefix("./"))[0]
    if own.startswith("/") or ":" in own or ".." in own.split("/") or not _is_picture(own):
        return ""
    return address(own)


def _is_picture(path: str) -> bool:
    return path.partition("?")[0].lower().endswith(_PICTURES)


def _is_web(link: str) -> bool:
    return link.startswith(("https://", "http://"))


def _plain(text: str) -> str:
    text = _PICTURE.sub("", text)
    text = _LINK.sub(r"\1", _LINK.sub(r"\1", text))
    text = re.sub(r"<br\s*/?>|</p>|</h\d>|</div>|</li>", "\n", text, flags=re.IGNORECASE)
    text = html.unescape(_TAG.sub("", text))
    for _ in range(2):
        text = _EMPHASIS.sub(r"\2", text)
    kept = (c if c == "\n" or unicodedata.category(c)[0] not in "CZ" else " " for c in text)
    return "".join(kept)


def _says_something(paragraph: str) -> bool:
    letters = sum(c.isalpha() for c in paragraph)
    if letters < 20 or "[More Information Needed]" in paragraph:
        return False
    return letters * 2 > len(paragraph)


def _cut(text: str, most: int) -> str:
    raw = text.encode()
    if len(raw) <= most:
        return text
    return raw[: most - 3].decode(errors="ignore").rstrip() + "…"
