"""The judge tasks as a guest in lmms-eval."""

if __name__ != "mtrl_judge.harness_plugin":
    raise ImportError(
        "this folder is the package mtrl_judge.harness_plugin; "
        "install the project (pip install -e .) and import it under that name"
    )
