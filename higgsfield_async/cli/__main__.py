"""`python -m higgsfield_async.cli`: the command line."""

import sys

from higgsfield_async.cli import main

if __name__ == "__main__":
    sys.exit(main())
