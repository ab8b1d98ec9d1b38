"""`python -m tests.benchmarks.make_nanogcg_env`: nanoGCG in an environment of its own, beside the project's.

Its cache works up to transformers 4.47.1, so that is what it gets; torch is the one that the project runs on.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path
from typing import Final

FOLDER: Final = Path("runs/bench/nanogcg")
NANOGCG: Final = "0.3.0"
TRANSFORMERS: Final = "4.47.1"


def interpreter(folder: Path = FOLDER) -> Path:
    """The environment's Python; the first call makes it, which takes about a minute.

    Raises:
        CalledProcessError: pip could not install it.
    """
    python, done = folder / "bin" / "python", folder / "installed.txt"
    torch = version("torch").partition("+")[0]
    wanted = "\n".join((f"torch=={torch}", f"nanogcg=={NANOGCG}", f"transformers=={TRANSFORMERS}", ""))
    if not done.is_file() or done.read_text() != wanted:
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted.split()], check=True)
        done.write_text(wanted)
    return python.absolute()


if __name__ == "__main__":
    print(interpreter())
    sys.exit(0)
