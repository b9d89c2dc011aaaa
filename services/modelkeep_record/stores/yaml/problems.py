"""What is wrong with a file of records, and where: a person must find it and mend it."""

from __future__ import annotations

from pathlib import Path


class Problem(Exception):
    """Something in a text is wrong; lines and columns count from 0 at the text's beginning."""

    def __init__(self, line: int, column: int, what: str) -> None:
        super().__init__(what)
        self.line = line
        self.column = column
        self.what = what

    def below(self, lines: int) -> Problem:
        """The same in a text that has so many lines before this one."""
        return type(self)(self.line + lines, self.column, self.what)


class WrongKindProblem(Problem):
    """The text is none of records, or one of a version that this program does not read."""


class BrokenFileError(Exception):
    """A file of records cannot be read as it is; lines and columns count from 1, 0 is the file as a whole."""

    def __init__(self, path: Path, line: int, column: int, what: str) -> None:
        place = f", line {line}, column {column}" if line else ""
        super().__init__(f"{path}{place}: {what}")
        self.path = path
        self.line = line
        self.column = column
        self.what = what

    @classmethod
    def of(cls, path: Path, problem: Problem) -> BrokenFileError:
        """A problem in the file's text."""
        return cls(path, problem.line + 1, problem.column + 1, problem.what)


class WrongFileError(BrokenFileError):
    """A file is none of records, or one of a newer version."""
