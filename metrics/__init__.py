"""Statistics over arrays of judgments; imports nothing of judge tasks."""

if __name__ != "mtrl_judge.metrics":
    raise ImportError(
        "this folder is the package mtrl_judge.metrics; "
        "install the project (pip install -e .) and import it under that name"
    )
