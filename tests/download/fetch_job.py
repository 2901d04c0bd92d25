"""A download in a process of its own, to be killed; arguments: FOLDER SEGMENT_BYTES JOBS URL=NAME…."""

import sys
from pathlib import Path

from qinco_lit.downloads import RemoteFile, Settings, download


class Silent:
    def begin(self, name: str, phase: str, done: int, total: int | None) -> None:
        pass

    def advance(self, name: str, num_bytes: int) -> None:
        pass

    def end(self, name: str) -> None:
        pass

    def note(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    folder, segment_bytes, jobs, *files = sys.argv[1:]
    pairs = [file.split("=") for file in files]
    settings = Settings(jobs=int(jobs), timeout_s=20.0, segment_bytes=int(segment_bytes))
    try:
        download([RemoteFile(url, Path(folder), name) for url, name in pairs], settings, Silent())
    except KeyboardInterrupt:
        sys.exit(130)
    except ValueError as error:
        sys.exit(str(error))
