"""What a class needs, from the book as it is committed: `make course`, or python -m book.course --seed 2027.

For students: notebooks without answers, problem sets, labs, a homework that pytest grades, the capstone's rubric.
For the instructor: notebooks with answers, keys, the exam, syllabi, the homework's solution. And slides.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import nbformat

from book.course import chapters as read
from book.course import papers, slides
from book.course.problems import PAPERS, TITLES
from llmhw.exercises.capstone import RUBRIC

HERE = Path(__file__).parent
OUT = read.ROOT / "_build" / "course"


def syllabus(name: str) -> str:
    """A syllabus with the goals and the exercises of its chapters put in: {goals 6} and {exercises 6}."""
    text = (HERE / "texts" / name).read_text(encoding="utf-8")
    for chapter in read.chapters():
        goals = "\n".join(f"- {goal}" for goal in chapter.goals)
        listed = [id for id, _, _ in chapter.exercises]
        span = f"{listed[0]} to {listed[-1]}" if listed else f"those of chapter {chapter.number}"
        text = text.replace(f"{{goals {chapter.number}}}", goals).replace(f"{{exercises {chapter.number}}}", span)
    return text


def rubric() -> str:
    """The capstone's, with the table of the library."""
    rows = [f"| **{line.name}** | {line.points} | {line.half} | {line.whole} |" for line in RUBRIC]
    table = "\n".join(["| criterion | points | half of them | all of them |", "|---|---|---|---|", *rows])
    return (HERE / "texts" / "capstone_rubric.md").read_text(encoding="utf-8").replace("{rubric}", table)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def write_notebook(path: Path, notebook: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


def write_chapters(out: Path) -> None:
    """Notebooks of both kinds, and slides with a page that lists them."""
    listed = []
    for chapter in read.chapters():
        made = read.student(chapter.notebook)
        given_away = read.leaks(made, chapter.notebook)
        if given_away:
            raise SystemExit(f"{chapter.path.name}: an answer would reach the students: {given_away[0]}")
        write_notebook(out / "student" / "notebooks" / chapter.path.name, made)
        write_notebook(out / "instructor" / "notebooks" / chapter.path.name, read.instructor(chapter.notebook))
        write(out / "slides" / f"{chapter.path.stem}.html", slides.page(chapter))
        listed.append(f'<li><a href="{chapter.path.stem}.html">{slides.html(chapter.title)}</a></li>')
    index = (HERE / "texts" / "slides_index.html").read_text(encoding="utf-8")
    write(out / "slides" / "index.html", index.replace("{chapters}", "\n".join(listed)))


def write_papers(out: Path, seed: str) -> None:
    """Problem sets go to the students; the exam and all keys to the instructor."""
    for name, problems in PAPERS.items():
        side = "instructor" if name == "exam" else "student"
        write(out / side / f"{name}.md", papers.paper(TITLES[name], problems, seed))
        write(out / "instructor" / f"{name}_key.md", papers.key(TITLES[name], problems, seed))


def write_work(out: Path) -> None:
    """Labs, homework, rubric, syllabi and what is where."""
    for lab in sorted((HERE / "labs").glob("*.md")):
        write_notebook(
            out / "student" / "labs" / f"{lab.stem}.ipynb", read.from_markdown(lab.read_text(encoding="utf-8"))
        )
    unseen = shutil.ignore_patterns("__pycache__", ".pytest_cache", "solution")
    shutil.copytree(HERE / "homework", out / "student" / "homework", ignore=unseen)
    shutil.copytree(HERE / "homework" / "solution", out / "instructor" / "homework_solution")
    for name in ("syllabus_4_weeks.md", "syllabus_14_weeks.md"):
        write(out / "instructor" / name, syllabus(name))
        write(out / "student" / name, syllabus(name))
    write(out / "student" / "capstone_rubric.md", rubric())
    shutil.copy(HERE / "texts" / "README.md", out)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m book.course", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", default="1", help="chooses the numbers of problem sets and exam; any text")
    parser.add_argument("--out", type=Path, default=OUT, help="a folder; what is in it is replaced")
    options = parser.parse_args(arguments)
    if options.out.exists() and not (options.out / "README.md").exists() and any(options.out.iterdir()):
        raise SystemExit(f"{options.out} holds something else; give a new folder, or an earlier one of this program")
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    write_chapters(options.out)
    write_papers(options.out, options.seed)
    write_work(options.out)
    print(f"The course: {options.out} (numbers: {options.seed}); start with its README.md")


if __name__ == "__main__":
    main()
