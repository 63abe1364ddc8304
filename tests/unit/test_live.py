"""All calculators: any setting has an answer or the library's error, and what a reader pastes stays text.

The last part holds the six of models on devices to the library: what is copied gives the same numbers.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import llmhw
from llmhw.fit import smallest_card
from llmhw.hardware import cards
from llmhw.live import CALCULATORS, answer, answer_html, calculator_html, header, respond
from llmhw.live.base import Figure, rounded
from llmhw.planning.served import served_layout
from llmhw.precision import number_format
from llmhw.service import at_load
from llmhw.simulation import filled_cache
from llmhw.units import LLMHWError
from tests.live import answers, leaves, random_settings, run_python
from tests.unit.command import run
from tests.unit.gguf_files import llama, write

# Of each calculator; 200 are compared between a browser's Python and this one in tests/book/test_live.py.
SETTINGS = 60
MODELS = ("fit", "serving", "quantization", "formats", "pages", "curve")
CONFIG: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 8192, "vocab_size": 128256, "max_position_embeddings": 131072,
}  # fmt: skip


class Structure(HTMLParser):
    """The elements of a page with the names of their attributes; asserts that each is closed where it must be."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.ids: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open, self._open

    def _started(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = tuple(name for name, _ in attrs)
        assert len(set(names)) == len(names)
        assert not any(name.startswith("on") for name in names)
        self.elements.append((tag, names))
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._started(tag, attrs)
        if tag != "input":
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._started(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(data)

    handle_comment = handle_pi = handle_decl = unknown_decl


# -- any setting ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CALCULATORS)
def test_random_settings_have_an_answer_or_the_librarys_error(name: str) -> None:
    calculator, found, refused = CALCULATORS[name], 0, list[str]()
    for seed in range(SETTINGS):
        settings = random_settings(calculator, seed)
        try:
            made = calculator.answer(settings)
        except LLMHWError as error:
            refused.append(str(error))
            continue
        found += 1
        assert made.verdict.strip()
        assert not Structure(answer_html(made)).ids  # an answer is replaced as a whole; several stand on one page
        labels = [figure.label for figure in made.figures]
        assert len(set(labels)) == len(labels)  # a page asks for an explanation by the label
        assert all(math.isfinite(figure.value) for figure in made.figures)
    assert all(len(text.splitlines()) == 1 for text in refused)
    assert found > 8  # the rest are layouts that do not divide, formats that a device does not multiply


@pytest.mark.parametrize("name", CALCULATORS)
def test_a_form_and_its_first_answer_are_a_page(name: str) -> None:
    page = Structure(calculator_html(CALCULATORS[name]))
    assert len(set(page.ids)) == len(page.ids)
    assert {"section", "form", "label"} <= {element for element, _ in page.elements}


@pytest.mark.parametrize("name", MODELS)
def test_every_figure_is_explained(name: str) -> None:
    for settings, made in answers(name, 4):
        for figure in made.figures:
            assert figure.explain is not None
            text = figure.explain()
            assert re.search(r"\d", text), (settings, figure.label)
        asked = {"calculator": name, "settings": settings, "explain": figure.label}
        assert json.loads(respond(json.dumps(asked))) == {"explanation": text}


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("fit", {"seq_len": "NaN"}, "seq_len=nan must be a number"),
        ("fit", {"seq_len": "1e400"}, "seq_len=inf must be a number"),
        ("fit", {"seq_len": 4096.5}, "must be a whole number"),
        ("fit", {"seq_len": [1]}, "must be a number"),
        ("fit", {"seq_len": "9" * 5000}, "must be a number"),
        ("fit", {"batch": -1}, "must be a number"),
        ("fit", {"task": "steal"}, "task='steal' is not known"),
        ("fit", {"model": "llama-3-8"}, "did you mean"),
        ("fit", {"model": "/etc/passwd"}, "is not known"),
        ("fit", {"model": None}, "must be a name"),
        ("fit", {"device": "cards.csv"}, "is not known"),
        ("fit", {"device": "x" * 10**6}, "device|accelerator"),
        ("fit", {"<script>": 1}, "is no setting of"),
        ("fit", {"config": {"model_type": "llama"}}, "config=.* must be a text"),
        ("nothing", {}, "calculator='nothing' is not known"),
    ],
)
def test_what_cannot_be_is_one_line(name: str, settings: dict[str, Any], message: str) -> None:
    found = json.loads(respond(json.dumps({"calculator": name, "settings": settings})))
    assert set(found) == {"error"}
    assert re.search(message, found["error"])
    assert len(found["error"].splitlines()) == 1
    assert len(found["error"]) < 1000


# -- the reader's own model -------------------------------------------------------------------

SCRIPTS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</pre><svg/onload=alert(1)>",
    "&lt;b&gt;'{0}",
)


