"""The files that datasets are published as, brought into the data root."""

if __name__ != "mtrl_judge.prepare":
    raise ImportError(
        "this folder is the package mtrl_judge.prepare; "
        "install the project (pip install -e .) and import it under that name"
    )
