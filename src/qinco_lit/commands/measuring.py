"""What commands that measure share: a progress bar, and the threads in use."""

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from qinco_lit.search.baselines import get_num_threads


def progress_bar(console: Console) -> Progress:
    """Return a bar with times; shown on terminals only."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal)


def num_threads_in_use() -> dict[str, int]:
    """Of torch and of faiss."""
    return {"torch": torch.get_num_threads(), "faiss": get_num_threads()}
