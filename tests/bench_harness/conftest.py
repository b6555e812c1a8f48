import sys
from pathlib import Path

# `fakes` is imported by name here and by path in the workers.
sys.path.insert(0, str(Path(__file__).parent))
