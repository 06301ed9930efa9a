"""Runs the command `jaxcnn` as `python -m jaxcnn.cli`."""

import sys

from jaxcnn.cli import main

sys.exit(main())
