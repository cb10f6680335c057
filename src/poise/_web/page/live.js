// What the server tells, once a second, and where it is shown.

const MOST_BARS = 10000;
const SILENT = 2500;                    // milliseconds without a word after which the connection is said to be lost
const AGAIN = 2000;                     // milliseconds until the next try, where the browser gives up

// One pool, as far as it is known here: the present, and what there was in the last fifteen minutes.
class Seen {
  constructor(name) {
    Object.assign(this, { name, now: null, heard: 0, seconds: new Map(), past: new Map(), starts: new Map(), slotsEach: 1 });
  }

  take(news) {                          // the present, and what has changed
    if (news.now === undefined) {       // of a pool that is closed, or not open yet, no more is known
      this.now = { ...this.now, state: news.state };
      return;
    }
    this.heard = performance.now();
    this.now = news;
    this.slotsEach = news.workers[0]?.slots ?? this.slotsEach;
    for (const second of news.seconds) this.seconds.set(second.at, second);
    for (const bar of news.bars) this.past.set(bar.id, bar);
    for (const worker of news.workers) if (worker.state === "starting") {
      const begin = this.starts.get(worker.id)?.begin ?? news.now - worker.age;
      this.starts.set(worker.id, { worker: worker.id, row: 0, begin, end: news.now, isStart: true, outcome: "ended" });
    }
    const from = news.now - SPAN;
    for (const [key, second] of this.seconds) if (second.at < from - 1) this.seconds.delete(key);
    for (const [key, bar] of this.past) if (bar.end < from || this.past.size > MOST_BARS) this.past.delete(key);
    for (const [key, start] of this.starts) if (start.end < from) this.starts.delete(key);
  }

  get moment() {                        // by the pool's clock
    if (this.now?.now === undefined) return 0;
    const since = this.now.state === "closed" ? 0 : Math.min(performance.now() - this.heard, SILENT);
    return this.now.now + since / 1000;
  }

  get workers() { return this.now?.workers ?? []; }
  get deaths() { return this.now?.deaths ?? []; }

  get bars() {                          // those that go on are in no order with the others
    const running = this.workers.flatMap((worker) => worker.calls.map((call) =>
      ({ worker: worker.id, row: call.row, function: call.function, begin: call.since, end: null, outcome: "", calls: 1 })));
    return [...this.starts.values(), ...this.past.values(), ...running];
  }

  get slots() {                         // full seconds alone: the present one is not over
    const now = Math.floor(this.now?.now ?? 0);
    return Array.from({ length: SPAN }, (_, index) => {
      const second = this.seconds.get(now - SPAN + index);
      if (second === undefined) return null;
      const { returned = 0, ...others } = second.ended;
      const failed = Object.values(others).reduce((a, b) => a + b, 0) + second.refused;
      return { returned, failed, p50: second.waits?.p50, p99: second.waits?.p99, busy: second.busy, deaths: second.deaths };
    });
  }
}

const find = (id) => document.getElementById(id);
const pools = new Map();
const charts = new Charts(find("charts"), find("charts-title"));
const timeline = new Timeline(find("timeline"), find("reading"), find("legend"), find("windows"));
let chosen = null;
let isPaused = false;
let isEnding = false;
let heard = performance.now();

// ---------------------------------------------------------------- the state of it all

function condition(pool) {              // [good, warn or bad; in a few words; what there is to say of it]
  if (isEnding) return ["bad", "server stopped", "The server shuts down. This page goes on when it is back."];
  if (performance.now() - heard > SILENT) return ["bad", "connection lost", `Connection lost at ${clock((Date.now() - performance.now() + heard) / 1000)}; what is shown is from then. Trying again.`];
  if (pool === null) return ["warn", "no pool", "No pool is open yet."];
  const { state, ready, size } = pool.now;
  if (state === "closed") return ["bad", "pool closed", "The pool is closed. What is shown is how it ended."];
  if (state === "broken") return ["bad", "pool broken", "The pool is broken: no worker can start. Why is in the last deaths, below."];
  if (state !== "open") return ["warn", state, ""];
  const words = `${count(ready)} of ${count(size)} workers ready`;
  return [ready >= size ? "good" : "warn", words, ""];
}

function tell() {
  const [look, word, words] = condition(chosen);
  find("status").className = look;
  say(find("status").querySelector(".word"), word);
  say(find("notice"), words);
  find("notice").hidden = words === "";
}

// ---------------------------------------------------------------- the parts of the page

const figures = new Map();

function figure(name, value, also, look = "") {
  if (!figures.has(name)) {
    const parts = [element("dd", { class: "value" }), element("dd", { class: "also" })];
    const box = element("div", {}, element("dt", { text: name }), ...parts);
    find("figures").append(box);
    figures.set(name, [box, ...parts]);
  }
  const [box, large, small] = figures.get(name);
  box.className = look;
  say(large, value);
  say(small, also);
}

function showFigures(now) {
  const { totals, waits, runs } = now;
  const bounds = now.least === now.most ? "" : `, ${now.least} to ${now.most}`;
  const failed = totals.failed + totals.expired + totals.lost + totals.cancelled;
  figure("Workers", `${count(now.ready)} of ${count(now.size)}`, `${count(now.starting)} starting${bounds}`, now.ready < now.size ? "warn" : "");
  figure("Backlog", count(now.waiting), `${count(now.parked)} wait for room`, now.parked > 0 ? "warn" : "");
  figure("Wait, p50", duration(waits?.p50), `p99 ${duration(waits?.p99)}`);
  figure("Run, p50", duration(runs?.p50), `p99 ${duration(runs?.p99)}`);
  figure("Calls per second", rate(now.rate), `${count(totals.completed)} done`);
  figure("Utilisation", percent(now.busy), `${count(now.running)} calls, ${count(now.slots)} slots`);
  figure("Not returned", count(failed), `${count(totals.rejected)} refused`);
  figure("Deaths", count(totals.deaths), `${count(totals.recycled)} recycled`, totals.deaths > 0 ? "bad" : "");
}

