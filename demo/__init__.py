"""The sample corpus and the tiny model, so that everything runs without a hub."""

if __name__ != "mtrl_judge.demo":
    raise ImportError(
        "this folder is the package mtrl_judge.demo; "
        "install the project (pip install -e .) and import it under that name"
    )
