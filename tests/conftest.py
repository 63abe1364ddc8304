"""What all tests share."""

from __future__ import annotations

import signal

import pytest

# A job in the background of a shell ignores Ctrl-C, and so would everything that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many cases the truth tests compared, when they ran."""
    from tests.truth.cases import EXAMPLES, counts

    passed, failed = (
        {report.nodeid.split("::")[0] for report in terminalreporter.stats.get(outcome, [])}
        for outcome in ("passed", "failed")
    )
    done = passed - failed
    files = {"parameters": "parameters", "FLOPs": "flops", "KV cache": "kv_cache", "optimizer": "optimizer"}
    compared = [
        f"{cases:,} {quantity}"
        for quantity, cases in counts(EXAMPLES).items()
        if f"tests/truth/test_{files[quantity]}.py" in done
    ]
    if compared:
        terminalreporter.write_line(f"truth: compared {', '.join(compared)} cases")
