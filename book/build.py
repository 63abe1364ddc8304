"""Build the book, English and Chinese, into _build/html and _build/html/zh: python -m book.build"""

from __future__ import annotations

import filecmp
import re
import shutil
import subprocess
import sys
from pathlib import Path

from book.chinese.texts import ROOT
from book.chinese.tree import TREE, write

SITE = ROOT / "_build" / "html"
BOOK = [str(Path(sys.executable).with_name("jupyter-book")), "build", "-n", "-W", "--keep-going"]


def share(site: Path, folder: str = "zh") -> None:
    """What the Chinese tree has in common with the English one stands once, in that; pages lead there."""
    tree = site / folder
    names = [path.relative_to(site) for path in (site / "_static").rglob("*") if path.is_file()]
    # live.js looks for what it loads from where it lies.
    here = [name for name in names if (tree / name).is_file() and name.name != "live.js"]
    shared = {str(name) for name in here if filecmp.cmp(site / name, tree / name, shallow=False)}

    def lead(match: re.Match[str]) -> str:
        return f"{match[1]}../{match[2]}" if match[2] in shared else match[0]

    for page in tree.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        page.write_text(re.sub(r'((?:href|src)="(?:\.\./)*)(_static/[^"?#]+)', lead, text), encoding="utf-8")
    for name in shared:
        (tree / name).unlink()


def main() -> int:
    """Both trees at the same time; the log of the Chinese one follows that of the English one."""
    write()
    log = TREE / "log"
    with log.open("w", encoding="utf-8") as file:
        chinese = subprocess.Popen(
            [*BOOK, str(TREE), "--path-output", str(TREE)], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT
        )
        english = subprocess.run([*BOOK, "."], cwd=ROOT, check=False).returncode
        failed = chinese.wait() or english
    print(log.read_text(encoding="utf-8"), flush=True)
    if not failed:
        shutil.rmtree(SITE / "zh", ignore_errors=True)
        shutil.move(TREE / "_build" / "html", SITE / "zh")
        share(SITE)
    return failed


if __name__ == "__main__":
    sys.exit(main())
