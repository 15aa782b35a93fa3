"""The command line of the programs train, score and export: flags, messages, exit codes."""

import contextlib
import ctypes
import difflib
import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
from absl import flags
from ml_collections import config_flags

from anogan_jax import config as configs
from anogan_jax.config import Config
from anogan_jax.devices import is_first, join_processes, keep_compiled_programs
from anogan_jax.errors import UserError, printable

log = logging.getLogger(__name__)
EXIT_ERROR, EXIT_USAGE = 1, 2
EXIT_UNREADABLE = 3  # done, but some images could not be read

for of_text in (Literal, Annotated):  # checked by config.validate
    config_flags.register_flag_parser_for_type(of_text, flags.ArgumentParser())
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "This process works together with others, started alike on one or more machines."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Work directory of the run. Default: runs/<name of the config file>.")


def run(main: Callable[[], int | None]) -> None:
    """Parse the flags, run ``main`` and exit; a UserError becomes one line and an exit code, without traceback."""
    handle_ctrl_c()
    logging.basicConfig(level=logging.WARNING, handlers=[_LogHandler(sys.stderr)], force=True)
    logging.getLogger("anogan_jax").setLevel(logging.INFO)
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    for module in ("PIL", "pydicom", "nibabel"):  # warnings about damaged files; serious damage raises an error
        for category in (UserWarning, RuntimeWarning):
            warnings.filterwarnings("ignore", category=category, module=module)
    keep_memory()
    keep_compiled_programs()
    is_one_of_several = False
    try:
        _parse_flags(main)
        is_one_of_several = _DISTRIBUTED.value
        if is_one_of_several:
            join_processes()
        _check_devices()
        if not is_first():
            logging.getLogger("anogan_jax").setLevel(logging.WARNING)
        code = main() or 0
        sys.stdout.flush()
    except UserError as error:
        code = _complain(str(error), EXIT_ERROR)
    except KeyboardInterrupt:
        code = _complain("interrupted", 130)
    except BrokenPipeError:  # the reader of our output exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_ERROR
    except OSError as error:
        code = _complain(f"{error.filename or 'the output'}: {error.strerror or error}", EXIT_ERROR)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception:
        if not is_one_of_several:
            raise
        traceback.print_exc()
        code = EXIT_ERROR
    if code in (EXIT_ERROR, EXIT_USAGE) and is_one_of_several:
        sys.stderr.flush()
        os._exit(code)  # an orderly exit would wait for processes that wait for this one
    sys.exit(code)


def handle_ctrl_c() -> None:
    """Raise KeyboardInterrupt on Ctrl-C, and end the process after five seconds if it has not ended.

    Python runs a handler only between two bytecodes of the main thread, so a long call into C delays it, and an
    exception that it raises inside a callback from C is swallowed. A thread that reads the wakeup file sees the signal
    in both cases. It ignores signals while training handles them itself.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.signal(signal.SIGINT, _interrupt)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def end() -> None:
        while number := os.read(reader, 1):
            if number[0] == signal.SIGINT and signal.getsignal(signal.SIGINT) is _interrupt:
                time.sleep(5)
                os._exit(_complain("interrupted", 130))

    threading.Thread(target=end, daemon=True).start()


def keep_memory() -> None:
    """Make glibc keep freed memory; call it before JAX computes anything. It has no effect on systems without glibc.

    XLA allocates a program's temporary memory, hundreds of megabytes, in every step. If glibc returned it to the system
    in between, its pages would be faulted in again each time, which takes up to a third of a training step on a CPU.
    glibc keeps such memory only for the main thread, so programs must run on the calling thread. For that their inputs
    have to be ready; otherwise the CPU client runs them on another thread.
    """
    mmap_max, trim_threshold, top_pad = -4, -1, -2  # of malloc.h
    with contextlib.suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        for parameter, value in ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 2**28)):
            libc.mallopt(parameter, value)
        jax.config.update("jax_cpu_enable_async_dispatch", False)


def given_config() -> Config | None:
    """Return the checked config of --config with its overrides, or None without --config.

    ``--config.data.anomalous=K`` replaces the file's ``data.normal`` unless that is given too, and the reverse.

    Raises:
      UserError: the file cannot be loaded, or a value is invalid.
    """
    path, config = _config_path(), flags.FLAGS["config"].value
    if path is None:
        return None
    if not isinstance(config, Config):
        # For a config that failed to load, config_flags returns an object with the error.
        failure = getattr(config, "_error", None)
        if failure is not None:
            reason = _config_error(failure, str(path))
        else:
            reason = "get_config() must return an anogan_jax.config.Config"
        raise UserError(f"--config={path}: {reason}")
    overrides = given_overrides()
    for field, other in (("anomalous", "normal"), ("normal", "anomalous")):
        if f"data.{field}" in overrides and f"data.{other}" not in overrides:
            setattr(config.data, other, None)
    return configs.validate(config)


def given_overrides() -> dict[str, Any]:
    """Return the fields given as --config.<name>=value, by their dotted names."""
    return config_flags.get_override_values(flags.FLAGS["config"])


def warn_of_differences(trained: Config, workdir: Path) -> None:
    """Warn of the training settings in which --config differs from the work directory's."""
    config = given_config()
    for difference in configs.differences(trained, configs.with_window_of(config, trained)) if config else ():
        if not configs.is_scoring(difference):
            log.warning("%s was trained with %s as --config says", workdir, difference)


def given_workdir() -> Path:
    """Return the work directory, by default named after the config file; raise UserError if neither is given."""
    if _WORKDIR.value:
        return Path(_WORKDIR.value)
    path = _config_path()
    if path is None:
        raise UserError("give --config=mnist or another config, or --workdir=DIRECTORY of an earlier run")
    return Path("runs") / path.stem


