"""What `make course` writes: nothing of an answer for students, all of it for instructors. In all some 25 s."""

from __future__ import annotations

import ast
import json
import math
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from book.course import papers
from book.course.__main__ import main
from book.course.chapters import Chapter, chapters, folded, student
from book.course.problems import PAPERS, TITLES
from llmhw.cli import COMMANDS, data
from llmhw.exercises import Exercise
from llmhw.exercises.judging import slips
from tests.book.conftest import ROOT

HOMEWORK = ROOT / "book" / "course" / "homework"
SEED = "autumn"

every_chapter = pytest.mark.parametrize("chapter", chapters(), ids=lambda chapter: chapter.path.stem)
PROBLEMS = [problem for problems in PAPERS.values() for problem in problems]
every_problem = pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.id)


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "course"
    main(["--out", str(out), "--seed", SEED])
    return out


def prose(path: Path) -> str:
    return "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)


# -- notebooks --------------------------------------------------------------------------------


@every_chapter
def test_no_answer_reaches_the_students(course: Path, chapter: Chapter) -> None:
    """Read anew from the files: no fold, and no line of an answer's code or output that the chapter has only there."""
    text = (course / "student" / "notebooks" / chapter.path.name).read_text(encoding="utf-8")
    assert "<details" not in text
    assert "Answer</summary>" not in text
    original = chapter.path.read_text(encoding="utf-8")
    for answer in folded(chapter.notebook):
        for block in re.findall(r"```(?:python|text)\n(.*?)```", answer, re.DOTALL):
            for line in (line.strip() for line in block.splitlines()):
                if len(line) > 12 and original.count(json.dumps(line)[1:-1]) == 1:
                    assert json.dumps(line)[1:-1] not in text, line


@every_chapter
def test_students_keep_the_questions_and_the_cells_to_start_from(course: Path, chapter: Chapter) -> None:
    made = prose(course / "student" / "notebooks" / chapter.path.name)
    for id, stars, kind in chapter.exercises:
        assert f"**{id}** {stars} *{kind}.*" in made
        assert f'exercises.check("{id}"' in made
    outside = re.sub(r"<details>.*?</details>", "", prose(chapter.path), flags=re.DOTALL)
    assert len(made) > 0.9 * len(outside.strip()) - 20, "nothing else was cut"


@every_chapter
def test_instructors_have_the_answers_open(course: Path, chapter: Chapter) -> None:
    made = prose(course / "instructor" / "notebooks" / chapter.path.name)
    assert made.count("<details open>") == len(folded(chapter.notebook))


def test_an_answer_in_the_open_is_found() -> None:
    from book.course.chapters import leaks

    question, answer = (
        "**1.1** ★ *compute.* How many?",
        "<details>\n\n```python\nprint(6 * 7 * parameters_of_it)\n```\n\n</details>",
    )
    cells = [nbformat.v4.new_markdown_cell(f"{question}\n\n{answer}")]
    original = nbformat.v4.new_notebook(cells=cells)
    made = student(original)
    assert [cell.source for cell in made.cells] == [question]
    assert not leaks(made, original)
    made.cells[0].source += "\n\nprint(6 * 7 * parameters_of_it)"
    assert leaks(made, original) == ["print(6 * 7 * parameters_of_it)"]
    assert leaks(original, original)[0] == "a folded answer"


# -- slides -----------------------------------------------------------------------------------


@every_chapter
def test_slides_hold_every_takeaway_and_figure_and_ask_no_network(course: Path, chapter: Chapter) -> None:
    page = (course / "slides" / f"{chapter.path.stem}.html").read_text(encoding="utf-8")
    takeaways = sum(cell.source.count("> **Takeaway.**") for cell in chapter.notebook.cells)
    assert page.count('class="takeaway"') + page.count("class='takeaway'") == takeaways
    drawn = [out for cell in chapter.notebook.cells for out in cell.get("outputs", []) if "data" in out]
    figures = [out for out in drawn if {"image/svg+xml", "image/png"} & set(out["data"])]
    assert page.count("<figure>") == len(figures)
    assert not re.search(r"(?:src|srcset)=\"(?!data:)|<link[^>]*href=\"(?!data:)|@import|url\((?!data:)", page)
    assert not re.search(r"<img(?![^>]*alt=)", page)
    assert "$" not in re.sub(r"<script>.*?</script>|\$[0-9]|alt=\"[^\"]*\"", "", page, flags=re.DOTALL), (
        "math that is not set"
    )
    assert len(page) < 1_500_000


