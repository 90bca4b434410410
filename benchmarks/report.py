"""``python -m benchmarks.report``: all items of a large run in a headless Chromium.

Writes lmms-eval's files of 2 judges on 4 tasks with 100,000 items in all, and the report of them
(``mtrl-judge report``), and opens it as a file. Needs Chromium and chromedriver. A busy machine
delays a browser by more than the page takes, so that times are also given as CPU time of the page's
main thread, and beside those of an empty page. The last line is JSON.

- ``write_s``, ``peak_mib``: reading the results and writing the report; peak memory of the process.
- ``mb``, ``index_mb``, ``files``: the report's size, that of the part it opens with, and its files.
- ``open_ms``, ``open_cpu_ms``: from the navigation to the first frame with rows, the median of the
  openings; ``empty_ms``: to the first frame of an empty page.
- ``frame_p50_ms``, ``frame_p95_ms``, ``frame_cpu_ms``: between frames, and CPU time of a frame,
  while the list scrolls by 600 pixels a frame; ``jump_cpu_ms``: of a frame that shows other rows.
- ``filter_ms``, ``sort_ms``: from a click to the drawn rows, medians; ``search_s``: until all texts
  are searched.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mtrl_judge.leaderboard.board import build_leaderboard
from mtrl_judge.leaderboard.bundle import write_bundle
from mtrl_judge.leaderboard.reading import load_runs
from mtrl_judge.leaderboard.view import build_view

JUDGES, TASKS, RESAMPLES = 2, 4, 100
VERDICTS = ["Yes", "No"]
REASONING = "The image shows what the text says, but for one thing that is missing. " * 4
# Runs in every page before its own scripts: when the first frame with rows is there.
FIRST_ROWS = """
addEventListener("DOMContentLoaded", () => {
  const look = () => {
    const row = document.querySelector(".row-id");
    const there = row?.textContent || !document.querySelector("#list");
    requestAnimationFrame(there ? () => { window.firstRows = performance.now(); } : look);
  };
  look();
});
"""
FRAMES = """
const [step, count, done] = arguments;
const list = document.getElementById("list");
const times = [];
let before = performance.now();
const frame = (now) => {
  times.push(now - before);
  before = now;
  list.scrollTop += step;
  if (times.length < count) requestAnimationFrame(frame);
  else done(times);
};
requestAnimationFrame(frame);
"""
TIMED_CLICKS = """
return arguments[0].map((id) => {
  const started = performance.now();
  document.getElementById(id).click();
  return performance.now() - started;
});
"""
TIMED_SORTS = """
return ["id", "wrong", "long", ""].map((value) => {
  const select = document.getElementById("sort");
  select.value = value;
  const started = performance.now();
  select.dispatchEvent(new Event("change", { bubbles: true }));
  return performance.now() - started;
});
"""
SEARCHED = """
const done = arguments[arguments.length - 1];
const q = document.getElementById("q");
q.value = "no answer has these words";
const started = performance.now();
q.dispatchEvent(new Event("input"));
const look = () => {
  const over = document.getElementById("progress").hidden && performance.now() - started > 2000;
  if (over) done(window.searchEnded - started);
  else setTimeout(look, 100);
  if (!document.getElementById("progress").hidden) window.searchEnded = performance.now();
};
look();
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--openings", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for judge in range(JUDGES):
            write_run(root / "results", judge, options.items // TASKS)
        started = time.perf_counter()
        board = build_leaderboard(load_runs([root / "results"]), resamples=RESAMPLES)
        written = write_bundle(board, build_view(board, full=False), root / "report")
        figures: dict[str, Any] = {
            "items": written.items,
            "write_s": round(time.perf_counter() - started, 1),
            "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            "mb": round(written.size / 1e6, 1),
            "index_mb": round((root / "report/data/index.js").stat().st_size / 1e6, 2),
            "files": sum(path.is_file() for path in (root / "report").rglob("*")),
        }
        print(figures, flush=True)
        (root / "empty.html").write_text("<!DOCTYPE html><title>empty</title><p>Empty.")
        with chromium(root / "profile") as driver:
            pages = ((root / "empty.html").as_uri(), (root / "report/index.html").as_uri())
            figures |= measure(driver, *pages, options.openings)
    print(json.dumps(figures))


def write_run(folder: Path, judge: int, items: int) -> None:
    """The files of one judge, with samples as long as lmms-eval writes them."""
    output, date = folder / f"judge-{judge}", f"2026010{judge + 1}_000000"
    output.mkdir(parents=True)
    names = [f"mtrl_judge_{task}" for task in range(TASKS)]
    for task, name in enumerate(names):
        draw = np.random.default_rng([judge, task])
        labels_N = np.random.default_rng(task).random(items) < 0.4
        right_N = draw.random(items) < 0.8
        with (output / f"{date}_samples_{name}.jsonl").open("w", encoding="utf-8") as lines:
            for item in range(items):
                verdict = VERDICTS[int(labels_N[item] == right_N[item])]
                row = {
                    "item_id": f"{name}-test-{item:06d}.png",
                    "pair_id": None,
                    "order": None,
                    "group": f"group {item % 7}",
                    "label": VERDICTS[int(labels_N[item])],
                    "verdict": verdict,
                    "well_formed": True,
                    "text": f"<think>{REASONING}{item}</think><answer>{verdict}</answer>",
                    "input": f"{REASONING * 2}Is it thing {item}?",
                }
                lines.write(json.dumps(row) + "\n")
    about = {"kind": "pointwise", "role": "train", "verdicts": VERDICTS, "paired": False}
    results = {
        "configs": {
            name: {"metadata": {"judge": {**about, "fingerprint": name}}} for name in names
        },
        "n-samples": {name: {"effective": items} for name in names},
        "model_name": f"owner/judge-{judge}",
        "date": date,
    }
    (output / f"{date}_results.json").write_text(json.dumps(results), encoding="utf-8")


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    programs = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    program = next(filter(None, programs), None)
    if program is None:
        raise SystemExit("benchmarks.report: needs Chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, Service(executable_path=shutil.which("chromedriver")))
    try:
        driver.set_script_timeout(600)
        yield driver
    finally:
        driver.quit()


def measure(driver: Any, empty: str, report: str, openings: int) -> dict[str, Any]:
    window = {"width": 1440, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", window)
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": FIRST_ROWS})
    driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
    empty_ms, open_ms, open_cpu_ms = [], [], []
    for _ in range(openings):
        empty_ms.append(opened(driver, empty))
        before = cpu_ms(driver)
        open_ms.append(opened(driver, report))
        open_cpu_ms.append(cpu_ms(driver) - before)
    figures: dict[str, Any] = {
        "open_ms": round(statistics.median(open_ms)),
        "open_cpu_ms": round(statistics.median(open_cpu_ms)),
        "empty_ms": round(statistics.median(empty_ms)),
    }
    before = cpu_ms(driver)
    frames = sorted(driver.execute_async_script(FRAMES, 600, 240)[1:])
    figures["frame_p50_ms"] = round(statistics.median(frames), 1)
    figures["frame_p95_ms"] = round(frames[int(0.95 * len(frames))], 1)
    figures["frame_cpu_ms"] = round((cpu_ms(driver) - before) / len(frames), 2)
    before = cpu_ms(driver)
    jumps = driver.execute_async_script(FRAMES, 20_000, 120)
    figures["jump_cpu_ms"] = round((cpu_ms(driver) - before) / len(jumps), 2)
    boxes = ["flag-wrong", "differ", "flag-wrong", "differ", "flag-null", "flag-null"]
    figures["filter_ms"] = round(statistics.median(driver.execute_script(TIMED_CLICKS, boxes)), 1)
    figures["sort_ms"] = round(statistics.median(driver.execute_script(TIMED_SORTS)), 1)
    figures["search_s"] = round(driver.execute_async_script(SEARCHED) / 1000, 1)
    return figures


def opened(driver: Any, address: str) -> float:
    """Milliseconds from the navigation to the first frame with rows."""
    driver.get("about:blank")
    driver.get(address)
    while (found := driver.execute_script("return window.firstRows")) is None:
        time.sleep(0.1)
    return float(found)


def cpu_ms(driver: Any) -> float:
    """CPU time of the tasks of the page's main thread."""
    metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return 1000 * next(each["value"] for each in metrics if each["name"] == "TaskDuration")


if __name__ == "__main__":
    main()
