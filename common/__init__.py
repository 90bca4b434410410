"""Shared by every folder: errors, files, hashing, progress bars, markup and Markdown escaping."""

if __name__ != "mtrl_judge.common":
    raise ImportError("install the project (pip install -e .) and import mtrl_judge.common")
