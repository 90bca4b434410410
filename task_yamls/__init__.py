"""The shipped judge tasks: one YAML each, data only."""

if __name__ != "mtrl_judge.task_yamls":
    raise ImportError(
        "this folder is the package mtrl_judge.task_yamls; "
        "install the project (pip install -e .) and import it under that name"
    )
