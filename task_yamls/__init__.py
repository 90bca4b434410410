"""The shipped judge tasks: one YAML each, data only."""

if __name__ != "mtrl_judge.task_yamls":
    raise ImportError("install the project (pip install -e .) and import mtrl_judge.task_yamls")
