"""What strings the other folders together: the demo, the paper's comparison, robustness runs."""

if __name__ != "mtrl_judge.experiments":
    raise ImportError(
        "this folder is the package mtrl_judge.experiments; "
        "install the project (pip install -e .) and import it under that name"
    )
