"""UTF-8 for file names, arguments and output, whatever the locale.

Python takes their encoding from the locale. With one that is not UTF-8, such as `LANG=de_DE`, or
`LC_ALL=C` together with `PYTHONUTF8=0`, printing raises UnicodeEncodeError, and libraries that open
files themselves, such as pyarrow, look for other names than those on the disk.
"""

from __future__ import annotations

import io
import os
import sys


def use_utf8() -> None:
    """Start this process again in Python's UTF-8 mode if the locale is not UTF-8.

    The mode (PEP 540) is the default of Python 3.15 (PEP 686). It also holds for the processes that
    this one starts. Output is UTF-8 even if PYTHONIOENCODING says otherwise: it may be JSON.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where there is none
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
