"""The command line, `mtrl-judge`."""

if __name__ != "mtrl_judge.cli":
    raise ImportError(
        "this folder is the package mtrl_judge.cli; "
        "install the project (pip install -e .) and import it under that name"
    )
