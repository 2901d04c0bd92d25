"""A faiss index in a folder: one file, and one of the lists where these stay on the disk."""

import os
import shutil
from pathlib import Path

import faiss

from qinco_lit.search.index.faiss_index import Index, Lists, is_mapped
from qinco_lit.search.index.lists import copy_into_memory, faiss_file_errors

INDEX_FILE, LISTS_FILE = "index.faiss", "lists.ivfdata"


def write_index(index: Index, folder: Path) -> None:
    """Write an index into a folder; a file of lists that it maps is linked, or copied."""
    path = folder / INDEX_FILE
    with faiss_file_errors(path):
        if not is_mapped(index):
            faiss.write_index(index, str(path))
            return
        lists: Lists = faiss.downcast_InvertedLists(index.invlists)
        source = str(lists.filename)
        if not source:  # mapped out of an index.faiss that has them inside
            copy_into_memory(index)
            faiss.write_index(index, str(path))
            return
        _link(Path(source), folder / LISTS_FILE)
        lists.filename = LISTS_FILE  # as another faiss will look for it
        try:
            faiss.write_index(index, str(path))
        finally:
            lists.filename = source


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise FileNotFoundError(f"{source}: the file of the mapped lists is gone") from None
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def read_index(folder: Path, *, mmap: bool) -> Index:
    """Read what `write_index` wrote. Raises ValueError for something else, OSError where it cannot be read."""
    path, lists_file = folder / INDEX_FILE, folder / LISTS_FILE
    flags = faiss.IO_FLAG_SKIP_IVF_DATA if lists_file.is_file() else faiss.IO_FLAG_MMAP if mmap else 0
    with faiss_file_errors(path):
        index: Index = faiss.read_index(str(path), flags)  # of its own class; a downcast of it would dangle
        if not isinstance(index, faiss.IndexIVFResidualQuantizer):
            raise ValueError(f"{path} holds a {type(index).__name__}, not an IndexIVFResidualQuantizer")
        if lists_file.is_file():
            _map_lists(index, lists_file)
    return index


def _map_lists(index: Index, file: Path) -> None:
    """Do as IO_FLAG_ONDISK_SAME_DIR does, which prints a line from C++ and maps the file writable."""
    lists: Lists = faiss.downcast_InvertedLists(index.invlists)
    lists.filename, lists.read_only = str(file.absolute()), True
    lists.do_mmap()
