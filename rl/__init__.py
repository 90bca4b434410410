"""The judge tasks as something to train on."""

if __name__ != "mtrl_judge.rl":
    raise ImportError(
        "this folder is the package mtrl_judge.rl; "
        "install the project (pip install -e .) and import it under that name"
    )
