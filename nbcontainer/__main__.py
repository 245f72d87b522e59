"""``python -m nbcontainer``: the command, with this very Python."""

import sys

from nbcontainer.cli import main

sys.exit(main())
