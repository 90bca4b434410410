"""The command line, `mtrl-judge`."""

if __name__ != "mtrl_judge.cli":
    raise ImportError("install the project (pip install -e .) and import mtrl_judge.cli")
