"""What every folder needs: errors, whole files, hashing, progress, markup made harmless."""

if __name__ != "mtrl_judge.common":
    raise ImportError(
        "this folder is the package mtrl_judge.common; "
        "install the project (pip install -e .) and import it under that name"
    )
