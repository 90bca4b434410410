"use strict";
// Reads data- attributes, hides and sorts elements; creates no markup from text.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Folded here and not in the page, so that everything can be read without the script. In print,
  // long tables of pairs stay folded unless the reader opened them.
  const folded = all("details[data-fold]");
  for (const details of folded) details.open = false;
  let reopened = [];
  addEventListener("beforeprint", () => {
    reopened = folded.filter((details) => details.dataset.fold === "print" && !details.open);
    for (const details of reopened) details.open = true;
  });
  addEventListener("afterprint", () => {
    for (const details of reopened) details.open = false;
  });
  // Unfold a section that a link leads to.
  const reveal = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    const inside = target && target.querySelector(":scope > details[data-fold]");
    if (inside) inside.open = true;
  };
  addEventListener("hashchange", reveal);
  reveal();

  for (const table of all("table[data-sortable]")) {
    const body = table.tBodies[0];
    for (const head of all("thead tr:last-child th", table)) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") === "descending";
        for (const other of all("th[aria-sort]", table)) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const value = (row) => {
          const cell = row.cells[Number(head.dataset.column)];
          return cell.dataset.number === undefined ? null : Number(cell.dataset.number);
        };
        const name = (row) => row.cells[0].textContent;
        const rows = [...body.rows].filter((row) => row.dataset.fixed === undefined);
        const fixed = [...body.rows].filter((row) => row.dataset.fixed !== undefined);
        rows.sort((a, b) => {
          const [first, second] = [value(a), value(b)];
          if (head.dataset.column === "0") {
            return name(a).localeCompare(name(b)) * (up ? -1 : 1);
          }
          if (first === null || second === null) return (first === null) - (second === null);
          return (up ? 1 : -1) * (first - second);
        });
        body.append(...rows, ...fixed);
      });
    }
  }

  const form = document.querySelector("form[data-filters]");
  if (!form) return;
  const items = all("[data-item]");
  const shown = form.querySelector("output");
  const filter = () => {
    const task = form.elements.task.value;
    const judge = form.elements.judge.value;
    const flags = all("input[name=flag]:checked", form).map((box) => box.value);
    const disagreed = form.elements.disagreed.checked;
    let count = 0;
    for (const item of items) {
      const answers = all("[data-judge]", item);
      const fits = answers.some((answer) => {
        const known = answer.dataset.flags.split(" ");
        const selected = judge === "" || answer.dataset.judge === judge;
        return selected && flags.every((flag) => known.includes(flag));
      });
      const kept =
        fits &&
        (task === "" || item.dataset.task === task) &&
        (!disagreed || item.dataset.disagreed !== undefined);
      item.hidden = !kept;
      if (kept) count += 1;
    }
    for (const part of all("[data-items-of]")) {
      part.hidden = !part.querySelector("[data-item]:not([hidden])");
    }
    shown.textContent = `${count} of ${items.length} items`;
  };
  form.addEventListener("change", filter);
  form.addEventListener("reset", () => setTimeout(filter));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  filter();
})();
