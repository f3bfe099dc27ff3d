"""The errors a user may see; the commands print them as one line, without a traceback."""

import errno

# torch has a separate error only for GPU memory; OpenCV has one error for everything, with this code for memory.
TORCH_NO_MEMORY = "can't allocate memory"
OPENCV_NO_MEMORY = -4
LONGEST_WORD = 500  # characters, in an error line


class UserError(Exception):
    """Something outside the program is wrong: a file, a value, a disk. Exit status 1.

    The message is one line that names the file, key or value, what was expected and what to do.
    """

    exit_status = 1


class UnknownLabel(UserError):
    """A mask has a label that is not in the class list: most likely the list is wrong, not this mask."""


class LostWorker(UserError):
    """A process that works for the command was killed."""

    def __init__(self, what: str, option: str) -> None:
        """what: which process, and what is known about its end; option: the one that sets the number of processes."""
        super().__init__(f"{what}: most likely the machine ran out of memory (see the kernel's log), or somebody ended "
                         f"it. What was finished is kept: run again, with fewer processes ({option}=N) or more memory")


class UsageError(UserError):
    """The command or the recipe was used wrongly. Exit status 2."""

    exit_status = 2


def describe(error: Exception) -> str:
    """An error as one line for a user."""
    if isinstance(error, UserError):
        return " ".join(_cut(word) for word in str(error).split())
    text = _short(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"the disk is full{f' ({error.filename})' if error.filename else ''}: free some space and run again"
    if isinstance(error, FileExistsError | NotADirectoryError) and error.filename:
        return f"{error.filename}: a file; expected a folder, or a name for a new one"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if _is_memory(error):
        return (f"out of memory ({text}): use fewer --workers or train.workers, or a smaller "
                "train.micro_batch, fcn.micro_batch, infer.window_batch, network.width or image")
    if isinstance(error, RecursionError):
        return "a file or value is nested too deeply to read: is it damaged? (--debug shows where)"
    return f"{type(error).__name__}: {text} (--debug shows where)"


def _cut(word: str) -> str:
    """A word's beginning and end, if it is longer than any file's name, like the text of a damaged file."""
    return word if len(word) <= LONGEST_WORD else f"{word[:150]}...{word[-50:]}"


def _is_memory(error: Exception) -> bool:
    return (isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
            or TORCH_NO_MEMORY in str(error) or getattr(error, "code", None) == OPENCV_NO_MEMORY)


def _short(error: Exception) -> str:
    """An error's message, without the source file and line that OpenCV and torch add."""
    said, where = getattr(error, "err", None), getattr(error, "func", None)
    text = f"{said} in OpenCV's {where}" if said and where else str(error)
    text = " ".join(text.rpartition("DefaultCPUAllocator: ")[2].split()) or "no details"
    return text if len(text) <= 300 else f"{text[:290]}..."
