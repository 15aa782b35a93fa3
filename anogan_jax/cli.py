"""What train.py and score.py share: flags, messages, exit codes."""

import contextlib
import ctypes
import difflib
import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import jax
from absl import app, flags
from ml_collections import config_flags

from anogan_jax import config as configs
from anogan_jax.config import Config
from anogan_jax.devices import is_first, join_processes
from anogan_jax.errors import UserError

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_UNREADABLE = 3  # all is done, but some files of a folder could not be read

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Python file with get_config(), such as configs/mnist.py. Any field of it is set as --config.search.steps=100; "
    "anogan_jax/config.py explains them all.",
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "This is one of several processes, started alike on one or more machines, that work as one."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Work directory of the run. Default: runs/<name of the config file>.")


def run(main: Callable[[], int | None]) -> None:
    """Parses the flags and runs ``main``; the user's errors become one line and an exit code, no traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("anogan_jax").setLevel(logging.INFO)
    # Of the libraries' own messages only errors concern the user, and those we report ourselves.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    keep_memory()
    keep_compiled_programs()
    try:
        _parse_flags()
        if _DISTRIBUTED.value:
            join_processes()
            if not is_first():
                logging.getLogger("anogan_jax").setLevel(logging.WARNING)
        code = main() or 0
    except UserError as error:
        code = _complain(str(error), EXIT_ERROR)
    except KeyboardInterrupt:
        code = _complain("interrupted", 130)
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_ERROR
    if code in (EXIT_ERROR, EXIT_USAGE) and _DISTRIBUTED.value:
        sys.stderr.flush()
        os._exit(code)  # an orderly end would wait for processes that wait for this one
    sys.exit(code)


def keep_memory() -> None:
    """Has glibc keep memory that was freed; call it before JAX computes anything.

    XLA takes a program's temporary memory, hundreds of megabytes, anew for every step. Handed back
    to the system in between, it is faulted in page by page each time: up to a third of a training
    step on a CPU. Elsewhere than on Linux nothing is done.

    Only the first thread's memory can be kept in such pieces, so programs run on the thread that
    calls them, and for that their inputs have to be ready, or the CPU client puts them off to
    another. One arena for all threads would keep it too, but those that multiply then wait for each
    other's allocations, a tenth of a step where compiling has left that arena in fragments.
    """
    mmap_max, trim_threshold, top_pad = -4, -1, -2  # of malloc.h
    with contextlib.suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        for parameter, value in ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 2**28)):
            libc.mallopt(parameter, value)
        jax.config.update("jax_cpu_enable_async_dispatch", False)


def keep_compiled_programs() -> None:
    """Compiled programs go to the user's cache: the next run on the same machine starts within seconds.

    JAX_COMPILATION_CACHE_DIR names another place.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "anogan_jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def given_config() -> Config | None:
    """The config of the command line, checked, or None where none was given.

    ``--config.data.anomalous=K`` alone takes the place of the file's ``data.normal``.

    Raises:
      UserError: a value that cannot work.
    """
    if _CONFIG.value is None:
        return None
    config, path = _CONFIG.value, _config_path()
    if not isinstance(config, Config):
        # config_flags hides a file that failed to load behind an object that keeps the error.
        failure = vars(config).get("_error")
        if not path.is_file():
            reason = "no such file"
        elif failure is not None:
            reason = f"cannot be loaded: {_last_line(failure.__cause__ or failure.__context__ or failure)}"
        else:
            reason = "get_config() must return an anogan_jax.config.Config"
        raise UserError(f"--config={path}: {reason}")
    overrides = config_flags.get_override_values(flags.FLAGS["config"])
    for field, other in (("anomalous", "normal"), ("normal", "anomalous")):
        if f"data.{field}" in overrides and f"data.{other}" not in overrides:
            setattr(config.data, other, None)
    configs.validate(config)
    return config


def given_workdir() -> Path:
    """The work directory of the command line, by default named after the config file.

    Raises:
      UserError: neither was given.
    """
    if _WORKDIR.value:
        return Path(_WORKDIR.value)
    if _CONFIG.value is None:
        raise UserError("give --config=configs/mnist.py, or --workdir=DIRECTORY of an earlier run")
    return Path("runs") / _config_path().stem


def _config_path() -> Path:
    return Path(config_flags.get_config_filename(flags.FLAGS["config"]))


def _parse_flags() -> None:
    app.define_help_flags()
    known = [f"config.{name}" for name in configs.to_fields(Config())]
    for argument in sys.argv[1:]:
        name = argument.lstrip("-").split("=")[0]
        if name.startswith("config.") and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0)
            sys.exit(_complain(f"--{name}: no such field; did you mean --{near[0]}?", EXIT_USAGE))
    try:
        unparsed = flags.FLAGS(sys.argv)
    except flags.Error as error:
        needed = re.fullmatch(r"flag (--\w+)=None: .* must have a value other than None\.", _last_line(error))
        sys.exit(_complain(f"{needed[1]} is needed" if needed else _last_line(error), EXIT_USAGE))
    except Exception as error:  # what the config file itself raises
        sys.exit(_complain(f"--config: cannot be loaded: {_last_line(error)}", EXIT_USAGE))
    if len(unparsed) > 1:
        sys.exit(_complain(f"unexpected argument {unparsed[1]!r}; flags begin with --", EXIT_USAGE))


def _last_line(error: Exception) -> str:
    lines = str(error.args[0] if error.args else "").strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def _complain(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code
