"use strict";
// The page of `cpuft eval samples`. Everything that is shown is made of nodes of text: no string is ever read as markup.
(() => {
  const data = JSON.parse(document.getElementById("comparison").textContent);
  const SIDES = ["left", "right"];
  const LETTER = { left: "A", right: "B" };
  const SETTINGS = "cpuft side by side";
  const KEPT = `cpuft verdicts ${data.id}`;
  const NOTE_PAUSE = 400; // milliseconds without a key until a note is kept
  // Characters that show nothing, or turn the order of those beside them.
  const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]+/g;
  const KEYS = [
    [["j"], "next sample"], [["k"], "previous sample"], [["a"], "A is better"], [["b"], "B is better"], [["t"], "both are equal"],
    [["1", "5"], "rate the answer that was picked (of equal ones both), 5 is best"],
    [["Shift", "1", "5"], "rate the other answer"], [["r"], "blind: show which is which"], [["d"], "mark differences, or not"],
    [["/"], "search"], [["?"], "this list"], [["Esc"], "leave a field or this list"],
  ];

  /* What is remembered. */

  const storage = {
    works: true,
    read(name, otherwise) {
      try { return JSON.parse(localStorage.getItem(name)) ?? otherwise; } catch { this.works = false; return otherwise; }
    },
    write(name, value) {
      try { localStorage.setItem(name, JSON.stringify(value)); this.works = true; } catch { this.works = false; }
    },
  };
  const settings = { theme: "", marks: true, reviewer: "", ...storage.read(SETTINGS, {}) };
  let blind = Boolean(data.blind);
  const kept = storage.read(KEPT, {});
  const listed = (value) => (Array.isArray(value) ? value : []);
  const keyOf = (sample, reviewer) => `${reviewer}\n${sample}`;
  const verdicts = new Map();
  for (const one of [...listed(kept.verdicts), ...(data.served?.verdicts ?? [])]) verdicts.set(keyOf(one.sample, one.reviewer), one);
  const revealed = new Set(listed(kept.revealed));
  const unsent = new Map();
  for (const one of listed(kept.unsent)) { // said while the server was away: newer than what it has
    unsent.set(keyOf(one.sample, one.reviewer), one);
    verdicts.set(keyOf(one.sample, one.reviewer), one);
  }

  const mine = (sample) => verdicts.get(keyOf(sample.id, settings.reviewer));

  function save() {
    const own = new Set(data.samples.map((sample) => sample.id));
    const others = listed(storage.read(KEPT, {}).verdicts).filter((one) => !own.has(one.sample)); // of other pages on the pair
    storage.write(KEPT, {
      verdicts: [...others, ...[...verdicts.values()].filter((one) => own.has(one.sample))],
      revealed: [...revealed], unsent: [...unsent.values()],
    });
  }

  let sending = false;

  // One after the other, so that what was said last is what is stored.
  async function send() {
    if (sending) return;
    sending = true;
    let fault = "";
    for (const tried = new Set(); !fault;) {
      const next = [...unsent].find(([, verdict]) => !tried.has(verdict));
      if (!next) break;
      const [key, verdict] = next;
      tried.add(verdict);
      try {
        const answer = await fetch("verdicts", {
          method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(verdict), keepalive: true,
        });
        if (!answer.ok) throw new Error(await answer.text());
        if (unsent.get(key) === verdict) unsent.delete(key);
      } catch (error) {
        fault = `Not stored (${error.message}): kept in this browser, and sent again with the next verdict.`;
      }
    }
    sending = false;
    save();
    show.place(fault);
  }

  // What the reviewer says of a sample; judged: it says which is better, which is only blind while names are hidden.
  function say(sample, change, judged) {
    const before = mine(sample) ?? {
      sample: sample.id, picked: null, base_rating: null, tuned_rating: null, note: "", blind, reviewer: settings.reviewer,
    };
    const verdict = { ...before, ...change, at: new Date().toISOString() };
    if (judged) verdict.blind = blind && !revealed.has(sample.id);
    const key = keyOf(sample.id, settings.reviewer);
    verdicts.set(key, verdict);
    if (data.served) { unsent.set(key, verdict); send(); }
    save();
    refresh(sample);
    show.counts();
    show.place();
  }

  /* Nodes. */

  function node(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes ?? {})) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value === true) made.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
    }
    made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
    return made;
  }

  // The text with hidden characters made visible.
  function visible(text) {
    const nodes = [];
    let end = 0;
    for (const found of String(text).matchAll(HIDDEN)) {
      nodes.push(text.slice(end, found.index));
      const codes = [...found[0]].map((one) => `U+${one.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`);
      const shown = codes.slice(0, 3).join(" ") + (codes.length > 3 ? ` and ${codes.length - 3} more` : "");
      nodes.push(node("span", { class: "control", title: "a character that is not shown" }, shown));
      end = found.index + found[0].length;
    }
    nodes.push(String(text).slice(end));
    return nodes;
  }

  function marked(segments, side) {
    return segments.flatMap(([mark, text]) => {
      if (!mark) return visible(text);
      const [space] = /^\s*/.exec(text);
      return [space, node(side === "left" ? "del" : "ins", null, visible(text.slice(space.length)))];
    });
  }

  // The empty lines at its end are no part of what is read.
  function withoutEnd(segments) {
    if (!segments?.length) return segments;
    const [mark, text] = segments.at(-1);
    return [...segments.slice(0, -1), [mark, text.replace(/\n+$/, "")]];
  }

  const number = (value, digits = 3) => (typeof value === "number" ? value.toFixed(digits) : "–");
  const percent = (value) => (typeof value === "number" ? `${(100 * value).toFixed(0)} %` : "–");
  const signed = (value) => (value > 0 ? "+" : value < 0 ? "\u2212" : "±") + Math.abs(value).toFixed(3);
  const within = (mean) => (mean ? ` [${number(mean.low)}, ${number(mean.high)}]` : "");
  const swapped = (sample) => blind && sample.swapped;
  const modelOn = (sample, side) => ((side === "left") !== swapped(sample) ? "base" : "tuned");
  const open = (sample) => !blind || revealed.has(sample.id);
  const question = (sample) => Object.values(sample.inputs)[0] ?? "";

  /* A sample. */

  const parts = new Map(); // id of a sample -> what of it changes

  function article(sample, place) {
    const heading = `sample-${place + 1}`;
    const [title] = String(question(sample)).trim().split("\n");
    const short = title.length > 240 ? `${title.slice(0, 240)}…` : title;
    const badge = node("span", { class: "badge" });
    const heads = node("div", { class: "heads pair" });
    const scores = node("div", { class: "scores" });
    const judge = judging(sample, heading);
    const made = node("article", { tabindex: "-1", "aria-labelledby": heading, "data-sample": sample.id, onfocusin: () => point(place) },
      node("div", { class: "asked" }, node("h2", { id: heading, dir: "auto" }, `${place + 1}. `, visible(short)), badge),
      inputs(sample, short),
      heads,
      node("div", { class: "answers" }, sample.fields.map((field) => fieldRow(sample, field))),
      judge.form, scores);
    parts.set(sample.id, { badge, heads, scores, judge, made });
    refresh(sample);
    return made;
  }

  function inputs(sample, short) {
    const entries = Object.entries(sample.inputs);
    if (entries.length < 2 && String(question(sample)).trim() === short) return null;
    return node("details", null, node("summary", null, "The question in full"),
      node("dl", null, entries.flatMap(([name, text]) => [node("dt", null, name), node("dd", { dir: "auto" }, visible(text))])));
  }

  function fieldRow(sample, field) {
    const name = field.name || "before the first field";
    const said = field.differs ? (field.rewritten ? `${name}, written differently throughout` : name) : `${name}, the same`;
    const same = !field.differs;
    return node("div", { class: `field pair${same ? " same" : ""}` }, node("h4", null, said), SIDES.map((side) => {
      const segments = withoutEnd(field[modelOn(sample, side)]);
      const text = segments === null
        ? node("p", { class: "none" }, "no such field")
        : node("pre", { dir: "auto" }, field.rewritten ? segments.flatMap(([, piece]) => visible(piece)) : marked(segments, side));
      return node("div", { class: `answer ${side}${field.rewritten ? " rewritten" : ""}` },
        node("span", { class: "letter" }, LETTER[side]), same && side === "left" ? node("span", { class: "letter right" }, "B") : null, text);
    }));
  }

  function judging(sample, heading) {
    const picks = new Map(), stars = { left: new Map(), right: new Map() };
    const choice = (name, value, label, spoken, chosen, into) => {
      const input = node("input", { type: "radio", name: `${name} ${sample.id}`, value, "aria-label": spoken, onchange: chosen });
      into.set(value, input);
      return node("label", null, input, node("span", { "aria-hidden": "true" }, label));
    };
    const pick = node("fieldset", { class: "pick" }, node("legend", null, "Which is better?"), node("div", { class: "choices" },
      [["left", "A"], ["tie", "Equal"], ["right", "B"]].map(([value, label]) =>
        choice("pick", value, label, value === "tie" ? "Both are equal" : `${label} is better`, () => choose(sample, value), picks))));
    const ratings = SIDES.map((side) => node("fieldset", null, node("legend", null, `Rating of ${LETTER[side]}, 5 is best`),
      node("div", { class: "choices" }, [1, 2, 3, 4, 5].map((value) =>
        choice(side, value, String(value), `${value} of 5 for ${LETTER[side]}`, () => rate(sample, [side], value), stars[side])))));
    const note = node("textarea", { rows: "1", maxlength: data.limits.note, dir: "auto" });
    let pause = 0;
    const keepNote = () => { clearTimeout(pause); if (note.value !== (mine(sample)?.note ?? "")) say(sample, { note: note.value }, false); };
    note.addEventListener("input", () => { clearTimeout(pause); pause = setTimeout(keepNote, NOTE_PAUSE); });
    note.addEventListener("change", keepNote);
    const button = node("button", { type: "button", onclick: () => reveal(sample) }, "Show which is which");
    const hint = node("span", { class: "faint" });
    const form = node("div", { class: "judge", role: "group", "aria-label": "Your verdict", "aria-describedby": heading }, pick, ratings,
      node("label", { class: "note" }, "Note", note), node("div", { class: "reveal" }, button, hint));
    return { form, picks, stars, note, keepNote, button, hint, inputs: [...picks.values(), ...stars.left.values(), ...stars.right.values()] };
  }

  // Brings what changes of a sample to the state of things.
  function refresh(sample) {
    const { badge, heads, scores, judge } = parts.get(sample.id);
    const shown = open(sample), verdict = mine(sample), gain = sample.tuned.score - sample.base.score;
    badge.className = `badge ${shown && sample.outcome !== "equal" ? sample.outcome : "faint"}`;
    badge.textContent = !shown ? "blind" : sample.outcome === "equal" ? "equal" : `tuned ${sample.outcome} ${signed(gain)}`;
    heads.replaceChildren(...SIDES.map((side) => head(sample, side, shown)));
    scores.replaceChildren(...(shown ? [partTable(sample), faults(sample)] : []));
    const locked = blind && shown;
    for (const input of judge.inputs) input.disabled = locked;
    for (const [value, input] of judge.picks) input.checked = verdict?.picked === (value === "tie" ? "tie" : modelOn(sample, value));
    for (const side of SIDES) {
      for (const [value, input] of judge.stars[side]) input.checked = verdict?.[`${modelOn(sample, side)}_rating`] === value;
    }
    if (document.activeElement !== judge.note) judge.note.value = verdict?.note ?? "";
    judge.form.querySelector(".reveal").hidden = !blind;
    judge.button.hidden = shown;
    judge.button.disabled = !verdict?.picked;
    judge.hint.textContent = shown ? "You were told which is which, so your verdict on this one is final."
      : verdict?.picked ? "Rate first: what you say is final then." : "Once you have picked.";
  }

  function head(sample, side, shown) {
    const model = modelOn(sample, side), answer = sample[model];
    const name = shown ? `${model}: ${data[model].name}` : `Answer ${LETTER[side]}`;
    const facts = [`score ${number(answer.score)}`];
    if (typeof answer.tokens === "number") facts.push(`${answer.tokens} tokens`);
    if (answer.finished === false) facts.push("cut off: too long");
    return node("div", { class: side }, node("h3", null, node("span", { class: "letter" }, LETTER[side]), " ", visible(name)),
      node("p", { class: "faint" }, shown ? facts.join(", ") : "name and score are hidden"));
  }

  function partTable(sample) {
    const [left, right] = SIDES.map((side) => modelOn(sample, side));
    const names = [...new Set([...Object.keys(sample.base.parts ?? {}), ...Object.keys(sample.tuned.parts ?? {})])];
    const rows = [["score", sample.base.score, sample.tuned.score],
      ...names.map((name) => [name, sample.base.parts?.[name], sample.tuned.parts?.[name]])];
    return node("div", { class: "scores-table scroll" }, node("table", null,
      node("caption", { class: "unseen" }, "Scores and their parts"),
      node("thead", null, node("tr", null, ["part", `A, ${left}`, `B, ${right}`, "tuned is"].map((text) => node("th", { scope: "col" }, text)))),
      node("tbody", null, rows.map(([name, base, tuned]) => {
        const gain = tuned - base, by = { base, tuned };
        const kind = gain > 0 ? "better" : gain < 0 ? "worse" : "";
        return node("tr", null, node("th", { scope: "row" }, visible(name)), node("td", null, number(by[left])), node("td", null, number(by[right])),
          node("td", { class: kind }, Number.isFinite(gain) ? (kind ? `${kind} ${signed(gain)}` : "equal") : "–"));
      }))));
  }

  function faults(sample) {
    return node("div", { class: "faults" }, SIDES.map((side) => {
      const found = sample[modelOn(sample, side)].faults ?? [];
      return node("div", null, node("span", { class: `letter ${side}` }, LETTER[side]),
        found.length ? ` ${found.length === 1 ? "One fault" : `${found.length} faults`}` : " No faults",
        found.length ? node("ul", null, found.map((fault) => node("li", { dir: "auto" }, visible(fault)))) : null);
    }));
  }

  /* What a reviewer does. */

  function choose(sample, where) {
    if (blind && revealed.has(sample.id)) return show.say("This verdict is final: you were told which is which.");
    say(sample, { picked: where === "tie" ? "tie" : modelOn(sample, where) }, true);
    show.say(where === "tie" ? "Both are equal" : `${LETTER[where]} is better`);
  }

  function rate(sample, sides, stars) {
    if (blind && revealed.has(sample.id)) return show.say("This verdict is final: you were told which is which.");
    say(sample, Object.fromEntries(sides.map((side) => [`${modelOn(sample, side)}_rating`, stars])), true);
    show.say(`${stars} of 5 for ${sides.map((side) => LETTER[side]).join(" and ")}`);
  }

  // The sides that the keys 1 to 5 rate; other: those that Shift and 1 to 5 rate.
  function rated(sample, other) {
    const picked = mine(sample)?.picked;
    if (!picked) return [];
    if (picked === "tie") return SIDES;
    return SIDES.filter((side) => (modelOn(sample, side) === picked) !== other);
  }

  function reveal(sample) {
    if (!blind || !mine(sample)?.picked || revealed.has(sample.id)) return;
    revealed.add(sample.id);
    save();
    refresh(sample);
    show.say(SIDES.map((side) => `${LETTER[side]} is ${modelOn(sample, side)}`).join(", "));
  }

  /* The page around the samples. */

  let current = 0;
  const filter = { outcome: "", part: "", judged: "", text: "" };
  const texts = new Map(data.samples.map((sample) => [sample.id, [
    ...Object.values(sample.inputs), ...sample.fields.flatMap((field) => ["base", "tuned"].map((side) =>
      (field[side] ?? []).map(([, text]) => text).join(""))),
  ].join("\n").toLowerCase()]));
  const partDiffers = (sample, name) => sample.base.parts?.[name] !== sample.tuned.parts?.[name];
  const fieldDiffers = (sample, name) => sample.fields.some((field) => field.name === name && field.differs);
  const wanted = (sample) =>
    (!filter.outcome || sample.outcome === filter.outcome)
    && (!filter.judged || Boolean(mine(sample)?.picked) === (filter.judged === "yes"))
    && (!filter.part || (filter.part.startsWith("part ") ? partDiffers : fieldDiffers)(sample, filter.part.slice(5)))
    && filter.text.toLowerCase().split(/\s+/).every((word) => texts.get(sample.id).includes(word));

  const list = node("main", { id: "samples" });
  const nothing = node("p", { class: "empty" }, "No sample is like that.");
  const summary = node("div");
  const status = node("span", { role: "status" });
  const counts = node("span");
  const place = node("span");

  const show = {
    say(text) { status.textContent = text; },
    counts() {
      const shown = data.samples.filter(wanted).length, judged = data.samples.filter((sample) => mine(sample)?.picked);
      const won = (pick) => judged.filter((sample) => mine(sample).picked === pick).length;
      const result = !blind && judged.length ? `: tuned better ${won("tuned")}, equal ${won("tie")}, base better ${won("base")}` : "";
      counts.textContent = `${shown} of ${data.samples.length} shown, ${judged.length} judged${result}`;
    },
    place(text) {
      if (text) place.textContent = text;
      else if (data.served && !unsent.size) place.textContent = `Verdicts are stored in ${data.served.store}`;
      else if (data.served) place.textContent = "Storing…";
      else if (!storage.works) place.textContent = "This browser keeps nothing here: export your verdicts before you close the page.";
      else place.textContent = "Verdicts are kept in this browser: export them when you are done.";
    },
  };

  function apply() {
    const shown = data.samples.filter(wanted);
    for (const sample of data.samples) parts.get(sample.id).made.hidden = !shown.includes(sample);
    nothing.hidden = shown.length > 0;
    if (!shown.includes(data.samples[current])) point(Math.max(0, data.samples.indexOf(shown[0])));
    show.counts();
    return shown.length;
  }

  const filtered = () => show.say(`${apply()} of ${data.samples.length} samples shown`);

  function point(index) {
    current = index;
    data.samples.forEach((sample, n) => parts.get(sample.id).made.classList.toggle("current", n === index));
  }

  function move(step) {
    let next = current + step;
    while (data.samples[next] && !wanted(data.samples[next])) next += step;
    if (!data.samples[next]) return show.say(step > 0 ? "This is the last sample" : "This is the first sample");
    point(next);
    const { made } = parts.get(data.samples[next].id);
    made.focus({ preventScroll: true });
    made.scrollIntoView({ block: "start" });
  }

  const keepNotes = () => parts.forEach(({ judge }) => judge.keepNote());
  addEventListener("pagehide", keepNotes);

  function build() {
    keepNotes();
    parts.clear();
    list.replaceChildren(node("h2", { class: "unseen" }, "Samples"), ...data.samples.map(article), nothing);
    summary.replaceChildren(blind ? node("p", { class: "faint" }, "Blind: sides are shuffled; names and scores are hidden until you have picked.") : models());
    controls.blind.setAttribute("aria-pressed", blind);
    controls.outcome.disabled = blind;
    controls.scoreParts.disabled = blind;
    if (blind && (filter.outcome || filter.part.startsWith("part "))) {
      controls.outcome.value = filter.outcome = "";
      controls.part.value = filter.part = "";
    }
    point(current);
    apply();
  }

  function models() {
    const columns = [["score", (m) => number(m.avg_score) + within(m.interval)], ["YAML valid", (m) => percent(m.yaml_valid)],
      ["schema valid", (m) => percent(m.schema_valid)], ["cut off", (m) => (m.unfinished ?? "–")], ["perplexity", (m) => number(m.perplexity, 2)]];
    const gain = data.difference;
    return node("div", null,
      node("div", { class: "scroll" }, node("table", null, node("caption", { class: "unseen" }, "Both models"),
        node("thead", null, node("tr", null, node("th", { scope: "col" }, "model"), columns.map(([name]) => node("th", { scope: "col" }, name)))),
        node("tbody", null, ["base", "tuned"].map((model) => node("tr", null,
          node("th", { scope: "row" }, `${model}: `, visible(data[model].name)), columns.map(([, of]) => node("td", null, String(of(data[model]))))))))),
      gain ? node("p", null, `Difference of the scores: ${signed(gain.value)}${within(gain)}, ${gain.wins} better, ${gain.ties} equal, ${gain.losses} worse.`) : null);
  }

  function exported() {
    const shown = new Set(data.samples.map((sample) => sample.id));
    const who = (model) => ({ name: data[model].name, key: data[model].key });
    const file = { kind: data.kind, cpuft: data.cpuft, base: who("base"), tuned: who("tuned"), seed: data.seed,
      verdicts: [...verdicts.values()].filter((one) => shown.has(one.sample)) };
    const address = URL.createObjectURL(new Blob([`${JSON.stringify(file, null, 1)}\n`], { type: "application/json" }));
    const link = node("a", { href: address, download: `verdicts-${data.id}.json` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
    show.say(`${file.verdicts.length} ${file.verdicts.length === 1 ? "verdict" : "verdicts"} exported`);
  }

  const options = (entries) => entries.map(([value, text]) => node("option", { value }, text));
  const names = (of, differs) => [...new Set(data.samples.flatMap(of))]
    .map((name) => [name, data.samples.filter((sample) => differs(sample, name)).length]).filter(([, count]) => count);
  const select = (label, name, ...children) => {
    const made = node("select", { onchange: () => { filter[name] = made.value; filtered(); } }, children);
    controls[name] = made;
    return node("label", { class: "narrow" }, label, made);
  };
  const typed = (label, css, attributes, changed) => {
    const made = node("input", { autocomplete: "off", ...attributes, oninput: () => changed(made.value) });
    return [node("label", { class: css }, label, made), made];
  };
  const toggle = (label, attributes, pressed) => node("button", { type: "button", ...attributes, onclick: pressed }, label);
  const controls = {};

  function setTheme(theme) {
    if (theme) document.documentElement.dataset.theme = theme; else delete document.documentElement.dataset.theme;
    controls.theme.textContent = { "": "Theme: system", light: "Theme: light", dark: "Theme: dark" }[theme];
    settings.theme = theme;
    storage.write(SETTINGS, settings);
  }

  function setMarks(on) {
    document.documentElement.dataset.marks = on ? "on" : "off";
    controls.marks.setAttribute("aria-pressed", on);
    settings.marks = on;
    storage.write(SETTINGS, settings);
  }

  function tools() {
    const scoreParts = names((sample) => Object.keys(sample.base.parts ?? {}), partDiffers);
    const fields = names((sample) => sample.fields.map((field) => field.name), fieldDiffers);
    controls.scoreParts = node("optgroup", { label: "Part of the score" }, options(scoreParts.map(([name, count]) => [`part ${name}`, `${name} (${count})`])));
    const [search, searched] = typed("Search", "grow", { type: "search" }, (text) => { filter.text = text; filtered(); });
    const [reviewer] = typed("Reviewer", "narrow", { value: settings.reviewer, maxlength: data.limits.reviewer }, (text) => {
      settings.reviewer = text.trim();
      storage.write(SETTINGS, settings);
      data.samples.forEach(refresh);
      apply();
    });
    controls.search = searched;
    controls.blind = toggle("Blind", {}, () => { blind = !blind; build(); });
    controls.marks = toggle("Differences", {}, () => setMarks(!settings.marks));
    controls.theme = toggle("", {}, () => setTheme({ "": "light", light: "dark", dark: "" }[settings.theme] ?? ""));
    return node("section", { class: "tools", "aria-label": "Filters and settings" }, node("div", null,
      select("Tuned is", "outcome", options([["", "all"], ["better", "better"], ["worse", "worse"], ["equal", "equal"]])),
      select("Differs in", "part", options([["", "anything"]]), controls.scoreParts,
        node("optgroup", { label: "Field of the answer" }, options(fields.map(([name, count]) => [`item ${name}`, `${name || "before the first"} (${count})`])))),
      select("Judged", "judged", options([["", "all"], ["no", "not yet"], ["yes", "judged"]])),
      search, reviewer,
      node("div", { class: "buttons" }, controls.blind, controls.marks, controls.theme,
        toggle("Export verdicts", { class: "main" }, exported), toggle("Keys", { "aria-keyshortcuts": "?" }, () => help.showModal())),
      node("div", { class: "state" }, counts, place, status)));
  }

  const help = node("dialog", { "aria-labelledby": "help" }, node("h2", { id: "help" }, "Keys"),
    node("table", null, node("tbody", null, KEYS.map(([keys, does]) => node("tr", null,
      node("td", null, keys.flatMap((key, n) => [n ? (key === "5" ? " to " : " + ") : "", node("kbd", null, key)])), node("th", { scope: "row" }, does))))),
    node("form", { method: "dialog" }, node("button", { class: "main" }, "Close")));

  addEventListener("keydown", (event) => {
    const field = event.target.closest?.("textarea, select, input:not([type=radio])");
    if (event.key === "Escape" && field) return field.blur();
    if (field || help.open || event.ctrlKey || event.altKey || event.metaKey) return;
    const sample = data.samples[current], digit = /^(?:Digit|Numpad)([1-5])$/.exec(event.code)?.[1];
    const does = {
      j: () => move(1), k: () => move(-1), "?": () => help.showModal(), "/": () => controls.search.focus(),
      d: () => setMarks(!settings.marks), r: () => reveal(sample),
      a: () => choose(sample, "left"), b: () => choose(sample, "right"), t: () => choose(sample, "tie"),
    }[event.key.toLowerCase()];
    if (!does && !digit) return;
    event.preventDefault();
    if (does) return does();
    const sides = rated(sample, event.shiftKey);
    if (sides.length) rate(sample, sides, Number(digit)); else show.say("Pick the better one first: a, b or t");
  });

  const made = data.made_by ?? {};
  const facts = [made.date && `made ${made.date}`, made.metric && `metric ${made.metric}`, made.server, `seed ${data.seed}`,
    data.samples.length < data.n_answers && `${data.samples.length} of ${data.n_answers} questions`].filter(Boolean);
  const bar = tools();
  document.body.append(
    node("a", { class: "skip", href: "#samples" }, "Skip to the samples"),
    node("header", null, node("h1", null, "Side by side: ", visible(data.title)), node("p", { class: "faint" }, visible(facts.join(", "))), summary),
    bar, list, help);
  new ResizeObserver(() => { // whatever moves into view must not lie below the tools
    const fixed = getComputedStyle(bar).position === "sticky" ? bar.offsetHeight : 0;
    document.documentElement.style.setProperty("--covered", `${fixed}px`);
  }).observe(bar);
  setTheme(settings.theme);
  setMarks(settings.marks);
  build();
  show.place();
  if (unsent.size && data.served) send();
})();
