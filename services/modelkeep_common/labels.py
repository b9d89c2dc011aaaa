"""Labels: pairs of texts by which whoever made a thing finds it again.

What a label may be stands as rules in the .proto, at each field the same. A filter by labels means all of its
pairs. sqlite/labels.py keeps them where a store finds things by them.
"""

from __future__ import annotations

from collections.abc import Mapping


def have(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether all of the wanted pairs are among the labels."""
    return all(key in labels and labels[key] == value for key, value in wanted.items())
