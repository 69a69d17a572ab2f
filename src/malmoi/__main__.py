"""`python -m malmoi`: the command line, for launchers that start Python modules (`torchrun -m malmoi train ...`)."""

import sys

from malmoi.cli import main

if __name__ == "__main__":
    sys.exit(main())
