"""The page of the article's claims: one card a claim, computed again whenever the book is built."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any

from docutils import nodes
from llmhw_languages import is_chinese, speaker
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

CLAIMS = Path(__file__).parents[1] / "claims.py"


def load() -> ModuleType:
    """`book/claims.py`, which is no part of a package."""
    name = "llmhw_book_claims"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, CLAIMS)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up here
        spec.loader.exec_module(module)
    return sys.modules[name]


def text(words: str) -> nodes.paragraph:
    return nodes.paragraph("", words)


def entry(term: str, *body: nodes.Node) -> nodes.definition_list_item:
    return nodes.definition_list_item("", nodes.term("", term), nodes.definition("", *body))


def bullets(lines: list[tuple[str, str]]) -> nodes.bullet_list:
    """Lines that open with a word in bold."""
    items = (nodes.list_item("", nodes.paragraph("", "", nodes.strong("", a), nodes.Text(b))) for a, b in lines)
    return nodes.bullet_list("", *items)


def claim_id(number: int) -> str:
    return f"claim-{number}"


class ClaimsAudit(SphinxDirective):
    """`{claims-audit}`: the counts, the corrections, and a card for each claim, by section of the article."""

    def run(self) -> list[nodes.Node]:
        self.audit = load()
        self.say = speaker(self.env)
        self.env.note_dependency(str(CLAIMS))
        claims = self.audit.claims()
        return [*self.summary(claims), *self.sections(claims)]

    def summary(self, claims: list[Any]) -> Iterator[nodes.Node]:
        say = self.say
        counts = Counter(claim.verdict for claim in claims)
        computed = sum(claim.number in self.audit.CHECKS for claim in claims)
        yield text(
            say("{count} claims; the verdicts of {computed} are computed below.").format(
                count=len(claims), computed=computed
            )
        )
        yield bullets([(f"{say(verdict)}: ", str(counts[verdict])) for verdict in self.audit.VERDICTS])
        section = nodes.section(ids=["corrections"])
        section += nodes.title("", say("What the computation corrected"))
        section += text(say("The claims were first judged by hand. Computing them changed these entries."))
        items = nodes.bullet_list()
        for claim in claims:
            if claim.correction:
                name = say("Claim {number}").format(number=claim.number)
                link = nodes.reference("", name, internal=True, refid=claim_id(claim.number))
                items += nodes.list_item("", nodes.paragraph("", "", link, nodes.Text(f". {say(claim.correction)}")))
        section += items
        yield section

    def sections(self, claims: list[Any]) -> Iterator[nodes.section]:
        for index, (name, group) in enumerate(groupby(claims, key=lambda claim: claim.section)):
            section = nodes.section(ids=[f"claims-part-{index + 1}"])
            section += nodes.title("", self.say(name))
            section += [self.card(claim) for claim in group]
            yield section

    def card(self, claim: Any) -> nodes.container:
        say = self.say
        card = nodes.container(ids=[claim_id(claim.number)], classes=["claim", f"claim-{claim.verdict}"])
        if is_chinese(self.config):  # the article's own words need no translation
            card += nodes.paragraph("", "", nodes.strong("", f"{claim.number}. {claim.original}"))
        else:
            card += nodes.paragraph("", "", nodes.strong("", f"{claim.number}. {claim.claim}"))
            card += nodes.paragraph("", claim.original, classes=["claim-original"])
        facts = nodes.definition_list()
        verdict = say(claim.verdict).capitalize()
        facts += entry(say("Verdict"), nodes.paragraph("", verdict, classes=["claim-verdict"]))
        facts += entry(say("What holds"), text(say(claim.truth)))
        if claim.number in self.audit.CHECKS:
            finding = self.audit.CHECKS[claim.number]()
            lines = [(say("Holds: ") if case.holds else say("Does not hold: "), case) for case in finding.cases]
            if finding.earlier is not None:
                lines.append((say("Held once: "), finding.earlier))
            said = [(start, say("{case}: {shown}.").format(**self.words(case))) for start, case in lines]
            facts += entry(say("Computed"), bullets(said))
        facts += entry(say("Why"), text(say(claim.reason)))
        facts += entry(say("Source"), text(say(claim.source)))
        card += facts
        return card

    def words(self, case: Any) -> dict[str, str]:
        """What a case says, of whose computed numbers no catalogue knows."""
        found = {}
        for name, words in (("case", case.words), ("shown", case.shown)):
            template, numbers = self.audit.without_numbers(words)
            found[name] = self.say(template).format("", *numbers)
        return found


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("claims-audit", ClaimsAudit)
    app.add_css_file("claims.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
