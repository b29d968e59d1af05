"""`python -m r1reward_verl.cli` is `r1reward`."""

import sys

from r1reward_verl.cli import main

sys.exit(main())
