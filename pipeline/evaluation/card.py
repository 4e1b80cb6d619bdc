"""The model card: prose with the figures filled in.

A template is Markdown. A line `<!-- measured: NAME -->` is followed by all that experiment NAME found,
`<!-- sources -->` by the data, their licences and where they are from. In the text, `{{NAME.KEY}}` is a
figure with its unit, `{{NAME.KEY.interval}}` its interval and `{{NAME.KEY.n}}` its examples. What the
template leaves out comes at its end: no experiment is silently dropped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from pipeline.config import ConfigError
from pipeline.evaluation.config import Source
from pipeline.evaluation.plots import draw
from pipeline.evaluation.records import Measured, Outcome, Report

_MARKER = re.compile(r"^<!-- measured: ([\w-]+) -->$", re.MULTILINE)
_SOURCES = re.compile(r"^<!-- sources -->$", re.MULTILINE)
_INLINE = re.compile(r"\{\{\s*([\w-]+)\.([\w]+)(?:\.(interval|n))?\s*\}\}")


def render(template: str, report: Report, sources: Mapping[str, Source], plots: str) -> str:
    """The card's text.

    Args:
        plots: where its plots are, as seen from the card.

    Raises:
        ConfigError: the template names an experiment or a figure that there is not.
    """
    outcomes = {outcome.name: outcome for outcome in report.outcomes}
    check_names(template, outcomes)

    def block(match: re.Match[str]) -> str:
        return f"{match[0]}\n\n{_block(outcomes[match[1]], plots)}\n\n<!-- end -->"

    def inline(match: re.Match[str]) -> str:
        return _inline(outcomes[match[1]], match[2], match[3] or "")

    told = set(_MARKER.findall(template))
    text = _INLINE.sub(inline, template)
    text = _MARKER.sub(block, text)
    text = _SOURCES.sub(lambda match: f"{match[0]}\n\n{_sources(sources)}\n\n<!-- end -->", text)
    rest = [outcome for name, outcome in outcomes.items() if name not in told]
    for outcome in rest:
        text = f"{text.rstrip()}\n\n## {outcome.name}\n\n{_block(outcome, plots)}\n"
    return text.rstrip() + "\n"


def tables(found: Measured) -> list[str]:
    """What was found beside the figures, as Markdown."""
    ready = [found.markdown] if found.markdown else []
    return ready + [f"**{t.title}**\n\n{_rows(t.columns, t.rows)}" for t in found.tables]


def check_names(template: str, names: Collection[str]) -> None:
    """Raise ConfigError where a template names an experiment that there is not: before hours of measuring."""
    for name in (*_MARKER.findall(template), *(match[0] for match in _INLINE.findall(template))):
        if name not in names:
            raise ConfigError(f"the card names {name!r}; expected some of {', '.join(names)}")


def write(
    template: str, report: Report, sources: Mapping[str, Source], folder: Path, name: str
) -> list[Path]:
    """Write `NAME.md`, `NAME.json` and the plots below `NAME/`; what was written."""
    text = render(template, report, sources, name)
    files = []
    for outcome in report.outcomes:
        for plot in outcome.measured.plots if outcome.measured else ():
            files.append(folder / name / f"{outcome.name}-{plot.key}.png")
            draw(plot, files[-1])
    for file, content in (
        (folder / f"{name}.json", report.model_dump_json(indent=1) + "\n"),
        (folder / f"{name}.md", text),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f"{file.name}.part")
        part.write_text(content, encoding="utf-8")
        os.replace(part, file)
        files.append(file)
    return files


def _inline(outcome: Outcome, key: str, part: str) -> str:
    if outcome.measured is None:
        return "(not measured)"
    figures = {figure.key: figure for figure in outcome.measured.figures}
    if key not in figures:
        raise ConfigError(f"the card names {outcome.name}.{key}; expected some of {', '.join(figures)}")
    figure = figures[key]
    if part == "n":
        return f"{figure.n:,}" if figure.n is not None else ""
    return figure.interval if part == "interval" else figure.shown


def _block(outcome: Outcome, plots: str) -> str:
    if outcome.measured is None:
        return f"**{'Failed' if outcome.state == 'failed' else 'Not measured'}**: {outcome.why}."
    found = outcome.measured
    parts = [found.how]
    if found.figures:
        parts.append(_figures(found))
    parts += tables(found)
    if found.plots:
        parts.append(
            " ".join(
                f"![{plot.title}, n = {plot.n}]({plots}/{outcome.name}-{plot.key}.png)"
                for plot in found.plots
            )
        )
    return "\n\n".join(parts)


def _figures(found: Measured) -> str:
    rows = [(f.told, f.shown, f.interval, "" if f.n is None else f"{f.n:,}") for f in found.figures]
    return _rows(("measured", "found", "95 % interval", "n"), rows)


def _rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _sources(sources: Mapping[str, Source]) -> str:
    rows = [(name, s.what, s.licence, s.source) for name, s in sources.items()]
    return _rows(("data", "what", "licence", "from"), rows)
