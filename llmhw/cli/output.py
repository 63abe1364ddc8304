"""Answers as text, JSON, rows and files; many answers as one table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import click

from llmhw import __version__
from llmhw.catalog import date
from llmhw.cli.terminal import folded, width
from llmhw.formula import Report, Table, flat
from llmhw.language import LANGUAGE, said
from llmhw.units import PRINTED_CURRENCY, LLMHWError, finite, format_quantity, plain

# -- words ------------------------------------------------------------------------------------


# Names of the library whose option is called otherwise.
_FIELDS = {"device": "gpu", "accelerator": "gpu", "devices": "gpus", "counts": "gpus"}
_FIELDS |= {"kv_format": "kv", "number_format": "weights", "purchase": "budget"}
_FIELDS |= {name: f"gpu_{name}" for name in ("memory", "bandwidth", "tflops")}


def flags_of(command: click.Command) -> dict[str, click.Option]:
    """The options of a command by the names that the library has for them."""
    found = {param.name: param for param in command.params if isinstance(param, click.Option) and param.name}
    given = [param for param in command.params if isinstance(param, click.Option) and isinstance(param.flag_value, str)]
    found |= {f"{param.name}={param.flag_value}": param for param in given}  # --spot is kind="spot"
    return {name: found[flag] for name, flag in _FIELDS.items() if flag in found} | found


def in_flags(text: str, flags: Mapping[str, click.Option]) -> str:
    """A text of the library, its arguments as the command has them: recompute='full' is --recompute full."""

    def flag(name: str) -> str:
        return max(flags[name].opts, key=len)

    def argument(match: re.Match[str]) -> str:
        name, value = match[1], match[2]
        if name not in flags:
            return match[0]
        if flags[name].is_flag and value in ("True", "False"):
            off = flags[name].secondary_opts
            return flag(name) if value == "True" else off[0] if off else f"without {flag(name)}"
        bare = value[1:-1] if value[0] in "'\"" else value
        if f"{name}={bare}" in flags:
            return flag(f"{name}={bare}")
        if (per := getattr(flags[name], "factor", 1)) != 1 and (number := finite(bare)) is not None:
            bare = f"{number / per:g}"
        return f"{flag(name)} {bare}" if bare and re.fullmatch(r"[^\s'\"]+", bare) else f"{flag(name)} {value}"

    text = re.sub(r"(?<![\w.-])([a-z_0-9]+)=('[^']*'|\"[^\"]*\"|[^\s,;:)，；：）。]+)", argument, text)
    # a name of several words is one of the library's wherever it stands
    words = "|".join(name for name in flags if "_" in name)
    return re.sub(rf"(?<![\w.'-])({words})(?![\w='-])", lambda m: flag(m[1]), text) if words else text


# -- tables -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """How the answers of a command are shown side by side.

    columns   (key of a row, title, unit) of what is worth a column
    best      (word, key, max or min) of what marks a row
    rows      the rows of one answer, for --csv; default: one
    each      side by side, all of these rows are shown, and marked among those that have the same value of this key
    """

    columns: Sequence[tuple[str, str, str]] = ()
    best: Sequence[tuple[str, str, Callable[..., Any]]] = ()
    rows: Callable[[Any], Sequence[Mapping[str, Any]]] = field(default=lambda answer: [answer.to_row()])
    each: str = ""


def versions() -> dict[str, str]:
    """What a figure was computed with."""
    sign, rate, told = PRINTED_CURRENCY.get()
    own = {"llmhw_version": __version__, "catalog_date": date()}
    return own | ({"currency": sign.strip(), "currency_per_dollar": f"{rate:g}"} if told else {})


def _below(answer: Report) -> list[str]:
    """What stands below an answer; and the rate, where amounts are not in dollars."""
    rate = PRINTED_CURRENCY.get()[2]
    return [*answer.below(), *([said("amounts at {rate}", rate=rate)] if rate else [])]


def _cell(value: Any, unit: str) -> str:
    if isinstance(value, bool):
        return said("yes" if value else "no")
    if isinstance(value, str):
        return value
    if value is None:
        return "-"
    if unit != "number":
        return format_quantity(value, unit)
    return f"{value:,}" if isinstance(value, int) else format_quantity(value, "")


# Flags whose columns have another name.
_COLUMN = {"gpu": "device", "gpus": "devices"}


@dataclass(frozen=True, repr=False)
class Sweep(Report):
    """Many answers of one command: a row for each combination of its options.

    asked     the options that have many values, of each combination
    answers   an answer, or the error that refuses the combination
    """

    asked: list[dict[str, Any]]
    answers: list[Report | LLMHWError]
    shown: Shown
    flags: Mapping[str, click.Option]
    notes: tuple[str, ...] = ()

    def warnings(self) -> Sequence[str]:
        return self.notes

    @property
    def title(self) -> str:
        return said(
            "{number:,} combinations of {options}", number=len(self.asked), options=", ".join(map(said, self.asked[0]))
        )

    @cached_property
    def _lines(self) -> list[tuple[dict[str, Any], Mapping[str, Any], str]]:
        """What was asked, a row of the answer, and why there is none."""
        lines: list[tuple[dict[str, Any], Mapping[str, Any], str]] = []
        for asked, answer in zip(self.asked, self.answers, strict=True):
            if isinstance(answer, LLMHWError):
                lines.append((asked, {}, str(answer)))
            else:
                rows = self.shown.rows(answer) if self.shown.each else [answer.to_row()]
                lines += [(asked, row, "") for row in rows]
        return lines

    def marks(self) -> list[list[str]]:
        """What each row is best at, of those that fit; nothing where there is nothing to choose from."""
        rows = [row for _, row, _ in self._lines]
        words: list[list[str]] = [[] for _ in rows]
        for word, key, most in self.shown.best:
            alike: dict[Any, dict[int, Any]] = {}
            for i, row in enumerate(rows):
                if row.get(key) is not None and row.get("fits") is not False:
                    alike.setdefault(row.get(self.shown.each), {})[i] = row[key]
            for values in alike.values():
                best = most(values.values())
                for i, value in values.items():
                    if value == best and len(set(values.values())) > 1:
                        words[i].append(word)
        return words

    @property
    def verdict(self) -> str:
        lines, marks, told = self._lines, self.marks(), []
        units = {key: unit for key, _, unit in self.shown.columns}
        for word, key, _ in () if self.shown.each else self.shown.best:
            first = next((i for i, words in enumerate(marks) if word in words), None)
            if first is not None:
                asked, row, _ = lines[first]
                figure = _cell(row[key], units.get(key, "number"))
                told.append(f"{said(word).capitalize()}: {_typed(asked)} ({figure}).")
        held = [bool(row["fits"]) for _, row, _ in lines if "fits" in row]
        fit = said("All {all} fit." if all(held) else "{some} of {all} fit.", some=sum(held), all=len(lines))
        return " ".join([fit, *told] if held else told)

    @cached_property
    def _columns(self) -> dict[str, tuple[str, list[str]]]:
        """Title and cells of what is worth a column, by key.

        Nothing is claimed for what does not fit, but by how much.
        """
        found, rows = {}, [row for _, row, _ in self._lines]
        for key, title, unit in self.shown.columns:
            if any(key in row for row in rows) and key not in self.asked[0]:
                told = [unit in ("", "bytes") or row.get("fits") is not False for row in rows]
                found[key] = title, [_cell(r.get(key), unit) if t else "-" for r, t in zip(rows, told, strict=True)]
        return found

    def _alike(self) -> list[str]:
        """What is the same in all rows, and not said in each of them."""
        return [key for key, (_, cells) in self._columns.items() if len(set(cells)) == 1 and not self.shown.each]

    def footer(self) -> list[str]:
        alike = [key for key in self._alike() if key != "fits"]  # the verdict says that
        told = [f"{said(title)} {cells[0]}" for key, (title, cells) in self._columns.items() if key in alike]
        return [said("In all of them: {figures}.", figures=", ".join(told))] if told else []

    def tables(self) -> list[Table]:
        names, lines, alike = list(self.asked[0]), self._lines, self._alike()
        columns = [column for key, column in self._columns.items() if key not in alike]
        rows = []
        for i, ((asked, _, why), words) in enumerate(zip(lines, self.marks(), strict=True)):
            cells = [column[i] for _, column in columns]
            mark = said("refused: {why}", why=in_flags(why, self.flags)) if why else ", ".join(map(said, words))
            rows.append([*(str(value) for value in asked.values()), *cells, mark])
        left = len(names) + bool(self.shown.each)
        return [Table(self.title, [*names, *(title for title, _ in columns), "best"], rows, left, True)]

    def to_dict(self) -> dict[str, Any]:
        """A list of answers, each with what was asked."""
        return {
            "combinations": [
                {"asked": plain(asked)} | ({"refused": str(a)} if isinstance(a, LLMHWError) else a.to_dict())
                for asked, a in zip(self.asked, self.answers, strict=True)
            ]
        }

    def csv_rows(self) -> list[dict[str, Any]]:
        """All rows of all answers; what was asked comes first where a row does not say it."""
        rows = []
        for (asked, row, why), words in zip(self._lines, self.marks(), strict=True):
            told = {k: v for k, v in asked.items() if _COLUMN.get(k, k.replace("-", "_")) not in row}
            rows.append({**told, **row, "best": ", ".join(words), "refused": why})
        return rows


def _typed(asked: Mapping[str, Any]) -> str:
    """A combination as it is typed."""
    from shlex import quote

    return " ".join(quote(str(v)) if k == "model" else f"--{k} {quote(str(v))}" for k, v in asked.items())


# -- text -------------------------------------------------------------------------------------


def text(answer: Report, flags: Mapping[str, click.Option], *, quiet: bool = False, color: bool = False) -> str:
    """An answer as a person reads it: title, verdict, numbers, what to know, what to do next."""
    spoken = [in_flags(line, flags) for line in (answer.verdict,) if line]
    if quiet:
        return "".join(f"{line}\n" for line in spoken or [getattr(answer, "title", "")])
    most = width()
    first, *tables = (table.spoken() for table in answer.tables())
    title = first.title or getattr(answer, "title", "")
    lines = list(folded(title.splitlines(), most))
    for line in folded(spoken, most):
        bad = line.startswith(tuple(map(said, ("Does not fit", "Does not start", "Does not work", "Does not keep up"))))
        lines.append(click.style(line, fg="red" if bad else "green", bold=True) if color else line)
    lines += folded([answer.setting] if answer.setting else [], most)
    for table in (first._replace(title=""), *tables):
        spoken_rows = [[*row[:-1], in_flags(row[-1], flags)] if table.prose else row for row in table.rows]
        rows = table._replace(rows=spoken_rows).lines(most)[1:]
        rows = rows if not rows or rows[0].strip() else rows[1:]
        lines += [*([""] if lines else []), *([table.title] if table.title else []), *rows]
    notes = [in_flags(line, flags).replace(", --", " --") for line in _below(answer)]
    if notes:
        lines += ["", *folded(notes, most)]
    return "".join(f"{line.rstrip()}\n" for line in lines)


# -- files ------------------------------------------------------------------------------------

ENDINGS = ("json", "csv", "md", "html", "xlsx", "txt")
FOR_PROGRAMS = ("json", "csv", "xlsx")  # in English whatever the reader's language is


def json_text(value: Any) -> str:
    """A value as JSON; a number that is not finite would be no JSON."""
    import json

    return json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _table(rows: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    rows = [dict(flat(row)) for row in rows]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [names, *([row.get(name) for name in names] for row in rows)]


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, a header line first."""
    import csv
    import io

    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(_table(rows))
    return out.getvalue()


