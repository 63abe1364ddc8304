"""No drift: each number of a chapter's text, takeaways and alt texts is shown by the chapter itself."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.book.conftest import NOTEBOOKS
from tests.book.numbers import Number, allowed, claims_in, drifting, held_claims, labels_of_picture, numbers_of_output

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def phrases_of(path: Path) -> dict[str, str]:
    return dict(allowed().get(path.stem, {}))


def found_in(notebook: Any, phrases: Any) -> list[str]:
    drift = drifting(notebook, phrases, tuple(allowed()["names"]))
    return [f"{claim.cell}: {claim.number.digits} in: ...{claim.words}..." for claim in drift]


@every_notebook
def test_every_number_of_the_prose_is_shown(path: Path) -> None:
    drift = found_in(nbformat.read(path, as_version=4), phrases_of(path))
    assert not drift, "\n".join(drift)


@every_notebook
def test_every_allowed_phrase_is_needed(path: Path) -> None:
    notebook, phrases = nbformat.read(path, as_version=4), phrases_of(path)
    idle = [phrase for phrase in phrases if not found_in(notebook, phrases.keys() - {phrase})]
    assert not idle, f"stand there no more, or are shown: {idle}"


def test_the_allow_list_is_small_and_has_reasons() -> None:
    lists = {name: entries for name, entries in allowed().items() if name != "names"}
    assert lists.keys() <= {path.stem for path in NOTEBOOKS}
    assert all(reason.strip() for entries in lists.values() for reason in entries.values())
    assert sum(map(len, lists.values())) <= 25


# -- the checker itself -----------------------------------------------------------------------


def notebook_of(prose: str, output: str, code: str = "pass") -> Any:
    texts = nbformat.v4.new_markdown_cell("# Title"), nbformat.v4.new_markdown_cell(prose)
    cells = [texts[0], nbformat.v4.new_code_cell(code), texts[1]]
    cells[1].outputs = [nbformat.v4.new_output("stream", name="stdout", text=output)]
    return nbformat.v4.new_notebook(cells=cells)


@pytest.mark.parametrize(
    ("prose", "output"),
    [
        ("The ratio is 1.05.", "ratio 1.048"),
        ("It costs 5 % of the time.", "lost 5.4%"),
        ("It costs 5 % of the time.", "share 0.05"),
        ("It needs 12.6 GiB.", "weights 12.55 GiB"),
        ("It took 30.84 million hours.", "30.84 M"),
        ("On 16,384 cards.", "16384"),
        ("At most about 300 times.", "295x"),
        ("From 20 to 26 % slower.", "20% and 26%"),
        ("> **Takeaway.** It is 7.1 times as fast.", "7.1"),
    ],
)
def test_a_number_that_is_shown_is_found(prose: str, output: str) -> None:
    assert not drifting(notebook_of(prose, output))


@pytest.mark.parametrize(
    ("prose", "output"),
    [
        ("The ratio is 1.05.", "ratio 1.68"),
        ("The ratio is 1.048.", "ratio 1.05"),  # more digits than were computed
        ("It costs 5 % of the time.", "5 cards"),
        ("It needs 12.6 GiB.", "weights 12.49 GiB"),
        ("It took 30.84 million hours.", "51.9 M"),
        ("On 16,384 cards.", "16,385"),
        ("Exactly 300 times.", "295x"),
        ("From 20 to 26 % slower.", "20% and 31%"),
        ("> **Takeaway.** It is 7.1 times as fast.", "6.8"),
    ],
)
def test_a_number_that_drifted_is_reported(prose: str, output: str) -> None:
    assert drifting(notebook_of(prose, output))


def test_an_input_is_held_as_written_and_a_result_is_not_rounded_to_it() -> None:
    assert not drifting(notebook_of("With 8,192 tokens.", "", "train(seq_len=8192)"))
    assert not drifting(notebook_of("On an H100 of 80 GB.", "", "card('A100 80GB')"))
    assert drifting(notebook_of("With 8,200 tokens.", "", "train(seq_len=8192)"))


def test_names_quotations_and_references_are_no_claims() -> None:
    text = 'An H100 runs Llama-3-70B in bf16 and 4-bit (chapter 7, 2024). They say "about 50 tokens". `--tp 4`'
    assert claims_in(text) == []
    assert claims_in("> the article says 100 GB") == []
    assert [claim.number.digits for claim in claims_in("$6ND$ is $2 \\cdot 32 = 1{,}024$ of 3.5")] == ["1,024", "3.5"]


def test_alt_texts_and_captions_are_prose() -> None:
    notebook = notebook_of("", "ratio 1.0")
    notebook.cells[1].metadata["mystnb"] = {"image": {"alt": "The bar ends at 61."}, "figure": {"caption": "At 17."}}
    assert [claim.number.digits for claim in drifting(notebook)] == ["17", "61"]


def test_a_section_is_held_by_its_own_outputs() -> None:
    notebook = notebook_of("## First\n\nIt is 77.", "nothing")
    other = notebook_of("## Second", "77")
    notebook.cells += [*deepcopy(other.cells[::-1])]
    assert [claim.number.digits for claim in drifting(notebook)] == ["77"]


def test_most_drifts_of_the_chapters_would_be_reported() -> None:
    """Every number of the chapters that has two digits or more, a tenth larger: would it be held by accident?"""
    caught = []
    for path in NOTEBOOKS:
        for claim, holds in held_claims(nbformat.read(path, as_version=4), phrases_of(path), tuple(allowed()["names"])):
            digits = claim.number.digits.replace(",", "")
            if len(digits.replace(".", "").strip("0")) >= 2 and "e" not in digits:
                grown = f"{claim.number.value * 1.1:.{len(digits.partition('.')[2])}f}"
                caught.append(not holds(replace(claim.number, digits=grown)))
    assert len(caught) > 400
    assert sum(caught) > 0.8 * len(caught)


def test_labels_of_a_picture_are_shown_and_ticks_are_not() -> None:
    svg = '<g id="xtick_1"><g id="text_1"><text>800</text></g></g><g id="text_2"><text>cache: 55.1 GiB</text></g>'
    assert labels_of_picture(svg) == "cache: 55.1 GiB"


def test_numbers_inside_outputs() -> None:
    assert Number("30.84", "M") in numbers_of_output("GPU-hours 30.84 M")
    assert Number("10.8", "%") in numbers_of_output("empty, %, at pages of 16\nchat 10.8")
