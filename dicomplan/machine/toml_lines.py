"""On which line of a TOML text each key and each list item stands: tomllib reads values, but forgets where they were."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left

KeyPath = tuple[str | int, ...]

_NOTHING = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_BLANKS = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})' r"|'''.*?'''(?:'{0,2})" r'|"(?:\\.|[^"\\\n])*"' r"|'[^'\n]*'", re.DOTALL
)
_SCALAR = re.compile(r"[^,\]}\n#]+")


def key_lines(text: str) -> dict[KeyPath, int]:
    """1-based line of every table, key and list item of ``text``, by its path (names, and list indices from 0).

    ``text`` must be TOML that ``tomllib.loads`` accepts (TOML 1.0, https://toml.io/en/v1.0.0); for other text the
    result is undefined, or ValueError is raised. The line of a table is where it is first named.
    """
    scanner = _Scanner(text.replace("\r\n", "\n"))
    scanner.document()
    return scanner.lines


class _Scanner:
    """Walks over the text once; ``at`` is the index of the next character."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[KeyPath, int] = {}
        self._ends = [index for index, character in enumerate(text) if character == "\n"]

    def document(self) -> None:
        table: KeyPath = ()
        repeated: dict[KeyPath, int] = {}
        while self._pass(_NOTHING) and self.at < len(self.text):
            if self.text[self.at] != "[":
                self._entry(table)
                continue
            line, double = self._line(), self.text.startswith("[[", self.at)
            self.at += 2 if double else 1
            table = ()
            names = self._key()
            for depth, name in enumerate(names):
                table = (*table, name)
                self.lines.setdefault(table, line)
                if double and depth == len(names) - 1:
                    repeated[table] = repeated.get(table, 0) + 1
                if table in repeated:
                    table = (*table, repeated[table] - 1)
                    self.lines.setdefault(table, line)
            self.at += 2 if double else 1

    def _entry(self, table: KeyPath) -> None:
        line = self._line()
        path = table
        for name in self._key():
            path = (*path, name)
            self.lines.setdefault(path, line)
        self.at += 1  # the sign =
        self._pass(_BLANKS)
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        if self._pass(_STRING):
            return
        opening = self.text[self.at : self.at + 1]
        if opening not in ("[", "{"):
            if not self._pass(_SCALAR):
                raise ValueError(f"line {self._line()}: this is not TOML")
            return
        self.at += 1
        closing, index = "]" if opening == "[" else "}", 0
        while self._pass(_NOTHING) and self.text[self.at : self.at + 1] != closing:
            if opening == "[":
                self.lines[*path, index] = self._line()
                self._value((*path, index))
                index += 1
            else:
                self._entry(path)
            self._pass(_NOTHING)
            if self.text[self.at : self.at + 1] == ",":
                self.at += 1
        self.at += 1

    def _key(self) -> list[str]:
        """Parts of a dotted key, quotes taken off; stops behind it and the blanks that follow."""
        parts: list[str] = []
        while True:
            self._pass(_BLANKS)
            start = self.at
            if self._pass(_STRING):
                parts.append(str(tomllib.loads(f"key = {self.text[start : self.at]}")["key"]))
            elif self._pass(_BARE_KEY):
                parts.append(self.text[start : self.at])
            else:
                raise ValueError(f"line {self._line()}: this is not TOML")
            self._pass(_BLANKS)
            if self.text[self.at : self.at + 1] != ".":
                return parts
            self.at += 1

    def _pass(self, pattern: re.Pattern[str]) -> bool:
        match = pattern.match(self.text, self.at)
        if match is not None:
            self.at = match.end()
        return match is not None

    def _line(self) -> int:
        return bisect_left(self._ends, self.at) + 1
