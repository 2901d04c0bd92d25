"""Files from http, https and ftp servers: resumable, checked, only when asked for."""

from qinco_lit.downloads.checkpoints import CHECKPOINTS, Checkpoint
from qinco_lit.downloads.download import Settings, download, verify
from qinco_lit.downloads.manifest import MANIFEST
from qinco_lit.downloads.remote_file import RemoteFile

__all__ = ["CHECKPOINTS", "MANIFEST", "Checkpoint", "RemoteFile", "Settings", "download", "verify"]