@pytest.mark.parametrize("hostile", SCRIPTS)
@pytest.mark.parametrize("name", ["fit", "serving", "quantization", "layout"])
def test_a_name_stays_text(name: str, hostile: str) -> None:
    """The page has the same elements and attributes as with a harmless name, and the name in full."""
    pages = []
    for called in ("plain", hostile):
        text = json.dumps(CONFIG | {"_name_or_path": called})
        found = json.loads(respond(json.dumps({"calculator": name, "settings": {"config": text}})))
        pages.append(found["html"])
    assert Structure(pages[0]).elements == Structure(pages[1]).elements
    assert hostile not in pages[1]


def _pasted() -> Iterator[tuple[str, str, str]]:
    """What it is, the text, and what the error says."""
    yield "10 MB", "x" * 10**7, "10,000,000 letters, more than"
    yield "10 MB of JSON", json.dumps(CONFIG | {"x": "y" * 10**7}), "letters, more than"
    yield "half a MB of no JSON", "x" * 490_000, "is not JSON"
    yield "half a MB of quotes", '"' * 490_000, "is not JSON"
    yield "deep lists", "[" * 100_000 + "]" * 100_000, "more than 40 deep"
    yield "deep objects", '{"a":' * 70_000 + "1" + "}" * 70_000, "more than 40 deep"
    yield "NaN", json.dumps(CONFIG | {"hidden_size": math.nan}), "hidden_size=nan must be a whole number"
    yield "Infinity", json.dumps(CONFIG | {"num_hidden_layers": math.inf}), "num_hidden_layers=inf must be"
    yield "a list", json.dumps(CONFIG | {"hidden_size": [4096]}), r"hidden_size=\[4096\] must be a whole number"
    yield "twice", '{"hidden_size": 1, "hidden_size": 2}', "the key 'hidden_size' twice"
    yield "many digits", f'{{"hidden_size": {"9" * 5000}}}', "of more than 20 digits"
    yield "a huge size", json.dumps(CONFIG | {"hidden_size": 10**19}), "hidden_size=10{19} must be a whole number"
    yield "bidi", json.dumps(CONFIG | {"_name_or_path": "a\u202egnp.exe"}), "without control characters"
    yield "a surrogate", '{"model_type": "\\ud800"}', "without control characters"
    yield "markup", json.dumps(CONFIG | {"model_type": "<b>x</b>"}), "is not supported"
    yield "nothing", " ", "config is empty"
    yield "null", "null", "not an object"
    yield "arguments", "--num-layers 4 --hidden-size 99999999999999999999999", "config"


@pytest.mark.parametrize(("text", "message"), [pytest.param(*rest, id=name) for name, *rest in _pasted()])
def test_hostile_text_shows_the_librarys_error(text: str, message: str) -> None:
    found = json.loads(respond(json.dumps({"calculator": "fit", "settings": {"config": text}})))
    assert set(found) == {"error"}
    assert re.search(message, found["error"])
    assert len(found["error"].splitlines()) == 1
    assert len(found["error"]) < 1000


def test_an_own_config_is_what_the_command_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    for name in ("fit", "serving", "quantization", "formats", "pages"):
        made = CALCULATORS[name].answer({"config": json.dumps(CONFIG)})
        assert run_python(made.python) == [figure.value for figure in made.figures]
        assert "config.json" in made.command


