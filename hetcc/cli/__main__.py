"""``python -m hetcc.cli``."""

import sys

from hetcc.cli import main

if __name__ == "__main__":
    sys.exit(main())
