"""Lets `python -m studio.cli` do what `studio` does."""

import sys

from studio.cli import main

sys.exit(main())
