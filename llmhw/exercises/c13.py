"""Exercises of chapter 13, how good are these predictions?"""

from functools import cache
from math import exp, hypot

from llmhw.catalog import read_calibration
from llmhw.exercises.base import Exercise
from llmhw.validation.cases import baseline_mfu, by_family, cases, summary
from llmhw.validation.statistics import percentile


@cache
def _one_vote_a_source() -> float:
    known = read_calibration("training_time")
    unseen = {**known.get("held", {}).get("sources", {}), **known["left_out"]["sources"]}
    return float(percentile([100 * unseen[name]["median_abs_error"] for name in by_family(cases())], 50))


@cache
def _rule_of_thumb(what: str) -> float:
    return float(100 * summary(baseline_mfu(cases(), lambda case: case.device, what=what)[1])["p90"])


def _ratio(answer: float) -> str:
    if not answer > 0:
        return "a ratio of two times is above 0"
    return "" if 0.5 < answer < 2 else "it is off by a factor of two or more: were the threads the same in both?"


EXERCISES = (
    Exercise(
        "13.1",
        "by hand",
        1,
        "A tool predicts {days} days for a plain dense model, with an 80 % interval of −8 % to +{high} "
        "%. You pay a penalty if "
        "the run is late. Which number of days goes into the contract if the risk may be one in ten?",
        unit="days",
        given={"days": (12, 30, 5), "high": (9, 16, 37)},
        answer=lambda days, high: days * (1 + high / 100),
        slips={
            "the lower end": lambda days, high: days * 0.92,
            "the prediction itself: late every second time": lambda days, high: days,
        },
        hints=("An 80 % interval leaves one in ten beyond each of its ends.",),
        tolerance=0.005,
    ),
    Exercise(
        "13.2",
        "compute",
        2,
        "The two largest sources have two fifths of all configurations. Give each *source* one vote: "
        "its own median error, "
        "with the source left out of the fit. What is the median over the sources, in per cent?",
        unit="per cent",
        answer=_one_vote_a_source,
        slips={"a share, not per cent": 0.01},
        hints=('`known["left_out"]["sources"]` has them, and `known["held"]["sources"]` those never fitted.',),
    ),
    Exercise(
        "13.3",
        "compute",
        2,
        "MFU punishes recompute, which does a third more work. Give the baseline a kinder measure: one "
        "HFU a device and format. "
        "What is the 90th percentile of its errors, in per cent?",
        unit="per cent",
        answer=lambda: _rule_of_thumb("hfu"),
        slips={"that of one MFU": lambda: _rule_of_thumb("mfu"), "a share, not per cent": 0.01},
        hints=('`baseline_mfu` takes what="hfu".',),
        tolerance=0.002,
    ),
    Exercise(
        "13.4",
        "find the mistake",
        2,
        '"Our model was fitted to 1,125 configurations. We then left out every tenth at random and '
        "missed them by 4 % in the "
        'median, so expect 4 % on your cluster." Which line of the drawing at the beginning did they hide: a row, a '
        "configuration or a source? Answer with that word, and say why it is not yours.",
        answer=lambda: "configuration",
        choices=("row", "configuration", "source"),
        slips={"then the whole cluster would be hidden": "source", "then repeats of the run would stay": "row"},
        hints=("What of the same cluster and the same week stays in?",),
    ),
    Exercise(
        "13.5",
        "derive",
        3,
        "A plain job is off by a factor of at most $e^{{{plain}}}$ in eight of ten cases, and a mixture "
        "adds an independent error "
        "of $e^{{{more}}}$ (same share). What is the upper end of the interval of a mixture, as a "
        "percentage above the prediction?",
        unit="per cent",
        given={"plain": (0.085, 0.1, 0.05), "more": (0.16, 0.2, 0.34)},
        answer=lambda plain, more: 100 * (exp(hypot(plain, more)) - 1),
        slips={
            "widths added up, as if both always went wrong together": lambda plain, more: 100 * (exp(plain + more) - 1),
            "the width of the logarithm, not the end": lambda plain, more: 100 * hypot(plain, more),
        },
        hints=("Variances of independent errors add up, of their logarithms.",),
        tolerance=0.01,
    ),
    Exercise(
        "13.6",
        "measure",
        2,
        "Measure your own machine: `llmhw measure device --fit here.json`, then `llmhw measure step "
        "smollm2-135m --gpu "
        "here.json`. How far is the predicted training step from the measured one, as predicted over measured?",
        answer=lambda: 1.0,
        accept=_ratio,
        form="one number: predicted over measured seconds",
        hints=("Give the same --threads to both.",),
    ),
)