function fill(body, items, key, cells) { // a row for each, which stays the same element as long as its item is there
  const rows = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  const isFirst = body.rows.length === 0;
  items.forEach((item, index) => {
    const name = String(key(item));
    const texts = cells(item);
    let row = rows.get(name);
    if (row === undefined) {
      row = element("tr", { "data-key": name, ...(isFirst ? {} : { class: "arrived" }) }, ...texts.map(([, kind], column) =>
        element(column === 0 ? "th" : "td", { class: kind ?? "", ...(column === 0 ? { scope: "row" } : {}) })));
    }
    rows.delete(name);
    texts.forEach(([content, kind], column) => {
      const cell = row.cells[column];
      if (content instanceof Function) content(cell);
      else say(cell, String(content ?? ""));
      if (kind === "name") cell.title = cell.textContent;
    });
    if (body.rows[index] !== row) body.insertBefore(row, body.rows[index] ?? null);
  });
  for (const row of rows.values()) row.remove();
}

const marked = (look, text) => (cell) => {
  if (cell.firstChild === null) cell.append(element("span", { class: "dot" }), element("span", { class: "word" }));
  cell.className = look;
  say(cell.lastChild, text);
};

const filled = (running, slots) => (cell) => {
  if (cell.firstChild === null) cell.append(element("meter", { min: "0", "aria-hidden": "true" }), element("span"));
  Object.assign(cell.firstChild, { max: slots, value: running });
  say(cell.lastChild, running > slots ? `${running} together` : `${running} of ${slots}`);  // batches share slots
};

function stateOf(worker) {
  if (worker.quarantined) return marked("bad", "sick");
  if (worker.leased) return marked("good", "leased");
  return marked(worker.state === "ready" ? "good" : "warn", worker.state);
}

function showWorkers(pool) {
  fill(find("workers").tBodies[0], pool.workers, (worker) => worker.id, (worker) => {
    const [first, ...more] = worker.calls;
    const runs = first === undefined ? "" : first.function + (more.length > 0 ? ` and ${more.length} more` : "");
    const age = first === undefined ? "" : duration(Math.max(0, pool.now.now - first.since));
    return [
      [worker.id], [stateOf(worker)], [runs, "name"], [age, "number"], [filled(worker.running, worker.slots)],
      [count(worker.finished), "number"], [bytes(worker.resident), "number"], [worker.pid, "number"],
      [(worker.node ?? "").slice(0, 8)], [worker.lane],
    ];
  });
}

function counted(names) {
  const counts = new Map();
  for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1);
  return [...counts].map(([name, times]) => (times > 1 ? `${name} (${times} times)` : name)).join(", ");
}

function showDeaths(pool) {
  const deaths = [...pool.deaths].reverse();
  find("no-deaths").hidden = deaths.length > 0;
  find("deaths").parentElement.hidden = deaths.length === 0;
  fill(find("deaths").tBodies[0], deaths, (death) => `${death.worker}/${death.at}`, (death) => [
    [`${ago(pool.now.now - death.at)} ago`], [death.worker], [death.pid, "number"], [death.cause],
    [counted(death.functions), "name"], [death.reason, "why"],
  ]);
}

function showPools() {
  const nav = find("pools");
  const names = [...pools.keys()];
  if (names.join("\n") !== [...nav.children].map((each) => each.textContent).join("\n")) {
    nav.replaceChildren(...names.map((name) => {
      if (names.length === 1) return element("strong", { text: name });
      const button = element("button", { type: "button", text: name });
      button.addEventListener("click", () => choose(name));
      return button;
    }));
  }
  for (const each of nav.children) each.setAttribute("aria-current", String(each.textContent === chosen?.name));
}

function choose(name) {
  history.replaceState(null, "", `#${encodeURIComponent(name)}`);
  chosen = pools.get(name);
  show();
}

function show() {
  showPools();
  tell();
  if (chosen === null) return;
  document.title = `poise: ${chosen.name}`;
  if (chosen.now.now === undefined) return;
  say(find("program"), `process ${chosen.now.program}`);
  timeline.pool = chosen;
  timeline.now = () => (isPaused ? chosen.now.now : chosen.moment);
  showFigures(chosen.now);
  charts.draw(chosen.slots);
  timeline.draw();
  showWorkers(chosen);
  showDeaths(chosen);
}

// ---------------------------------------------------------------- the stream

function hear(event) {
  const news = JSON.parse(event.data);
  heard = performance.now();
  isEnding = false;
  if (isPaused) return;                 // what is missed is told again when it goes on: see below
  if (news.whole) pools.clear();
  for (const [name, told] of Object.entries(news.pools)) {
    if (!pools.has(name)) pools.set(name, new Seen(name));
    pools.get(name).take(told);
  }
  const wanted = chosen?.name ?? decodeURIComponent(location.hash.slice(1));
  chosen = pools.get(wanted) ?? pools.values().next().value ?? null;
  show();
}

let source = null;

function listen() {
  source?.close();
  source = new EventSource(location.href.split("#")[0]);
  source.addEventListener("message", hear);
  source.addEventListener("ending", () => { isEnding = true; tell(); });
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, AGAIN);
  });
}

find("pause").addEventListener("click", (event) => {
  isPaused = !isPaused;
  event.target.setAttribute("aria-pressed", String(isPaused));
  if (!isPaused) listen();              // from the beginning
});
document.addEventListener("visibilitychange", () => { if (!document.hidden && !isPaused) show(); });
setInterval(tell, 500);
listen();
