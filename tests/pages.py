"""The pages of the documentation, taken apart: code blocks with their marks, links, headings, tables.

A block is run unless a comment just before it says why it is only parsed, `<!-- parsed: needs a cluster -->`;
`<!-- file: NAME -->` says that it is the content of a file.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    str(page.relative_to(ROOT))
    for page in [ROOT / "README.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md")]
)
_FENCE = re.compile(r"^```(.*)$")
_MARK = re.compile(r"^<!-- (parsed|file): (.+) -->$")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int  # of its fence
    language: str
    text: str
    parsed: str | None = None  # why it is not run
    file: str | None = None  # what it is the content of

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str) -> list[Block]:
    """The blocks of a page in their order."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    blocks, opened = [], None
    for i, line in enumerate(lines):
        fence = _FENCE.match(line)
        if fence and opened is None:
            opened = i
        elif fence and opened is not None:
            marks = dict(m.groups() for m in _marks_above(lines, opened))
            text = "\n".join(lines[opened + 1 : i]) + "\n"
            language = lines[opened].removeprefix("```").strip()
            blocks.append(Block(page, opened + 1, language, text, **marks))
            opened = None
    assert opened is None, f"{page}:{(opened or 0) + 1}: this block never ends"
    return blocks


def _marks_above(lines: list[str], fence: int) -> Iterator[re.Match[str]]:
    for line in reversed(lines[:fence]):
        mark = _MARK.match(line)
        if mark is None:
            return
        yield mark


def commands_of(block: Block) -> list[list[str]]:
    """The simple commands of a shell block as words; `>` and a file's name stay among them."""
    commands: list[list[str]] = []
    waiting = ""
    for line in block.text.splitlines():
        waiting += line.removesuffix("\\") + ("" if line.endswith("\\") else "\n")
        if line.endswith("\\"):
            continue
        try:
            words = _words(waiting)
        except ValueError:  # a quotation goes on in the next line
            continue
        waiting = ""
        commands.append([])
        for word in words:
            if word in ("&&", ";"):
                commands.append([])
            else:
                commands[-1].append(word)
    assert not waiting.strip(), f"{block}: a quotation that never ends"
    return [command for command in commands if command]


def _words(text: str) -> list[str]:
    lexer = shlex.shlex(text, posix=True, punctuation_chars="&;<>|")
    lexer.whitespace_split = True
    return list(lexer)


def table_rows(text: str, first: str) -> list[list[str]]:
    """Cells of every row of the tables whose header begins with the column `first`."""
    rows, inside = [], False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif cells[0] == first:
            inside = True
        elif inside and set(cells[0]) != {"-"}:
            rows.append(cells)
    return rows


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one of its level or above."""
    level = len(heading) - len(heading.lstrip("#"))
    _, found, rest = f"\n{text}".partition(f"\n{heading}\n")
    assert found, f"no heading {heading!r}"
    return re.split(rf"^#{{1,{level}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def anchors(text: str) -> set[str]:
    """What headings are called in links."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}
