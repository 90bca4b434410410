"""Workflows that combine the other folders: the demo, the paper's comparison, robustness runs."""

if __name__ != "mtrl_judge.experiments":
    raise ImportError("install the project (pip install -e .) and import mtrl_judge.experiments")
