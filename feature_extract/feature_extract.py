"""Features of recordings, with a trained EAT: ``python feature_extract/feature_extract.py --help``."""

import sys
from pathlib import Path

# Works from a checkout that is not installed, too.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from EAT.commands.extract import main

if __name__ == "__main__":
    sys.exit(main())
