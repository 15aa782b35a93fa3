"""Run a program of the package: python -m anogan_jax train|score|export FLAGS; --help after the name lists them."""

import importlib
import sys

PROGRAMS = ("train", "score", "export")


def main() -> None:
    """Run the program that the first argument names, with the arguments after it."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in PROGRAMS:
        if name in ("--help", "-h"):
            print(__doc__)
            sys.exit(0)
        print(f"error: give one of {', '.join(PROGRAMS)}, not {name!r}", file=sys.stderr)
        sys.exit(2)
    del sys.argv[1]
    importlib.import_module(f"anogan_jax.{name}").run()  # only that program, because each defines its flags


if __name__ == "__main__":
    main()
