"""The `llmhw` command, from its first moment on: Ctrl-C while Python still loads ends it as it ends any other."""

import signal


def main() -> None:
    """Load the command, and run it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from llmhw.cli import main as run

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
