"""Judges as models: loading a checkpoint, and answering judge tasks with it."""

if __name__ != "mtrl_judge.models":
    raise ImportError(
        "this folder is the package mtrl_judge.models; "
        "install the project (pip install -e .) and import it under that name"
    )
