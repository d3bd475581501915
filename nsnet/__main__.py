"""`python -m nsnet`."""

import sys

from nsnet.cli import main

sys.exit(main())
