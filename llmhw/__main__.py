"""`python -m llmhw` is the `llmhw` command."""

from llmhw.cli import main

main()
