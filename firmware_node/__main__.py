"""``python -m firmware_node``."""

import sys

from firmware_node.cli import main

sys.exit(main())
