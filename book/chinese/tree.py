"""The Chinese tree: the sources of the book with the translations put in, under the same names."""

from __future__ import annotations

import shutil
from copy import deepcopy
from typing import Any

import nbformat
import yaml

from book.chinese.catalogues import words
from book.chinese.texts import (
    INTERFACE,
    ROOT,
    captions,
    config,
    contents,
    one_line,
    pages,
    translated,
)

TREE = ROOT / "_build" / "zh"


def settings(said: dict[str, str]) -> Any:
    """`_config.yml` of the Chinese tree."""
    made = deepcopy(config())
    made["title"] = said.get(made["title"], made["title"])
    made["author"] = said.get(made["author"], made["author"])
    made["html"]["baseurl"] += "zh/"
    made["html"]["extra_footer"] = said.get(made["html"]["extra_footer"], made["html"]["extra_footer"])
    made["sphinx"]["config"] |= {
        "language": "zh_CN",
        "html_css_files": ["llmhw.css", "noto-sans-sc/index.css", "zh.css"],
        "llmhw_live": "../live/",  # the English tree's
        "togglebutton_hint": "点击显示",
        "togglebutton_hint_hide": "点击隐藏",
    }
    return made


def toc(said: dict[str, str]) -> Any:
    made = deepcopy(contents())
    for part in made["parts"]:
        part["caption"] = said.get(part["caption"], part["caption"])
    return made


def localized(source: str) -> str:
    """Markdown whose links to pages of the book lead to the Chinese ones: a chapter names their whole address."""
    book = config()["html"]["baseurl"]
    for folder in ("notebooks/", "book/"):
        source = source.replace(f"{book}{folder}", f"{book}zh/{folder}")
    return source


def chinese(page: str) -> str:
    """The source of a page in Chinese, as far as it is translated."""
    said = words(page)
    path = ROOT / page
    if path.suffix != ".ipynb":
        return localized(translated(path.read_text(encoding="utf-8"), said))
    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = localized(translated(cell.source, said))
        for part, key in captions(cell):
            part[key] = said.get(one_line(part[key]), part[key])
    return nbformat.writes(notebook) + "\n"


def write() -> None:
    """Write the whole tree that Jupyter Book builds."""
    shutil.rmtree(TREE, ignore_errors=True)
    shutil.copytree(ROOT / "book", TREE / "book", ignore=shutil.ignore_patterns("locale", "course", "__pycache__"))
    (TREE / "node_modules").symlink_to((ROOT / "node_modules").resolve())
    for page in pages():
        path = TREE / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(chinese(page), encoding="utf-8")
    said = words(INTERFACE)
    for name, value in (("_config.yml", settings(said)), ("_toc.yml", toc(said))):
        (TREE / name).write_text(yaml.safe_dump(value, allow_unicode=True, sort_keys=False), encoding="utf-8")