def _config_path() -> Path | None:
    """Return the file of --config, or None without --config; overrides then change the defaults."""
    path = Path(config_flags.get_config_filename(flags.FLAGS["config"]))
    return None if path == Path(configs.__file__) else path


def packaged_configs() -> dict[str, Path]:
    """Return the files of the packaged configs by their names; in the repository they are in its folder configs/."""
    here = Path(__file__).parent
    folder = next(each for each in (here / "configs", here.parent / "configs") if each.is_dir())
    return {path.stem: path for path in sorted(folder.glob("[!_]*.py"))}


def _arguments() -> tuple[list[str], str]:
    """Return the program's arguments, with the name of a packaged config as its path, and the path of the config.

    The path is empty if no config is given. Exit if the file is missing.
    """
    arguments, packaged, path = list(sys.argv), packaged_configs(), ""
    for i in range(1, len(arguments)):
        flag, equals, name = arguments[i].rpartition("=")
        if (flag or arguments[i - 1]) not in ("--config", "-config"):
            continue
        path = str(packaged.get(name, name))
        arguments[i] = f"{flag}{equals}{path}"
        if not os.path.isfile(path):
            what = "not a file" if os.path.isdir(path) else "no such file"
            text = f"--config={name}: {what}, and no packaged config has this name ({', '.join(packaged)})"
            sys.exit(_complain(text, EXIT_ERROR))
    return arguments, path


def _parse_flags(main: Callable[[], int | None]) -> None:
    """Parse the flags; exit after --help, or with one line of error if a flag is wrong."""
    known = [f"config.{name}" for name in configs.to_fields(Config())]
    arguments, path = _arguments()
    for argument in arguments[1:]:
        name = argument.lstrip("-").split("=")[0] if argument.startswith("-") else ""
        if (name.startswith("config.") and name not in known) or f"config.{name}" in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0)
            sys.exit(_complain(f"--{name}: no such field; did you mean --{near[0]}?", EXIT_USAGE))
    config_flags.DEFINE_config_file(  # reads the overrides at once, so they are checked before
        "config",
        str(Path(configs.__file__)),
        f"A packaged config ({', '.join(packaged_configs())}), or the path of a Python file with get_config(); a "
        "field of it is set as --config.search.steps=64.",
        sys_argv=arguments,
    )
    if not {"--help", "-help", "-h", "--helpfull"}.isdisjoint(arguments[1:]):
        print(_help(main))
        sys.exit(0)
    flags.FLAGS.set_gnu_getopt(True)  # flags may follow the files to which a shell expands --input=*.png
    try:
        unparsed = flags.FLAGS(arguments)
    except flags.Error as error:
        if "parsing config file" in str(error) and path:
            sys.exit(_complain(f"--config={path}: {_config_error(error, path)}", EXIT_USAGE))
        missing = re.fullmatch(r"flag (--\w+)=None: .* must have a value other than None\.", _last_line(error))
        sys.exit(_complain(f"{missing[1]} is needed" if missing else _last_line(error), EXIT_USAGE))
    except (Exception, SystemExit) as error:  # raised by the config file
        sys.exit(_complain(f"--config={path}: {_config_error(error, path)}", EXIT_USAGE))
    for name in ("workdir", "input", "output"):
        if name in flags.FLAGS and flags.FLAGS[name].value in ("", [""]):
            sys.exit(_complain(f"--{name}: is empty; is a shell variable not set?", EXIT_USAGE))
    if "input" in flags.FLAGS and flags.FLAGS["input"].value:
        flags.FLAGS["input"].value += unparsed[1:]
    elif len(unparsed) > 1:
        sys.exit(_complain(f"unexpected argument {unparsed[1]!r}; flags begin with --", EXIT_USAGE))


def _help(main: Callable[[], int | None]) -> str:
    """Return the docstring of the program's module, its flags, the presets and every field of the config."""
    by_module, modules = flags.FLAGS.flags_by_module_dict(), {main.__module__, sys.argv[0], __name__}
    own = {flag.name: flag.help.split(";\n")[0] for name in by_module.keys() & modules for flag in by_module[name]}
    lines = [
        f"{sys.modules[main.__module__].__doc__}",
        "Flags:",
        *(f"  --{name}\n      {text}" for name, text in sorted(own.items()) if not name.startswith("config.")),
        "",
        "Presets of the search:",
        *(f"  {name}: {preset.summary}" for name, preset in configs.PRESETS.items()),
        "",
        "Settings, with their defaults. A config file may set other values. Training fixes all settings except those",
        'marked "may be given when scoring":',
        configs.help_text(),
    ]
    return "\n".join(lines)


def _last_line(error: BaseException) -> str:
    lines = str(error.args[0] if error.args else "").strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def _config_error(error: BaseException, path: str) -> str:
    """Return why a config file cannot be loaded: the first exception's type and message, and the file's line."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    if not lines and isinstance(error, AttributeError | TypeError):
        return "cannot be loaded: it has no function get_config() without arguments"
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    message = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else _last_line(error)
    return f"cannot be loaded: {type(error).__name__}: {message}{f' (line {line})' if line else ''}"


def _check_devices() -> None:
    """Raise UserError if JAX does not find the devices that JAX_PLATFORMS names."""
    try:
        jax.local_devices()
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS')}: no such device is found") from error


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


class _LogHandler(logging.StreamHandler):
    """Show messages with control characters escaped, so that a file name cannot forge one."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(record.getMessage())


def _complain(message: str, code: int) -> int:
    with contextlib.suppress(OSError):
        print(f"error: {printable(message)}", file=sys.stderr)
    return code
