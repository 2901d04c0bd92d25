"""Rows of a file through a read-only memory mapping, with a bounded resident set."""

import mmap
import os
import weakref

import numpy as np
from jaxtyping import Int64, Shaped

from qinco_lit.vectors.layout import Layout

# Mapped pages count as resident until they are given back. One page fault maps everything around it that the page
# cache holds in one piece, up to a huge page: these are what is counted, and at most so many stay mapped.
_PAGE_BYTES = 2 << 20
_MAX_PAGES = 32
_READ_BYTES = 32 << 20  # of a strided file at a time


class MappedRows:
    """Rows of a shared mapping that each process makes for itself on first use; about 64 MB of it stay resident."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._maps: dict[bool, mmap.mmap] = {}
        self._file = -1
        self._num_pages = 0
        self._last_page = -1

    def __getstate__(self) -> Layout:
        return self._layout

    def __setstate__(self, layout: Layout) -> None:
        self.__init__(layout)  # type: ignore[misc]

    def block(self, start: int, stop: int) -> Shaped[np.ndarray, "n dim"]:
        """Rows start..stop, 0 <= start <= stop <= num_rows, as a fresh array (n, dim).

        Read, not mapped: a fault in the mapping reads ahead by megabytes where a block of 100 KB is wanted.
        """
        layout = self._layout
        row = np.dtype((np.void, layout.dim * layout.dtype.itemsize))
        if layout.row_stride == row.itemsize:
            return self._as_numbers(self._read(start, stop, row.itemsize).view(row))
        out = np.empty(stop - start, dtype=row)
        step = max(1, _READ_BYTES // layout.row_stride)
        for first in range(start, stop, step):
            last = min(first + step, stop)
            raw = self._read(first, last, row.itemsize)
            out[first - start : last - start] = np.ndarray((last - first,), row, raw, 0, (layout.row_stride,))
        return self._as_numbers(out)

    def _read(self, start: int, stop: int, row_bytes: int) -> np.ndarray:
        """The bytes from the first to the last row, without what follows the last."""
        layout = self._layout
        raw = np.empty(max(0, (stop - start - 1) * layout.row_stride + row_bytes) if stop > start else 0, np.uint8)
        rest, position = memoryview(raw.data), (layout.offset or 0) + start * layout.row_stride
        while rest:
            count = os.preadv(self._descriptor(), [rest], position)
            if count == 0:
                raise ValueError(f"{layout.path}: ends at byte {position}, shorter than when it was opened; reopen it")
            rest, position = rest[count:], position + count
        return raw

    def _descriptor(self) -> int:
        if self._file < 0:
            descriptor = self._open()
            # two threads may both come here: each descriptor is closed with this object, either one serves
            weakref.finalize(self, os.close, descriptor)
            self._file = descriptor
        return self._file

    def gather(self, ids: Int64[np.ndarray, " n"]) -> Shaped[np.ndarray, "n dim"]:
        """Rows `ids`, all in 0..num_rows - 1, as a fresh array (n, dim)."""
        first_page, last_page = (self._page(int(ids.min())), self._page(int(ids.max()) + 1)) if len(ids) else (0, 0)
        if last_page - first_page < _MAX_PAGES:
            out = self._rows(scattered=False)[ids]
            self._count(last_page - first_page + 1, last_page)
            return self._as_numbers(out)
        rows = self._rows(scattered=True)
        out = np.empty(len(ids), dtype=rows.dtype)
        # Ascending, so that rows on one page are copied together, and pages are given back between the groups.
        order = np.argsort(ids, kind="stable")
        pages = ((self._layout.offset or 0) + ids[order] * self._layout.row_stride) // _PAGE_BYTES
        page_rank = np.cumsum(np.diff(pages, prepend=first_page) > 0)
        row_pages = 1 + self._layout.row_stride // _PAGE_BYTES
        group_pages = max(1, _MAX_PAGES // 2 // row_pages)
        for positions in np.split(order, np.flatnonzero(np.diff(page_rank // group_pages)) + 1):
            out[positions] = rows[ids[positions]]
            self._count(group_pages * row_pages, -1)
        return self._as_numbers(out)

    def _rows(self, *, scattered: bool) -> np.ndarray:
        """One opaque item per row: numpy then copies whole rows, and skips what lies between them."""
        layout = self._layout
        if scattered not in self._maps:
            self._maps[scattered] = self._new_map(scattered)
        row = np.dtype((np.void, layout.dim * layout.dtype.itemsize))
        return np.ndarray((layout.num_rows,), row, self._maps[scattered], layout.offset or 0, (layout.row_stride,))

    def _new_map(self, scattered: bool) -> mmap.mmap:
        descriptor = self._open()
        try:
            new = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)
        if scattered and hasattr(mmap, "MADV_RANDOM"):
            # Without this every single row reads ahead, which can be megabytes.
            new.madvise(mmap.MADV_RANDOM)
        return new

    def _open(self) -> int:
        """A descriptor, which a file object would take longer to make than a block to read: files may be many."""
        layout = self._layout
        descriptor = os.open(layout.file, os.O_RDONLY)
        found = os.fstat(descriptor).st_size
        if found != layout.file_bytes:
            os.close(descriptor)
            raise ValueError(f"{layout.path}: {layout.file_bytes} bytes when opened, now {found}; reopen it")
        return descriptor

    def _as_numbers(self, rows: np.ndarray) -> Shaped[np.ndarray, "n dim"]:
        numbers = rows.view(self._layout.dtype).reshape(len(rows), self._layout.dim)
        return numbers.astype(self._layout.dtype.newbyteorder("="), copy=False)

    def _page(self, row: int) -> int:
        return ((self._layout.offset or 0) + row * self._layout.row_stride) // _PAGE_BYTES

    def _count(self, num_pages: int, last_page: int) -> None:
        """Add pages touched; give all back to the page cache once too many may be resident."""
        self._num_pages, self._last_page = self._num_pages + num_pages, last_page
        if self._num_pages >= _MAX_PAGES and hasattr(mmap, "MADV_DONTNEED"):
            for one in tuple(self._maps.values()):
                # Read-only and shared: a reader in another thread only faults the same page in again.
                one.madvise(mmap.MADV_DONTNEED)
            self._num_pages, self._last_page = 0, -1
