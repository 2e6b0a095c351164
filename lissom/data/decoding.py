"""Text files as other programs write them: compressed or not, with or without a byte order mark, damaged or not."""

import bz2
import codecs
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from lissom.errors import DataError

COMPRESSIONS: dict[str, Callable[..., Any]] = {"gz": gzip.open, "xz": lzma.open, "bz2": bz2.open}
_MARKS = (  # UTF-32 first: its mark starts with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_LOOKED_AT = 1024


@contextmanager
def opened(path: Path, newline: str = "\n") -> Iterator[IO[str]]:
    """Open a text file, decompressed by its suffix, in the encoding of its byte order mark, or else UTF-8.

    Line ends are not translated.

    Args:
        path: the file.
        newline: what ends a line when the file is read by lines; if it is empty, a carriage return alone does so, too.

    Raises:
        DataError: the file is missing, cut off or damaged, or in another encoding; also while it is read.
    """
    opener = COMPRESSIONS.get(path.suffix.lstrip(".").lower(), open)
    encoding = "utf-8"
    try:
        with opener(path, "rb") as file:
            start = file.read(_LOOKED_AT)
        encoding = next((name for mark, name in _MARKS if start.startswith(mark)), encoding)
        if encoding in ("utf-8", "utf-8-sig") and b"\0" in start:
            raise DataError(
                f"{path}: not a text file in UTF-8: it has null bytes; if it is UTF-16 without a byte order mark, "
                "convert it to UTF-8"
            )
        with opener(path, "rt", encoding=encoding, newline=newline) as file:
            yield file
    except UnicodeError as error:
        reason = f"{error.reason} at byte {error.start}" if isinstance(error, UnicodeDecodeError) else str(error)
        raise DataError(f"{path}: not {encoding.upper()} ({reason}); convert it to UTF-8") from None
    except EOFError:
        raise DataError(f"{path}: cannot be read: the compressed file is cut off; copy or download it again") from None
    except (OSError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
