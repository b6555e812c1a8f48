"""``python -m torch2rt``: the command line."""

import sys

from torch2rt.cli import main

sys.exit(main())
