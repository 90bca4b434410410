"""Datasets on disk: prepared, checked for leaks, published."""

if __name__ != "mtrl_judge.data":
    raise ImportError("install the project (pip install -e .) and import mtrl_judge.data")