def _xlsx(rows: Sequence[Mapping[str, Any]]) -> bytes:
    from io import BytesIO

    try:
        import xlsxwriter
    except ImportError:
        raise LLMHWError("output: a .xlsx file needs XlsxWriter; install it with: pip install 'llmhw[cli]'") from None
    out = BytesIO()
    with xlsxwriter.Workbook(out, {"in_memory": True}) as book:
        sheet, bold = book.add_worksheet("llmhw"), book.add_format({"bold": True})
        for i, row in enumerate(_table(rows)):
            for j, value in enumerate(row):
                if isinstance(value, str):
                    sheet.write_string(i, j, value, None if i else bold)
                elif value is not None:
                    sheet.write(i, j, plain(value) if not isinstance(value, (list, tuple)) else str(value))
        sheet.freeze_panes(1, 0)
        sheet.autofit()
    return out.getvalue()


def _told(answer: Report, flags: Mapping[str, click.Option]) -> list[str]:
    return [in_flags(line, flags) for line in (answer.verdict, *_below(answer)) if line]


def _markdown(answer: Report, flags: Mapping[str, click.Option]) -> str:
    def cells(row: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"

    lines = []
    for i, table in enumerate(table.spoken() for table in answer.tables()):
        lines += [f"## {table.title.splitlines()[0]}", ""] if table.title else []
        lines += [f"{line}\n" for line in _told(answer, flags)] if not i else []
        columns = table.columns or [""] * len(table.rows[0])
        rules = ["---" if j < table.right else "---:" for j in range(len(columns))]
        lines += [cells(columns), cells(rules), *map(cells, table.rows), ""]
    return "\n".join(lines)


def _html(answer: Report, flags: Mapping[str, click.Option]) -> str:
    from html import escape

    told = "".join(f"<p>{escape(line)}</p>" for line in _told(answer, flags))
    title = escape(answer.tables()[0].spoken().title.partition("\n")[0])
    style = "body{font-family:sans-serif;margin:2em}td,th{padding:.2em .8em}caption{text-align:left;font-weight:bold}"
    language = {"zh": "zh-Hans"}.get(LANGUAGE.get(), LANGUAGE.get())
    head = f"<!doctype html><html lang='{language}'><head><meta charset='utf-8'><title>{title}</title>"
    head += f"<style>{style}</style>"
    return f"{head}</head><body>{told}{''.join(table.html() for table in answer.tables())}</body></html>\n"


def json_value(answer: Report) -> Any:
    """What --json prints: an object; of many answers, and of a table of the catalog, a list."""
    found = plain(answer.to_dict())
    if isinstance(answer, Sweep):
        return found["combinations"]
    return found["rows"] if isinstance(answer, Listing) else found | {"versions": versions()}


def written(answer: Report, form: str, shown: Shown, flags: Mapping[str, click.Option]) -> str | bytes:
    """An answer in a form of `ENDINGS`."""
    if form == "json":
        return json_text(json_value(answer))
    if form in ("csv", "xlsx"):
        rows = answer.csv_rows() if isinstance(answer, Sweep) else shown.rows(answer)
        rows = [{**row, **versions()} for row in rows]
        return csv_text(rows) if form == "csv" else _xlsx(rows)
    if form == "md":
        return _markdown(answer, flags)
    return _html(answer, flags) if form == "html" else text(answer, flags)


def form_of(output: str | None, as_json: bool, as_csv: bool) -> str:
    """The form of an answer: as asked, or by the ending of the file it goes to."""
    if as_json and as_csv:
        raise LLMHWError("--json and --csv are two forms of one answer; leave one out")
    asked = "json" if as_json else "csv" if as_csv else ""
    if output in (None, "-"):
        return asked or "txt"
    if not output.strip():
        raise LLMHWError("output='' is no name of a file; give one that ends in ." + ", .".join(ENDINGS))
    ending = output.rpartition(".")[2].lower() if "." in output else ""
    if asked and ending in ENDINGS and ending != asked:
        raise LLMHWError(f"output={output!r} asks for {ending}, and --{asked} for {asked}; leave --{asked} out")
    if not asked and ending not in ENDINGS:
        raise LLMHWError(f"output={output!r} needs a form: end it in .{', .'.join(ENDINGS)}, or add --csv or --json")
    return asked or ending


# -- what is made for the command alone -------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Listing(Report):
    """A table of the catalog: its rows as plain numbers, and as text."""

    title: str
    columns: Sequence[str]
    cells: Sequence[Sequence[str]]
    plain_rows: Sequence[Mapping[str, Any]]
    right: int = 1
    prose: bool = False
    notes: Sequence[str] = ()

    def tables(self) -> list[Table]:
        return [Table(self.title, self.columns, self.cells, self.right, self.prose)]

    def warnings(self) -> Sequence[str]:
        return self.notes

    def to_dict(self) -> dict[str, Any]:
        return {"rows": list(self.plain_rows)}


def counted(number: int, one: str, many: str) -> str:
    """How many of what."""
    return f"{number} {said(many) if number != 1 or LANGUAGE.get() != 'en' else one}"


LISTED = Shown(rows=lambda listing: listing.plain_rows)


@dataclass(frozen=True, repr=False)
class Text(Report):
    """A text as an answer, such as an explanation; `found` is what --json has."""

    text: str
    found: Mapping[str, Any]

    @property
    def plain_rows(self) -> Sequence[Mapping[str, Any]]:
        raise LLMHWError("a formula with its numbers is no row of a table; use --json, or leave --csv and .xlsx out")

    def tables(self) -> list[Table]:
        return [Table("", (), [(line,) for line in self.text.splitlines()])]

    def to_dict(self) -> dict[str, Any]:
        return dict(self.found)
