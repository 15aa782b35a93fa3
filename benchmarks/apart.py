"""Run each measurement in its own process, so that the peak memory is of this measurement only."""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from anogan_jax import cli


def each_apart(module: str, counts: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each count with the JSON object that ``python -m module --one=count`` prints as its last line."""
    for count in counts:
        command = [sys.executable, "-m", module, f"--workdir={cli.given_workdir()}", f"--one={count}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        yield int(count), json.loads(done.stdout.splitlines()[-1])
