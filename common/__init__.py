"""Shared by every folder: errors, files, hashing, progress bars, markup and Markdown escaping."""

if __name__ != "mtrl_judge.common":
    raise ImportError(
        "this folder is the package mtrl_judge.common; "
        "install the project (pip install -e .) and import it under that name"
    )
