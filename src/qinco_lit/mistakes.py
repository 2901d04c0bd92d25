"""A user's mistake: told from a bug, said in one line, and leaving no folder behind."""

import dis
import shutil
import sysconfig
from pathlib import Path

from qinco_lit.run_folder import LOCK


def users_mistake(error: BaseException) -> BaseException | None:
    """Return what to report when an exception is a user's mistake, None when it is a bug that needs its traceback.

    Classes of Hydra and Lightning are told by name, so that neither is imported for this.
    """
    name = type(error).__name__
    if name == "InstantiationException":  # Hydra's wrapper of what a data module's constructor raised
        return None if error.__cause__ is None else users_mistake(error.__cause__)
    is_options = name == "MisconfigurationException"  # Lightning's, for impossible Trainer arguments
    return error if is_options or isinstance(error, ValueError | OSError) else None


def is_meant(mistake: BaseException) -> bool:
    """Tell whether somebody meant to say this to the user: whether it comes from a `raise` that is no library's.

    A ValueError of numpy, or of an unpacking that does not fit, is a bug more often than a user's mistake. What the
    operating system refuses is no bug, whoever asked.
    """
    if not isinstance(mistake, ValueError) or isinstance(mistake, OSError) or mistake.__traceback__ is None:
        return True
    last = mistake.__traceback__
    while last.tb_next is not None:
        last = last.tb_next
    code = last.tb_frame.f_code
    if code.co_code[last.tb_lasti] != dis.opmap["RAISE_VARARGS"]:
        return False
    libraries = {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}
    is_ours = str(last.tb_frame.f_globals.get("__name__")).partition(".")[0] in ("qinco_lit", "datamodules")
    return is_ours or not any(Path(code.co_filename).is_relative_to(folder) for folder in libraries)


def in_one_line(error: BaseException) -> str:
    """Return the text of an exception, of Hydra and OmegaConf too, as one line without their pointers and dumps."""
    if type(error).__name__ == "MissingMandatoryValue":
        key = getattr(error, "full_key", None)
        return f"{key} is required: add {key}=VALUE"
    override = getattr(error, "override", None)
    is_composition = type(error).__name__ == "ConfigCompositionException"
    causes = [error, error.__cause__] if is_composition and error.__cause__ is not None else [error]
    lines = [line.strip() for cause in causes for line in str(cause).splitlines()]
    noise = ("See ", "full_key:", "object_type=", "reference_type=")
    kept = [line for line in lines if line and not line.startswith(noise)]
    return ". ".join(dict.fromkeys([*([f"{override}"] if override else []), *kept])) or type(error).__name__


def remove_if_unused(run_dir: Path, hydra_files: set[str]) -> None:
    """Remove a run folder that holds nothing but Hydra's files, and the folders that this leaves empty."""
    if run_dir == Path.cwd() or not {entry.name for entry in run_dir.iterdir()} <= hydra_files:
        return
    shutil.rmtree(run_dir)
    sweep = run_dir.parent
    if {entry.name for entry in sweep.iterdir()} == {"multirun.yaml", LOCK}:
        for name in ("multirun.yaml", LOCK):
            (sweep / name).unlink()
    for folder in run_dir.parents:
        if Path.cwd() not in folder.parents:
            return
        try:
            folder.rmdir()
        except OSError:  # not empty
            return
