"""The catalogues of the Chinese edition: one gettext file a page, kept in step with what the page says."""

from __future__ import annotations

import re
import subprocess
from io import BytesIO
from pathlib import Path

from babel.messages.catalog import Catalog, Message
from babel.messages.pofile import read_po, write_po

from book.chinese.texts import INTERFACE, ROOT, headings, pages, texts

__all__ = ["counts", "headings", "pages", "recorded_commit", "words"]  # what the extensions ask

LOCALE = Path("book/locale/zh_CN")
HEADER = """# Chinese (zh_CN) of {page}. `make gettext` keeps it in step with the page.
msgid ""
msgstr ""
"Language: zh_CN\\n"
"MIME-Version: 1.0\\n"
"Content-Type: text/plain; charset=UTF-8\\n"
"Content-Transfer-Encoding: 8bit\\n"
"X-Source: {page}\\n"
"X-Source-Commit: {commit}\\n"

"""


def po_path(page: str) -> Path:
    return ROOT / LOCALE / Path(page).with_suffix(".po")


def template(page: str) -> Catalog:
    """A page's catalogue without translations."""
    catalog = Catalog(locale="zh_CN")
    for one in texts(page):
        catalog.add(one.text, locations=[(one.file, one.place)], auto_comments=[one.kind])  # type: ignore[list-item]
    return catalog


def read(page: str) -> Catalog:
    path = po_path(page)
    if not path.is_file():
        return Catalog(locale="zh_CN")
    with path.open("rb") as file:
        return read_po(file, locale="zh_CN", abort_invalid=True)


def recorded_commit(page: str) -> str:
    """The commit of the page that its translations were last held against."""
    path = po_path(page)
    found = re.search(r"X-Source-Commit: (\w+)", path.read_text(encoding="utf-8")) if path.is_file() else None
    return found[1] if found else ""


def last_commit(page: str) -> str:
    """The last commit that touched a page; empty without git or its history."""
    command = ["git", "log", "-1", "--format=%h", "--abbrev=12", "--", page]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def messages(catalog: Catalog) -> list[Message]:
    return [message for message in catalog if message.id]


def merged(page: str) -> str:
    """The text of a page's catalogue, in step with the page.

    Translations of texts that are still there are kept. A text that was changed keeps its old translation as fuzzy,
    which the book does not use. A text that is gone is dropped. The commit is a new one where nothing is fuzzy: then
    every translation is one of a text of this commit.
    """
    catalog = read(page)
    catalog.update(template(page), update_creation_date=False)
    for message in messages(catalog):
        message.flags &= {"fuzzy"}  # roles of MyST are no placeholders of Python
    fuzzy = any(message.fuzzy for message in messages(catalog))
    commit = (fuzzy and recorded_commit(page)) or last_commit(page) or recorded_commit(page)
    out = BytesIO()
    write_po(out, catalog, width=0, omit_header=True, ignore_obsolete=True)
    return HEADER.format(page=page, commit=commit) + out.getvalue().decode()


def sources() -> list[str]:
    """All that has a catalogue."""
    return [*pages(), INTERFACE]


def gettext() -> None:
    """Bring all catalogues in step with the pages."""
    for page in sources():
        path = po_path(page)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(merged(page), encoding="utf-8")
        done, _, count = counts(page)
        print(f"{path.relative_to(ROOT)}: {done} of {count} texts translated")


def counts(page: str) -> tuple[int, int, int]:
    """How many texts of a page are translated, how many were changed since, and how many there are."""
    found = messages(read(page))
    fuzzy = sum(message.fuzzy for message in found)
    return sum(bool(message.string) and not message.fuzzy for message in found), fuzzy, len(found)


def words(page: str) -> dict[str, str]:
    """The translations of a page that may be used."""
    return {str(m.id): str(m.string) for m in messages(read(page)) if m.string and not m.fuzzy}
