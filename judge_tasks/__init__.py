"""What a judge task is, from YAML to metrics. Imports no torch, lmms_eval or trl."""

if __name__ != "mtrl_judge.judge_tasks":
    raise ImportError(
        "this folder is the package mtrl_judge.judge_tasks; "
        "install the project (pip install -e .) and import it under that name"
    )
