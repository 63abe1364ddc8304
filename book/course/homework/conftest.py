"""The points: a function has them when all its tests pass."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
worth, lost = {}, set()


def pytest_configure(config):
    config.addinivalue_line("markers", "points(name, number): what a function is worth")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    marked = item.get_closest_marker("points")
    if marked:
        name, number = marked.args
        worth[name] = number
        if report.failed:
            lost.add(name)
    return report


def pytest_terminal_summary(terminalreporter):
    got = sum(number for name, number in worth.items() if name not in lost)
    terminalreporter.write_line(f"points: {got} of {sum(worth.values())}")