@pytest.mark.xdist_group("site")
def test_slides_are_moved_by_the_keyboard(course: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    asked: list[str] = []
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.on("request", lambda request: asked.append(request.url))
        page.goto((course / "slides" / "06_many_devices.html").as_uri())
        seen = []
        for key in ("ArrowRight", " ", "ArrowLeft", "End", "ArrowRight", "Home"):
            page.keyboard.press(key)
            page.wait_for_function("document.querySelectorAll('section:target').length == 1")
            seen.append(page.evaluate("location.hash"))
            visible = "[...document.querySelectorAll('section')].filter(s => s.offsetParent).length"
            assert page.evaluate(visible) == 1
        count = page.evaluate("document.querySelectorAll('section').length")
        browser.close()
    assert seen == ["#s2", "#s3", "#s2", f"#s{count}", f"#s{count}", "#s1"]
    assert {url.split(":")[0] for url in asked} <= {"file", "data"}


# -- problem sets and exam --------------------------------------------------------------------


@every_problem
def test_a_problem_has_an_answer_for_every_seed(problem: Exercise) -> None:
    for seed in range(10):
        given = problem.values(seed)
        right = problem.answer(**given)
        assert math.isfinite(right)
        assert right > 0
        assert problem.judge(right, seed=seed)
        assert "{" not in problem.variant(seed).text
    assert len({problem.variant(seed).text for seed in range(6)}) == 6


@every_problem
def test_mistakes_of_a_problem_are_told_apart(problem: Exercise) -> None:
    given = problem.values()
    for name, wrong in slips(problem, problem.answer(**given), given):
        if name in problem.slips:
            assert f"Likely slip: {name}" in repr(problem.judge(wrong))


def test_papers_give_nothing_away_and_change_with_the_seed() -> None:
    for name, problems in PAPERS.items():
        sheet, other = (papers.paper(TITLES[name], problems, seed) for seed in (SEED, "spring"))
        assert sheet != other
        key = papers.key(TITLES[name], problems, SEED)
        for problem in problems:
            right = problem.answer(**problem.values(SEED))
            assert f"{papers.told(right)} {problem.unit}".rstrip() in key
            assert not problem.unit or not re.search(rf"\b{papers.told(right)} {problem.unit}", sheet)
    assert sum(len(problems) for problems in PAPERS.values()) == 20


def test_exam_and_keys_stay_with_the_instructor(course: Path) -> None:
    shared = {path.name for path in (course / "student").rglob("*")}
    assert not [name for name in shared if "key" in name or "exam" in name or "solution" in name]
    own = {path.name for path in (course / "instructor").iterdir()}
    assert {"exam.md", "exam_key.md", "problem_set_1_key.md", "problem_set_2_key.md", "homework_solution"} <= own
    solution = (HOMEWORK / "solution" / "sizing.py").read_text(encoding="utf-8")
    lines = {line.strip() for line in solution.splitlines() if line.strip().startswith("return")}
    for path in (course / "student").rglob("*.*"):
        if path.is_file():
            assert not [line for line in lines if line in path.read_text(encoding="utf-8")], path


# -- homework, labs, syllabi ------------------------------------------------------------------


def graded(folder: Path) -> str:
    """What a student's pytest prints, without the plugins of this machine."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    env = {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env, check=False).stdout


def test_the_homework_gives_all_points_to_the_solution_and_none_to_the_template(course: Path, tmp_path: Path) -> None:
    empty = shutil.copytree(course / "student" / "homework", tmp_path / "empty")
    said = graded(empty)
    assert "points: 0 of 100" in said
    assert " passed" not in said
    solved = shutil.copytree(empty, tmp_path / "solved")
    shutil.copy(course / "instructor" / "homework_solution" / "sizing.py", solved)
    said = graded(solved)
    assert "points: 100 of 100" in said
    assert "failed" not in said


def test_the_homework_takes_points_for_the_usual_mistakes(tmp_path: Path) -> None:
    folder = shutil.copytree(HOMEWORK, tmp_path / "mine")
    solution = (HOMEWORK / "solution" / "sizing.py").read_text(encoding="utf-8")
    for right, wrong, points in (
        ('config["num_key_value_heads"] * _head', 'config["num_attention_heads"] * _head', 45),
        ("2.0, 2.0, 12.0", "2.0, 2.0, 8.0", 85),
    ):
        assert right in solution
        (folder / "sizing.py").write_text(solution.replace(right, wrong), encoding="utf-8")
        assert f"points: {points} of 100" in graded(folder)


@pytest.mark.parametrize("name", ["lab_1_roofline", "lab_2_peak_memory", "lab_3_serving"])
def test_a_lab_runs_on_a_cpu(course: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    notebook = nbformat.read(course / "student" / "labs" / f"{name}.ipynb", as_version=4)
    scope: dict[str, Any] = {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and not re.search("^ *[!%]", cell.source, re.MULTILINE):
            exec(compile(ast.parse(cell.source), name, "exec"), scope)
    assert capsys.readouterr().out.count("\n") > 4


def test_labs_name_commands_that_there_are() -> None:
    texts = [lab.read_text(encoding="utf-8") for lab in (ROOT / "book" / "course" / "labs").glob("*.md")]
    typed = [shlex.split(line) for text in texts for line in re.findall(r"llmhw ([a-z][-a-z0-9. ]*)", text)]
    assert {words[0] for words in typed} <= set(COMMANDS)
    measured = [words[1:] for words in typed if words[0] == "measure"]
    assert {"device", "step", "activations"} == {words[0] for words in measured}
    known = {option for parameter in data.COMMANDS["measure"].params for option in parameter.opts}
    assert {word for words in measured for word in words if word.startswith("--")} <= known


def test_syllabi_name_each_chapter_and_its_goals(course: Path) -> None:
    long, short = (course / "student" / f"syllabus_{n}_weeks.md" for n in (14, 4))
    for chapter in chapters():
        assert chapter.goals, f"{chapter.path.stem}: its opening lists no goals under '... you can'"
        assert all(f"- {goal}" in long.read_text(encoding="utf-8") for goal in chapter.goals)
        assert f"### {chapter.title.replace('.', '', 1)}" in long.read_text(encoding="utf-8")
    assert "{" not in long.read_text(encoding="utf-8")
    assert "{" not in short.read_text(encoding="utf-8")


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("", encoding="utf-8")
    with pytest.raises(SystemExit, match="holds something else"):
        main(["--out", str(tmp_path)])
    assert (tmp_path / "mine.txt").exists()
