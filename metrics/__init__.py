"""Statistics over arrays of judgments; imports nothing of judge tasks."""

if __name__ != "mtrl_judge.metrics":
    raise ImportError("install the project (pip install -e .) and import mtrl_judge.metrics")
