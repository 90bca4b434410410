"""The judge tasks as a guest in lmms-eval."""

if __name__ != "mtrl_judge.harness_plugin":
    raise ImportError("install the project (pip install -e .) and import mtrl_judge.harness_plugin")
