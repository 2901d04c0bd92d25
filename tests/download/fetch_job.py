"""A download in a process of its own, to be killed; arguments: FOLDER URL=NAME…."""

import sys
from pathlib import Path

from qinco_lit.downloads import RemoteFile, Settings, download, part
from qinco_lit.progress import Progress

if __name__ == "__main__":
    folder, *files = sys.argv[1:]
    pairs = [file.split("=") for file in files]
    part._SAVE_EVERY_S = 0.05
    try:
        download([RemoteFile(url, Path(folder), name) for url, name in pairs], Settings(timeout_s=20.0), Progress())
    except KeyboardInterrupt:
        sys.exit(130)
    except ValueError as error:
        sys.exit(str(error))
