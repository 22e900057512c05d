"""The command line: results to stdout, logs and progress to stderr.

Exit status: 0 done, 1 failed while working, 2 wrong usage or input, 130 interrupted (start the same command again to
resume). A message is one line on stderr; set AUTOPRUNE_TRACEBACK=1 to see where it came from.
"""

from autoprune.cli.app import main

__all__ = ["main"]
