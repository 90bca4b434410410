"""Datasets on disk: prepared, checked for leaks, published."""

if __name__ != "mtrl_judge.data":
    raise ImportError(
        "this folder is the package mtrl_judge.data; "
        "install the project (pip install -e .) and import it under that name"
    )
