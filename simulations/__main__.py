"""`python -m simulations` is `kdsim`."""

import sys

from simulations.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
