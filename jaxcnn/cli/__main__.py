"""Lets `python -m jaxcnn.cli` stand for `jaxcnn`."""

import sys

from jaxcnn.cli import main

sys.exit(main())