def test_a_gguf_file_becomes_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head of a file is read once; its config then counts the bytes that the file has."""
    monkeypatch.chdir(tmp_path)
    path = write(Path("mine.gguf"), *llama("Q4_K", **{"general.file_type": 15}), words=3000)
    data, size = path.read_bytes(), path.stat().st_size
    assert header(data[:100], size, "mine.gguf") == {"more": True}
    config = header(memoryview(data)[: size // 2], size, "mine.gguf")["config"]
    made = CALCULATORS["fit"].answer({"config": config, "format": "checkpoint", "seq_len": 128})
    assert "mine.gguf" in made.command
    assert run_python(made.python) == [figure.value for figure in made.figures]
    assert llmhw.ModelSpec.from_config(json.loads(config)).config["quantization_config"]["file_bytes"] == size
    with pytest.raises(LLMHWError, match=r"gguf='x' is no whole GGUF file: it does not begin with GGUF"):
        header(b"MZ" + data[2:], size, "x")


# -- what a reader copies ---------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_python_gives_the_figures(name: str) -> None:
    for settings, made in answers(name, 10):
        assert run_python(made.python) == [figure.value for figure in made.figures], settings


@pytest.mark.parametrize("name", MODELS)
def test_the_commands_print_the_figures(name: str) -> None:
    for settings, made in answers(name, 5):
        printed: set[float] = set()
        for line in made.command.splitlines():
            explains = line.startswith("llmhw explain")
            done = run(*shlex.split(line)[1:], *([] if explains else ["--json"]))
            assert done.returncode == 0, (settings, done.stderr)
            if explains:
                printed |= {rounded(float(number)) for number in re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", done.stdout)}
            else:
                printed |= set(leaves(json.loads(done.stdout)))
        for figure in made.figures:
            if (name, figure.label) != ("pages", "pages held"):  # which is a number of the first line's
                assert figure.value in printed, (settings, figure.label)


def test_values_are_rounded_to_what_every_python_has() -> None:
    assert Figure("x", "0.3", 0.1 + 0.2).value == 0.3
    assert Figure("x", "1", 2**60 + 1).value == 2**60 + 1


# -- what the library learned for them --------------------------------------------------------


def test_the_smallest_card_is_the_first_of_all_that_hold_it() -> None:
    """Every card of a vendor, asked by `fit`."""
    spec = llmhw.model("qwen2.5-14b")
    for name in ("bf16", "int4-awq", "Q4_K_M"):
        holding = []
        for card in cards():
            try:
                row = llmhw.fit(spec, card, formats=[name], uses=["inference"]).rows[0]
            except LLMHWError:
                continue
            holding += [card.memory_bytes] if row.fits else []
        found = smallest_card(spec, name)
        assert found is not None
        assert found.memory_bytes == min(holding), name


def test_some_uses_are_rows_of_the_whole_table() -> None:
    spec = llmhw.model("llama-3.2-1b")
    whole = llmhw.fit(spec, "RTX 4090", seq_len=2048)
    for use in ("full", "full-8bit", "lora", "qlora"):
        (row,) = llmhw.fit(spec, "RTX 4090", seq_len=2048, uses=[use]).rows
        assert row.to_dict() == whole[row.use].to_dict()
    with pytest.raises(LLMHWError, match=r"uses\[0\]='steal' is not known; use one of inference, full"):
        llmhw.fit(spec, "RTX 4090", uses=["steal"])


@pytest.mark.parametrize(
    ("model", "device", "devices", "users"),
    [("llama-3-70b", "h100", 4, 8), ("llama-3.1-8b", "L40S", 8, 32), ("mixtral-8x7b", "RTX 4090", 2, 32),
     ("gpt-oss-120b", "MI300X", 8, 1), ("qwen2.5-32b", "h200", 2, 128)],
)  # fmt: skip
def test_a_layout_by_trying_is_the_one_of_the_search(model: str, device: str, devices: int, users: int) -> None:
    from llmhw.planning.serving import planned_layout

    job = llmhw.ServingJob(model=llmhw.model(model), cluster=llmhw.Cluster(device, devices), weights="int4-awq")
    load: dict[str, Any] = {"input_tokens": 1000, "output_tokens": 200, "concurrency": users}
    tried, (searched, _) = served_layout(job, **load), planned_layout(job, **load)
    ours, theirs = at_load(tried, **load), at_load(searched, **load)
    assert ours.tokens_per_second == pytest.approx(theirs.tokens_per_second, rel=0.01)


def test_pages_are_conserved() -> None:
    """Every page has at most one owner, tokens are what was asked, and who finds no page waits."""
    for page in (4, 16, 64):
        held = filled_cache({"A": 50, "B": 300, "C": 10}, 100, pages=768 // page, page_tokens=page, longest_tokens=256)
        held.table.check()
        assert held.table.used == sum(-(-held.table.tokens_of(name) // page) for name in held.table)
        if not held.waiting:
            assert held.tokens == sum(min(256, min(256, n) + 100) for n in (50, 300, 10))
        assert 0 <= held.unused.value < (page - 1) * len(held.table) / held.tokens
    full = filled_cache({"A": 60, "B": 60}, 50, pages=8, longest_tokens=500)
    assert full.table.free == 0
    assert set(full.waiting) == {"A", "B"}
    assert full.reserved == ()


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("fp64", "float64"), ("fp32", "float32"), ("fp16", "float16"), ("bf16", "bfloat16"), ("fp8", "float8_e4m3fn")],
)
def test_bits_of_a_float_give_torchs_range(name: str, dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="needs the extra torch")
    facts = torch.finfo(getattr(torch, dtype))
    terms = number_format(name).float_terms()
    assert terms is not None
    assert [t.value for t in terms] == [facts.max, facts.eps]


@pytest.mark.parametrize(("name", "largest"), [("mxfp4", 6.0), ("nvfp4", 6.0), ("mxfp6", 7.5), ("mxfp8", 448.0)])
def test_bits_of_a_block_format_give_the_range_of_its_specification(name: str, largest: float) -> None:
    """OCP Microscaling Formats (MX) v1.0, tables 1 to 3."""
    terms = number_format(name).float_terms()
    assert terms is not None
    assert terms[0].value == largest


def test_bits_of_a_value_add_up() -> None:
    for name in llmhw.number_formats():
        fmt = number_format(name)
        if fmt.value_bits and name != "tf32":  # stored as fp32
            assert sum(count for _, count in fmt.value_bits) == fmt.bits, name


def test_the_answer_at_first_is_in_the_page() -> None:
    for name in CALCULATORS:
        assert answer_html(answer(name)) in calculator_html(CALCULATORS[name])
