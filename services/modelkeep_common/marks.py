"""Which source each job was made for, where what is stored and shown of it does not tell.

In memory only: after a restart, a shown form that hides more than credentials stands for any source.
"""

from __future__ import annotations

from .urls import mark_of, may_hide_objects


class SourceMarks:
    """The marks (`urls.mark_of`) of one service's jobs, by their ids. Every method is for any thread."""

    def __init__(self) -> None:
        self._marks: dict[int, bytes] = {}

    def keep(self, job_id: int, mark: bytes) -> None:
        """Remember what a job was made for."""
        self._marks[job_id] = mark

    def forget(self, job_id: int) -> None:
        """The job is gone."""
        self._marks.pop(job_id, None)

    def tells(self, job_id: int, shown: str, mark: bytes) -> bool | None:
        """Whether a job of this shown form is for the source with this mark; None if nothing can tell."""
        kept = self._marks.get(job_id)
        if kept is not None:
            return kept == mark
        return None if may_hide_objects(shown) else mark_of(shown) == mark
