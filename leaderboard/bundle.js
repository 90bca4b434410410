"use strict";
// Text from data and models becomes text nodes only; the page's policy refuses markup from strings.
(() => {
  const $ = (id) => document.getElementById(id);
  const FLAGS = ["wrong", "null", "failed", "flipped"];
  const JUDGED = 16; // the bit above the flags: the judge has judged the item
  const NOT_JUDGED = 0; // in columns of verdicts; from 2 on, they are names
  const NO_VERDICT = 1;
  // Browsers limit the height of an element (Firefox to 17.9 million pixels).
  const MAX_HEIGHT = 8e6;
  const PREVIEWS = 1000; // items of a part of previews
  const phone = matchMedia("(max-width: 56rem)");
  const rowHeight = () => (phone.matches ? 76 : 68); // pixels, as in the style

  // Elements

  const el = (tag, options = {}, ...children) => {
    const { on = {}, ...attributes } = options;
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== undefined && value !== null && value !== false) {
        element.setAttribute(name, value === true ? "" : value);
      }
    }
    for (const [name, listener] of Object.entries(on)) element.addEventListener(name, listener);
    element.append(...children.filter((child) => child !== null && child !== ""));
    return element;
  };
  const number = (n) => n.toLocaleString("en");
  const plural = (n, noun) => `${number(n)} ${noun}${n === 1 ? "" : "s"}`;

  // Parts of the data: scripts, since a page that was opened as a file may not fetch

  const PART = /^data\/(?:rows|items)-\d{1,7}\.js$/;
  const addressOf = (address) => {
    if (!PART.test(address)) throw new TypeError(`not a part: ${address}`);
    return address;
  };
  const addresses = window.trustedTypes
    ? trustedTypes.createPolicy("mtrl-judge-parts", { createScriptURL: addressOf })
    : { createScriptURL: addressOf };
  const arriving = new Map();
  const kept = new Map(); // the last ones used, the newest last
  const KEPT = 48;

  window.mtrlJudgePart = (name, text) => {
    if (name === "index") {
      start(JSON.parse(text));
    } else {
      arriving.get(name)?.resolve(JSON.parse(text));
    }
  };

  const load = (name, keep = true) => {
    const known = kept.get(name) ?? arriving.get(name)?.promise;
    if (kept.delete(name)) kept.set(name, known);
    if (known) return known;
    const part = {};
    part.promise = new Promise((resolve, reject) => {
      part.resolve = resolve;
      part.reject = reject;
    });
    arriving.set(name, part);
    const script = document.createElement("script");
    script.src = addresses.createScriptURL(`data/${name}.js`);
    const end = (message) => {
      script.remove();
      arriving.delete(name);
      part.reject(new Error(`data/${name}.js ${message}`)); // without effect if it has arrived
    };
    script.addEventListener("load", () => end("has no data"));
    script.addEventListener("error", () => {
      kept.delete(name);
      end("cannot be loaded; is the folder complete?");
    });
    document.head.append(script);
    if (keep) {
      kept.set(name, part.promise);
      if (kept.size > KEPT) kept.delete(kept.keys().next().value);
    }
    return part.promise;
  };

  const unpacked = (packed) => {
    const bytes = Uint8Array.from(atob(packed.slice(1)), (char) => char.charCodeAt(0));
    const Kind = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array }[packed[0]];
    return new Kind(bytes.buffer);
  };

  // Everything below is filled by start()

  let about, n, tasks, judges, ids, names, groups, columns, ofJudges, starts;
  let order = new Uint32Array(0); // the items shown, in their order
  let hits = null; // of a search, a byte for each item
  let selected = -1; // an item
  const state = {};
  const empty = () => ({
    view: "items", q: "", task: -1, group: 0, judge: -1,
    flags: 0, differ: false, a: -1, b: -1, sort: "",
  });

  const imagePath = (name, small) => {
    if (!/^[0-9a-f]{2}\/[0-9a-f]{22}$/.test(name)) return "";
    return `images/${name}${small ? ".s" : ""}.webp`;
  };

  const start = (content) => {
    about = content;
    ({ tasks, judges, ids, names, groups, starts } = content);
    n = ids.length;
    columns = Object.fromEntries(
      Object.entries(content.columns).map(([name, packed]) => [name, unpacked(packed)]),
    );
    ofJudges = Object.fromEntries(
      Object.entries(content.of_judges).map(([name, all]) => [name, all.map(unpacked)]),
    );
    fillForm();
    readHash();
    showScores();
    document.body.classList.add("ready");
  };

  // Filters

  const option = (value, text) => el("option", { value }, text);
  const fillForm = () => {
    const title = `${plural(judges.length, "judge")} on ${plural(tasks.length, "task")}`;
    $("title").textContent = title;
    document.title = `${about.metric}: ${title}`;
    $("task").append(option("-1", "all tasks"), ...tasks.map((t, i) => option(i, t.label)));
    $("judge").append(option("-1", "any judge"), ...judges.map((name, i) => option(i, name)));
    $("group").append(option("0", "all groups"), ...groups.map((name, i) => option(i + 1, name)));
    $("group-row").hidden = groups.length === 0;
    for (const id of ["a", "b"]) {
      $(id).append(option("-1", "all judges"), ...judges.map((name, i) => option(i, name)));
    }
    $("compare").hidden = judges.length < 2;
    $("differ").closest("label").hidden = judges.length < 2;
    const anySure = ofJudges.sure.some((column) => column.some((value) => value > 0));
    for (const each of $("sort").options) {
      each.hidden = each.disabled = !anySure && each.value.endsWith("sure");
    }
    $("notice").hidden = !about.is_sample;
    $("notice").textContent =
      "These results are on sample data: drawn images, which say nothing about real ones.";
  };

  const compared = () => (state.a >= 0 && state.b >= 0 && state.a !== state.b ? [state.a, state.b] : null);
  const shownJudges = () => compared() ?? judges.map((_, i) => i);

  const differ = (i) => {
    const two = compared();
    if (!two) return (columns.item[i] & 1) === 1;
    return ["straight", "swapped"].some((name) => {
      const [first, second] = two.map((judge) => ofJudges[name][judge][i]);
      return first !== NOT_JUDGED && second !== NOT_JUDGED && first !== second;
    });
  };

  const wrongCount = (i) => {
    let count = 0;
    for (const judge of shownJudges()) count += ofJudges.flags[judge][i] & 1;
    return count;
  };
  const sureness = (i) => {
    let most = 0;
    for (const judge of state.judge >= 0 ? [state.judge] : shownJudges()) {
      most = Math.max(most, ofJudges.sure[judge][i]);
    }
    return most;
  };
  const SORTS = {
    id: (i) => columns.rank[i],
    wrong: (i) => judges.length - wrongCount(i),
    sure: (i) => 201 - sureness(i),
    unsure: (i) => sureness(i) || 202,
    long: (i) => 2 ** 32 - columns.length[i],
  };

  const compute = () => {
    const relevant = state.judge >= 0 ? [state.judge] : shownJudges();
    const flags = relevant.map((judge) => ofJudges.flags[judge]);
    const counts = [0, 0, 0, 0, 0];
    const found = new Uint32Array(n);
    let size = 0;
    for (let i = 0; i < n; i++) {
      if (state.task >= 0 && columns.task[i] !== state.task) continue;
      if (state.group > 0 && columns.group[i] !== state.group) continue;
      if (hits && !hits[i]) continue;
      let any = 0;
      let fits = false;
      for (const column of flags) {
        any |= column[i];
        fits ||= (column[i] & JUDGED) !== 0 && (column[i] & state.flags) === state.flags;
      }
      if (!(any & JUDGED)) continue;
      const differs = differ(i);
      for (let bit = 0; bit < 4; bit++) counts[bit] += (any >> bit) & 1;
      counts[4] += differs;
      if (fits && (differs || !state.differ)) found[size++] = i;
    }
    const key = SORTS[state.sort];
    if (key) {
      // Numbers sort natively; the item's number, in the last digits, keeps the order of equals.
      const keyed = new Float64Array(size);
      for (let at = 0; at < size; at++) keyed[at] = key(found[at]) * n + found[at];
      keyed.sort();
      order = Uint32Array.from(keyed, (value) => value % n);
    } else {
      order = found.slice(0, size);
    }
    [...FLAGS, "differ"].forEach((name, at) => {
      $(`count-${name}`).textContent = number(counts[at]);
    });
    $("count").textContent =
      size === n ? plural(n, "item") : `${number(size)} of ${plural(n, "item")}`;
    $("filters-done").textContent = `Show ${plural(size, "item")}`;
    const note = state.task >= 0 ? tasks[state.task].notes.join(" ") : "";
    $("task-note").textContent = note;
  };

  // The list: only the rows in view exist

  const list = $("list");
  const space = $("space");
  let slots = [];
  let scheduled = 0;
  let settled = 0;

  const newSlot = () => {
    const parts = {
      image: el("img", { alt: "", width: 48, height: 48, decoding: "async" }),
      id: el("bdi", { class: "row-id" }),
      task: el("span", { class: "row-task" }),
      text: el("span", { class: "row-text", dir: "auto" }),
      marks: el("span", { class: "marks" }),
    };
    const element = el(
      "div", { class: "row", role: "option" },
      el("span", { class: "thumb" }, parts.image),
      el("span", { class: "row-main" }, el("span", { class: "row-head" }, parts.id, parts.task), parts.text, parts.marks),
    );
    const slot = { element, parts, item: -1, at: -1 };
    element.addEventListener("click", () => {
      select(slot.at, true);
      list.focus({ preventScroll: true });
    });
    space.append(element);
    return slot;
  };

  const height = () => Math.min(order.length * rowHeight(), MAX_HEIGHT);
  // Pixels of the list for one of the element that scrolls; above 1 only for very many items.
  const stretch = () => {
    const [all, view] = [order.length * rowHeight(), list.clientHeight];
    return all > MAX_HEIGHT ? (all - view) / (MAX_HEIGHT - view) : 1;
  };

  const draw = () => {
    scheduled = 0;
    const top = list.scrollTop * stretch();
    const visible = Math.ceil(list.clientHeight / rowHeight()) + 1;
    const first = Math.max(0, Math.floor(top / rowHeight()) - 4);
    const count = Math.min(order.length - first, visible + 8);
    const needed = Math.min(order.length, visible + 8);
    while (slots.length < needed) slots.push(newSlot());
    for (const slot of slots) slot.used = false;
    for (let at = first; at < first + count; at++) {
      const slot = slots[at % slots.length];
      slot.used = true;
      if (slot.at !== at || slot.item !== order[at]) fill(slot, at);
      slot.element.style.transform = `translateY(${list.scrollTop + at * rowHeight() - top}px)`;
      const current = slot.item === selected;
      slot.element.classList.toggle("selected", current);
      slot.element.setAttribute("aria-selected", String(current));
    }
    for (const slot of slots) slot.element.hidden = !slot.used;
    clearTimeout(settled);
    settled = setTimeout(fillPreviews, 90);
  };
  const redraw = () => {
    scheduled ||= requestAnimationFrame(draw);
  };

  const MARKS = [["✗", "bad", "wrong"], ["∅", "odd", "no verdict"], ["!", "odd", "request failed"], ["⇄", "odd", "flipped"]];
  const mark = (judge, i, wide) => {
    const flags = ofJudges.flags[judge][i];
    if (!(flags & JUDGED)) return null;
    const at = flags & 8 ? 3 : flags & 4 ? 2 : flags & 2 ? 1 : flags & 1 ? 0 : -1;
    const labeled = columns.label[i] > NO_VERDICT;
    const [sign, kind, meaning] = at >= 0 ? MARKS[at] : labeled ? ["✓", "good", "correct"] : ["", "plain", "unlabeled"];
    const said = ["straight", "swapped"].map((name) => ofJudges[name][judge][i])
      .filter((verdict) => verdict !== NOT_JUDGED)
      .map((verdict) => (verdict === NO_VERDICT ? "none" : names[verdict - 2]))
      .join(" · ");
    const chip = el("span", { class: `chip ${kind}${at === 3 && flags & 1 ? " bad" : ""}` });
    chip.title = `${judges[judge]}: ${said}, ${meaning}`;
    chip.append(sign, wide ? el("bdi", {}, ` ${said}`) : el("span", { class: "unseen" }, ` ${judges[judge]}`));
    return chip;
  };

  const fill = (slot, at) => {
    const i = order[at];
    Object.assign(slot, { at, item: i });
    const { element, parts } = slot;
    element.id = `row-${i}`;
    element.setAttribute("aria-posinset", String(at + 1));
    element.setAttribute("aria-setsize", String(order.length));
    parts.id.textContent = ids[i];
    parts.task.textContent = tasks.length > 1 ? tasks[columns.task[i]].label : "";
    parts.text.textContent = "";
    parts.image.hidden = true;
    parts.image.removeAttribute("src");
    const shown = shownJudges();
    const chips = shown.map((judge) => mark(judge, i, shown.length <= 4)).filter(Boolean);
    const label = columns.label[i] > NO_VERDICT ? names[columns.label[i] - 2] : "none";
    parts.marks.replaceChildren(el("span", { class: "row-label" }, "label ", el("bdi", {}, label)), ...chips);
    const known = previewsKept.get(Math.floor(i / PREVIEWS));
    if (known) preview(slot, known);
  };

  const previewsKept = new Map();
  const preview = (slot, part) => {
    const [line, image] = part[slot.item % PREVIEWS];
    slot.parts.text.textContent = line;
    const path = image && imagePath(image, true);
    if (path) slot.parts.image.src = path;
    slot.parts.image.hidden = !path;
  };
  // Once scrolling rests, so that a long scroll does not load what passes by.
  const fillPreviews = async () => {
    const wanted = new Set(slots.filter((s) => s.used).map((s) => Math.floor(s.item / PREVIEWS)));
    for (const part of wanted) {
      if (previewsKept.has(part)) continue;
      try {
        previewsKept.set(part, await load(`rows-${part}`, false));
      } catch (error) {
        fail(error);
        return;
      }
      if (previewsKept.size > 150) previewsKept.delete(previewsKept.keys().next().value);
    }
    for (const slot of slots) {
      const part = slot.used && previewsKept.get(Math.floor(slot.item / PREVIEWS));
      if (part) preview(slot, part);
    }
  };

  const fail = (error) => {
    $("notice").hidden = false;
    $("notice").textContent = error.message;
  };

  list.addEventListener("scroll", redraw, { passive: true });
  new ResizeObserver(redraw).observe(list);
  phone.addEventListener("change", () => about && refresh());

  const reveal = (at) => {
    const [factor, view] = [stretch(), list.clientHeight];
    const top = list.scrollTop * factor;
    if (at * rowHeight() < top) list.scrollTop = (at * rowHeight()) / factor;
    else if ((at + 1) * rowHeight() > top + view) list.scrollTop = ((at + 1) * rowHeight() - view) / factor;
  };

  const refresh = (toTop = true) => {
    compute();
    space.style.height = `${height()}px`;
    for (const slot of slots) slot.at = -1;
    const at = selected >= 0 ? order.indexOf(selected) : -1;
    if (at >= 0) reveal(at);
    else if (toTop) list.scrollTop = 0;
    draw();
    list.setAttribute("aria-activedescendant", selected >= 0 ? `row-${selected}` : "");
    list.classList.toggle("empty", order.length === 0);
  };

  // Selection and details

  const select = (at, open) => {
    if (at < 0 || at >= order.length) return;
    selected = order[at];
    reveal(at);
    redraw();
    list.setAttribute("aria-activedescendant", `row-${selected}`);
    if (open || !phone.matches) show();
    writeHash();
  };
  const position = () => (selected >= 0 ? order.indexOf(selected) : -1);
  const move = (by) => {
    const at = position();
    select(at < 0 ? 0 : Math.max(0, Math.min(order.length - 1, at + by)), document.body.classList.contains("reading"));
  };

  const partOf = (i) => {
    let [low, high] = [0, starts.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (starts[middle] <= i) low = middle;
      else high = middle - 1;
    }
    return low;
  };
  const contentOf = async (i) => {
    const part = partOf(i);
    return (await load(`items-${part}`))[i - starts[part]];
  };

  const close = () => {
    document.body.classList.remove("reading");
    list.focus({ preventScroll: true });
  };

  const show = async () => {
    const i = selected;
    if (i < 0) {
      $("detail").replaceChildren(el("p", { class: "hint" }, n ? "Choose an item to read it." : ""));
      return;
    }
    if (phone.matches) document.body.classList.add("reading");
    try {
      const content = await contentOf(i);
      if (i !== selected) return; // another one was chosen since
      $("detail").replaceChildren(...detail(i, content));
      $("detail").scrollTop = 0;
    } catch (error) {
      fail(error);
    }
  };

  const whole = (text) => (Array.isArray(text) ? text[0] + text[2] : text ?? "");

  /** A text as nodes, with the words of the search and what facts are about marked. */
  const marked = (text, facts = []) => {
    if (Array.isArray(text)) {
      const gap = el("em", { class: "gap" }, ` [${number(text[1])} characters left out] `);
      return [...marked(text[0], facts), gap, ...marked(text[2], facts)];
    }
    const ranges = [];
    const add = (pattern, kind, title) => {
      for (const found of text.matchAll(pattern)) {
        if (found[0]) ranges.push([found.index, found.index + found[0].length, kind, title]);
      }
    };
    const escaped = (word) => word.replace(/[\\^$.*+?()[\]{}|\/-]/g, "\\$&");
    if (state.q) add(new RegExp(escaped(state.q), "giu"), "found", null);
    for (const [phrase, verdict, said] of facts) {
      const about = verdict === "wrong" ? said : verdict === "right" ? [phrase] : [];
      for (const words of about.map((each) => each.split(/[\s\p{P}]+/u).filter(Boolean))) {
        if (!words.length) continue;
        const between = words.map(escaped).join("[\\s\\p{P}*_]+");
        const title = verdict === "wrong" ? `untrue: the item shows “${phrase}”` : "a fact about the item";
        add(new RegExp(`(?<![\\p{L}\\p{N}])${between}(?![\\p{L}\\p{N}])`, "giu"), verdict, title);
      }
    }
    ranges.sort((x, y) => x[0] - y[0] || y[1] - x[1]);
    const nodes = [];
    let end = 0;
    for (const [from, to, kind, title] of ranges) {
      if (from < end) continue;
      nodes.push(text.slice(end, from), el("mark", { class: kind, title }, text.slice(from, to)));
      end = to;
    }
    nodes.push(text.slice(end));
    return nodes;
  };

  const block = (kind, text, facts) =>
    el("div", { class: `data ${kind}`, dir: "auto" }, ...marked(text, facts));

  const detail = (i, content) => {
    const task = tasks[columns.task[i]];
    const [first] = content.orders;
    const at = position();
    const group = columns.group[i] ? groups[columns.group[i] - 1] : null;
    const head = el(
      "header", { class: "detail-head" },
      el("div", { class: "detail-nav" },
        el("button", { type: "button", class: "quiet narrow", on: { click: close } }, "← Items"),
        el("button", { type: "button", class: "quiet", "aria-label": "Previous item", on: { click: () => move(-1) } }, "↑"),
        el("button", { type: "button", class: "quiet", "aria-label": "Next item", on: { click: () => move(1) } }, "↓"),
        el("span", { class: "muted" }, at >= 0 ? `${number(at + 1)} of ${number(order.length)}` : "not in this list"),
        el("button", { type: "button", class: "quiet copy", on: { click: copyLink } }, "Copy link"),
      ),
      el("h2", {}, el("bdi", {}, ids[i])),
      el("p", { class: "facts-line" },
        el("span", {}, el("span", { class: "muted" }, "Task "), el("bdi", {}, task.label)),
        group === null ? null : el("span", {}, el("span", { class: "muted" }, "Group "), el("bdi", {}, group)),
        el("span", {}, el("span", { class: "muted" }, "Label "),
          ...content.orders.flatMap((o, k) => [
            k ? el("span", { class: "muted" }, " swapped ") : null,
            el("strong", {}, el("bdi", {}, o.label === null ? "none" : whole(o.label)))])),
        content.human ? el("span", {}, el("span", { class: "muted" }, "People’s rating "), el("strong", {}, content.human)) : null,
      ),
    );
    const nodes = [head];
    const images = first.images ?? [];
    if (images.length) {
      const swapped = content.orders[1]?.images;
      nodes.push(
        el("div", { class: `images of-${Math.min(images.length, 3)}` }, ...images.map((image, k) => figure(image, k, images.length, ids[i]))),
      );
      if (swapped && swapped.length > 1) {
        const places = swapped.map(([name]) => images.findIndex(([other]) => other === name) + 1);
        if (places.some((place, k) => place !== k + 1) && !places.includes(0)) {
          nodes.push(el("p", { class: "note" }, `Swapped, the order of the images is ${places.join(", ")}.`));
        }
      }
    }
    const questions = content.orders.map((o) => whole(o.question ?? task.question));
    content.orders.forEach((o, k) => {
      if (!questions[k] || (k && questions[k] === questions[0])) return;
      nodes.push(el("h3", {}, k ? "Question, swapped" : "Question"), block("question", o.question ?? task.question));
    });
    const answers = shownJudges()
      .map((judge) => answersOf(judge, i, content.orders))
      .filter(Boolean);
    nodes.push(
      el("h3", { class: "unseen" }, "Answers"),
      answers.length
        ? el("div", { class: `answers of-${Math.min(answers.length, 3)}` }, ...answers)
        : el("p", { class: "hint" }, "Neither of these judges has judged this item."),
    );
    return nodes;
  };

  const figure = ([name, width, height], k, count, id) => {
    const title = count > 1 ? `Image ${k + 1}` : "Image";
    const image = el("img", { src: imagePath(name), width, height, alt: `${title} of item ${id}`, loading: "lazy", decoding: "async" });
    const button = el("button", { type: "button", class: "image", "aria-label": `Zoom into ${title.toLowerCase()} of item ${id}`, on: { click: () => zoom(name, width, height, title) } }, image);
    return el("figure", {}, button, el("figcaption", { class: "muted" }, `${count > 1 ? `${title} · ` : ""}${number(width)} × ${number(height)}`));
  };

  const answersOf = (judge, i, orders) => {
    const own = orders.map((o) => [o, o.answers.find((answer) => answer.judge === judge)]).filter(([, answer]) => answer);
    if (!own.length) return null;
    const flipped = ofJudges.flags[judge][i] & 8;
    return el(
      "article", { class: "answer" },
      el("header", {}, el("h4", {}, el("bdi", {}, judges[judge])), flipped ? el("span", { class: "chip odd" }, "⇄ flipped") : null),
      ...own.map(([o, answer]) => oneAnswer(o, answer, orders.length > 1)),
    );
  };

  const verdictChip = (answer, label) => {
    if (answer.state === "failed") return [el("span", { class: "chip odd" }, "! request failed")];
    if (answer.verdict === null) {
      return [el("span", { class: "chip odd" }, answer.state === "refused" ? "∅ refused" : "∅ no verdict")];
    }
    const verdict = el("bdi", {}, whole(answer.verdict));
    if (label === null) return [el("span", { class: "chip plain" }, verdict), el("span", { class: "muted" }, "unlabeled")];
    return answer.wrong
      ? [el("span", { class: "chip bad" }, "✗ ", verdict), el("span", { class: "muted" }, "wrong")]
      : [el("span", { class: "chip good" }, "✓ ", verdict), el("span", { class: "muted" }, "correct")];
  };

  const bar = (name, share, text, label) => {
    const fillElement = el("span", { class: "bar-fill" });
    fillElement.style.width = `${100 * share}%`;
    const isLabel = name !== null && whole(name) === label;
    return el("div", { class: "measure" },
      el("span", { class: "measure-name" }, name === null ? "none" : el("bdi", {}, whole(name)), isLabel ? el("span", { class: "muted" }, " label") : null),
      el("span", { class: "measure-bar", "aria-hidden": "true" }, fillElement),
      el("span", { class: "measure-value" }, text));
  };

  const oneAnswer = (o, answer, several) => {
    const label = o.label === null ? null : whole(o.label);
    const nodes = [
      el("p", { class: "verdict" }, several ? el("span", { class: "muted" }, o.swapped ? "swapped" : "as shown") : null, ...verdictChip(answer, o.label)),
    ];
    if (answer.probabilities?.length) {
      nodes.push(el("div", { class: "measures", role: "group", "aria-label": "Probabilities of verdicts" },
        ...answer.probabilities.map(([name, p]) => bar(name, p, p.toFixed(2), label))));
    }
    if (answer.votes?.length) {
      const all = answer.votes.reduce((sum, [, count]) => sum + count, 0);
      nodes.push(el("div", { class: "measures", role: "group", "aria-label": "Votes" },
        ...answer.votes.map(([name, count]) => bar(name, count / all, `${count} of ${all} votes`, label))));
    }
    if (answer.facts) nodes.push(factList(answer.facts));
    if (answer.reasoning) nodes.push(el("h5", {}, "Reasoning"), block("text", answer.reasoning, answer.facts?.each));
    if (answer.answer) nodes.push(el("h5", {}, answer.reasoning ? "Answer" : "Text"), block("text raw", answer.answer, answer.facts?.each));
    return el("div", { class: "order" }, ...nodes);
  };

  const SIGNS = { right: ["✓", "good"], wrong: ["✗", "bad"], "not stated": ["·", "plain"], "in question": ["·", "plain"] };
  const factList = ({ counts: [stated, contradicted, total], each }) => {
    const summary = `Facts: ${stated} of ${total} stated${contradicted ? `, ${contradicted} contradicted` : ""}`;
    if (!each) return el("p", { class: "note" }, summary);
    return el("div", { class: "fact-list" },
      el("h5", {}, summary),
      el("ul", {}, ...each.map(([phrase, verdict, said]) =>
        el("li", { class: `chip ${SIGNS[verdict][1]}`, title: verdict },
          `${SIGNS[verdict][0]} `, el("bdi", {}, whole(phrase)),
          verdict === "wrong" ? el("span", {}, " – says ", el("bdi", {}, said.map(whole).join(", "))) : null,
          el("span", { class: "unseen" }, ` (${verdict})`)))));
  };

  // Zoom

  let scale = 1;
  let natural = [1, 1];
  const setScale = (value) => {
    const image = $("zoom-area").firstElementChild;
    if (!image) return;
    scale = Math.max(0.05, Math.min(16, value));
    image.style.width = `${natural[0] * scale}px`;
    image.style.height = `${natural[1] * scale}px`;
    image.classList.toggle("pixels", scale >= 3);
    $("zoom-text").textContent = `${number(natural[0])} × ${number(natural[1])} pixels, ${Math.round(100 * scale)} %`;
  };
  const fit = () => {
    const area = $("zoom-area");
    setScale(Math.min((area.clientWidth - 8) / natural[0], (area.clientHeight - 8) / natural[1]));
  };
  const zoom = (name, width, height, title) => {
    natural = [width, height];
    $("zoom-area").replaceChildren(el("img", { src: imagePath(name), alt: title }));
    $("zoom").showModal();
    fit();
  };
  $("zoom-in").addEventListener("click", () => setScale(scale * 1.5));
  $("zoom-out").addEventListener("click", () => setScale(scale / 1.5));
  $("zoom-fit").addEventListener("click", fit);
  $("zoom-full").addEventListener("click", () => setScale(1));
  $("zoom-close").addEventListener("click", () => $("zoom").close());
  $("zoom-area").addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return; // a plain wheel scrolls
    event.preventDefault();
    setScale(scale * (event.deltaY < 0 ? 1.15 : 1 / 1.15));
  }, { passive: false });
  $("zoom").addEventListener("keydown", (event) => {
    const action = { "+": () => setScale(scale * 1.5), "=": () => setScale(scale * 1.5), "-": () => setScale(scale / 1.5), 0: fit, 1: () => setScale(1) }[event.key];
    if (action) {
      event.preventDefault();
      action();
    }
    event.stopPropagation();
  });

  // Search: ids at once, then texts, part after part

  let searching = 0;
  const search = async () => {
    const mine = ++searching;
    const wanted = state.q.toLowerCase();
    $("progress").hidden = true;
    if (!wanted) {
      hits = null;
      refresh();
      return;
    }
    hits = new Uint8Array(n);
    for (let i = 0; i < n; i++) hits[i] = ids[i].toLowerCase().includes(wanted);
    refresh();
    $("progress").hidden = starts.length === 0;
    const has = (text) => whole(text).toLowerCase().includes(wanted);
    let shown = performance.now();
    for (let part = 0; part < starts.length; part++) {
      let items;
      try {
        items = await load(`items-${part}`, false);
      } catch (error) {
        fail(error);
        break;
      }
      if (mine !== searching) return;
      items.forEach((item, k) => {
        hits[starts[part] + k] ||= item.orders.some(
          (o) => has(o.question) || o.answers.some((a) => has(a.reasoning) || has(a.answer) || has(a.verdict)),
        );
      });
      if (performance.now() - shown > 250) {
        shown = performance.now();
        $("meter").value = (part + 1) / starts.length;
        $("progress-text").textContent = `Searching texts, ${Math.round((100 * (part + 1)) / starts.length)} %`;
        refresh(false);
      }
    }
    $("progress").hidden = true;
    refresh(false);
  };
  $("stop").addEventListener("click", () => {
    searching++;
    $("progress").hidden = true;
  });
  let typed = 0;
  $("q").addEventListener("input", () => {
    clearTimeout(typed);
    typed = setTimeout(() => {
      state.q = $("q").value.trim();
      writeHash();
      search();
    }, 250);
  });
  $("search").addEventListener("submit", (event) => {
    event.preventDefault();
    list.focus();
  });

  // The form and the state

  const fromForm = () => {
    for (const id of ["task", "group", "judge", "a", "b"]) state[id] = Number($(id).value);
    state.sort = $("sort").value;
    state.differ = $("differ").checked;
    state.flags = FLAGS.reduce((sum, flag, bit) => sum + ($(`flag-${flag}`).checked ? 2 ** bit : 0), 0);
  };
  const toForm = () => {
    for (const id of ["task", "group", "judge", "a", "b", "sort"]) $(id).value = String(state[id]);
    $("differ").checked = state.differ;
    FLAGS.forEach((flag, bit) => {
      $(`flag-${flag}`).checked = ((state.flags >> bit) & 1) === 1;
    });
    $("q").value = state.q;
  };
  const changed = () => {
    fromForm();
    writeHash();
    refresh();
    show();
  };
  $("filters").addEventListener("change", changed);
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  const clear = () => {
    Object.assign(state, empty(), { view: state.view });
    toForm();
    writeHash();
    search();
    show();
  };
  $("filters").addEventListener("reset", (event) => {
    event.preventDefault();
    clear();
  });
  const toggleFilters = (on) => {
    const open = document.body.classList.toggle("filtering", on);
    $("filters-toggle").setAttribute("aria-expanded", String(open));
  };
  $("filters-toggle").addEventListener("click", () => {
    document.body.classList.remove("reading");
    toggleFilters();
  });
  $("filters-done").addEventListener("click", () => toggleFilters(false));

  // The whole state is in the address, by names, so that a link survives another report

  let written = "";
  const writeHash = () => {
    const words = new URLSearchParams();
    const put = (name, value) => {
      if (value) words.set(name, value);
    };
    put("view", state.view === "scores" && "scores");
    put("q", state.q);
    put("task", tasks[state.task]?.name);
    put("group", groups[state.group - 1]);
    for (const id of ["judge", "a", "b"]) put(id, judges[state[id]]);
    put("show", FLAGS.filter((_, bit) => (state.flags >> bit) & 1).join(","));
    put("differ", state.differ && "1");
    put("sort", state.sort);
    if (selected >= 0) {
      put("of", tasks[columns.task[selected]].name);
      put("item", ids[selected]);
    }
    written = `#${words}`;
    history.replaceState(null, "", written);
  };
  const readHash = () => {
    const words = new URLSearchParams(location.hash.slice(1));
    const task = (name) => tasks.findIndex((each) => each.name === words.get(name));
    Object.assign(state, empty(), {
      view: words.get("view") === "scores" || n === 0 ? "scores" : "items",
      q: words.get("q") ?? "",
      task: task("task"),
      group: groups.indexOf(words.get("group")) + 1,
      differ: words.get("differ") === "1",
      sort: Object.hasOwn(SORTS, words.get("sort")) ? words.get("sort") : "",
      flags: (words.get("show") ?? "").split(",").reduce((sum, flag) => sum + (FLAGS.includes(flag) ? 2 ** FLAGS.indexOf(flag) : 0), 0),
    });
    for (const id of ["judge", "a", "b"]) state[id] = judges.indexOf(words.get(id));
    const of = task("of");
    const id = words.get("item");
    selected = id === null ? -1 : ids.findIndex((each, i) => each === id && columns.task[i] === of);
    toForm();
    setView(state.view);
    search();
    if (selected < 0 && order.length && !phone.matches) {
      selected = order[0]; // rather than an empty pane
      redraw();
    }
    show();
  };
  addEventListener("hashchange", () => {
    if (location.hash !== written) readHash();
  });
  const copyLink = async () => {
    writeHash();
    const button = $("detail").querySelector(".copy");
    try {
      await navigator.clipboard.writeText(location.href);
      if (button) button.textContent = "Copied";
    } catch {
      if (button) button.textContent = "Copy the address bar";
    }
  };

  // Scores

  const setView = (view) => {
    state.view = view;
    $("items-view").hidden = view !== "items";
    $("scores-view").hidden = view !== "scores";
    $("view-items").setAttribute("aria-pressed", String(view === "items"));
    $("view-scores").setAttribute("aria-pressed", String(view === "scores"));
    document.body.classList.toggle("on-scores", view === "scores");
    if (view === "items") redraw();
  };
  for (const view of ["items", "scores"]) {
    $(`view-${view}`).addEventListener("click", () => {
      setView(view);
      writeHash();
    });
  }
  const showScores = () => {
    const dates = about.dates.length > 1 ? `${about.dates[0]} to ${about.dates.at(-1)}` : about.dates[0];
    $("scores-view").replaceChildren(
      el("p", { class: "note" }, `${about.metric} against human labels. Bootstrap: ${number(about.resamples)} resamples, seed ${about.seed}. Evaluated ${dates}.`),
      ...about.notes.map((note) => el("p", { class: "notice" }, el("bdi", {}, note))),
      ...about.tables.map(scoreTable),
    );
  };
  const scoreTable = (table) => {
    const body = el("tbody", {}, ...table.rows.map((row) =>
      el("tr", { class: row.style || null },
        row.group === null ? null : el("td", { class: "text" }, el("bdi", {}, row.group)),
        el("th", { scope: "row" }, el("bdi", {}, row.title)),
        ...row.cells.map(([text, more, rank, bold, isText]) =>
          el("td", { class: `${bold ? "bold" : ""}${isText ? " text" : ""}` },
            el("bdi", {}, text), rank ? el("span", { class: "rank" }, ` ${rank}`) : null,
            more ? el("span", { class: "interval" }, more) : null)))));
    const heading = el("h2", {}, table.title || "Scores");
    return el("section", { class: "card" }, heading,
      el("div", { class: "scroll", role: "region", tabindex: 0, "aria-label": table.title || "Scores" },
        el("table", {}, el("thead", {}, el("tr", {}, ...table.head.map((title) => el("th", { scope: "col" }, el("bdi", {}, title))))), body)),
      table.note ? el("p", { class: "note" }, el("bdi", {}, table.note)) : null);
  };

  // Keyboard

  const KEYS = {
    j: () => move(1), ArrowDown: () => move(1), k: () => move(-1), ArrowUp: () => move(-1),
    PageDown: () => move(Math.floor(list.clientHeight / rowHeight())),
    PageUp: () => move(-Math.floor(list.clientHeight / rowHeight())),
    Home: () => select(0, false), End: () => select(order.length - 1, false),
    Enter: () => {
      if (position() < 0) move(1);
      show();
      $("detail").focus();
    },
    "/": () => $("q").focus(),
    t: () => {
      $("task").value = String(state.task + 1 < tasks.length ? state.task + 1 : -1);
      changed();
    },
    z: () => $("detail").querySelector("button.image")?.click(),
    l: copyLink,
    x: clear,
    s: () => $(state.view === "items" ? "view-scores" : "view-items").click(),
    "?": () => $("help").showModal(),
    Escape: () => {
      toggleFilters(false);
      close();
    },
  };
  ["flag-wrong", "flag-null", "flag-failed", "flag-flipped", "differ"].forEach((id, at) => {
    KEYS[at + 1] = () => $(id).click();
  });
  const ONLY_ITEMS = new Set(["s", "?", "/"]);
  const OF_LIST = new Set(["ArrowDown", "ArrowUp", "PageDown", "PageUp", "Home", "End", "Enter"]);
  addEventListener("keydown", (event) => {
    if (!about || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const { target } = event;
    if (target.closest("input, select, textarea")) {
      const text = target.matches("input[type=search]");
      if (event.key === "Escape" && text) list.focus();
      if (text || target.matches("select") || !/^[a-z0-9?/]$/.test(event.key)) return;
    }
    // Where something else has the focus, these keys scroll or press it.
    if (OF_LIST.has(event.key) && target !== list && target !== document.body) return;
    if (state.view === "scores" && !ONLY_ITEMS.has(event.key)) return;
    const action = Object.hasOwn(KEYS, event.key) ? KEYS[event.key] : null;
    if (!action) return;
    event.preventDefault();
    action();
  });
  $("help-open").addEventListener("click", () => $("help").showModal());
  $("help-close").addEventListener("click", () => $("help").close());
  $("skip").addEventListener("click", (event) => {
    event.preventDefault();
    list.focus();
  });
  addEventListener("load", () => {
    if (!about) fail(new Error("data/index.js cannot be loaded; is the folder complete?"));
  });
})();
