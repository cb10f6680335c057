// Which worker ran what: a row for each slot of a worker, a bar for each call.

const MOST_ROWS = 64;
const WINDOWS = [[10, "10 s"], [60, "1 min"], [300, "5 min"], [SPAN, "15 min"]];
const isStill = matchMedia("(prefers-reduced-motion: reduce)");
const isDark = matchMedia("(prefers-color-scheme: dark)");

const name = (bar) => `${bar.worker}/${bar.row}/${bar.begin}`;  // which it keeps while it grows

class Timeline {
  constructor(canvas, reading, legend, windows) {
    Object.assign(this, { canvas, reading, legend, span: 60, pool: null, now: () => 0, picked: null, looked: null });
    this.hues = new Map();              // of functions, in the order in which they were seen
    this.named = "";
    this.colours = null;
    isDark.addEventListener("change", () => { this.colours = null; this.draw(); });
    new ResizeObserver(() => this.draw()).observe(canvas);
    for (const [seconds, label] of WINDOWS) {
      const button = element("button", { type: "button", "aria-pressed": String(seconds === this.span), text: label });
      button.addEventListener("click", () => {
        this.span = seconds;
        for (const each of windows.children) each.setAttribute("aria-pressed", String(each === button));
        this.draw();
      });
      windows.append(button);
    }
    canvas.addEventListener("pointermove", (event) => this.look(event));
    canvas.addEventListener("pointerleave", () => { this.looked = null; this.tell(); });
    canvas.addEventListener("keydown", (event) => this.press(event));
    canvas.addEventListener("blur", () => { this.picked = null; this.draw(); this.tell(); });
    this.tell();
    this.glide();
  }

  glide() {                             // between two messages, unless that is not wanted
    let last = 0;
    const step = (time) => {
      if (!isStill.matches && this.span <= 60 && time - last > 60) { last = time; this.draw(); }
      requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  colour(name) {
    if (this.colours === null) {
      const style = getComputedStyle(document.documentElement);
      this.colours = Object.fromEntries(["ink", "faint", "rule", "bad", "start", ...[0, 1, 2, 3, 4, 5, 6, 7].map((n) => `hue-${n}`)]
        .map((each) => [each, style.getPropertyValue(`--${each}`).trim()]));
    }
    return this.colours[name];
  }

  hue(name) {
    if (!this.hues.has(name)) this.hues.set(name, this.hues.size % 8);
    return `hue-${this.hues.get(name)}`;
  }

  slot(bar) {                           // calls of a batch share one, and lie upon each other
    return bar.row % this.pool.slotsEach;
  }

  rows() {                              // worker and slot of those that live or did within the window
    const from = this.now() - this.span;
    const found = new Map();
    const add = (worker, slot) => {
      if (!found.has(worker)) found.set(worker, new Set());
      found.get(worker).add(slot);
    };
    for (const bar of this.pool.bars) if (bar.end === null || bar.end >= from) add(bar.worker, this.slot(bar));
    for (const death of this.pool.deaths) if (death.at >= from) add(death.worker, 0);
    for (const worker of this.pool.workers) add(worker.id, 0);
    return [...found].sort((a, b) => a[0] - b[0]).flatMap(([worker, slots]) => [...slots].sort((a, b) => a - b).map((slot) => ({ worker, slot })));
  }

  draw() {
    if (this.pool === null || document.hidden) return;
    const all = this.rows();
    const rows = all.slice(0, MOST_ROWS);
    const [high, gap, foot, left] = [rows.length > 24 ? 9 : 15, rows.length > 24 ? 2 : 4, 20, 40];
    const width = this.canvas.clientWidth;
    const height = Math.max(1, rows.length) * (high + gap) + gap + foot;
    const scale = devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(width * scale) || this.canvas.height !== Math.round(height * scale)) {
      this.canvas.width = Math.round(width * scale);
      this.canvas.height = Math.round(height * scale);
      this.canvas.style.height = `${height}px`;
    }
    const pen = this.canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.font = `${Math.min(12, high + 1)}px system-ui, "DejaVu Sans", sans-serif`;
    pen.textBaseline = "middle";
    const now = this.now();
    const x = (at) => left + (width - left - 8) * (1 - (now - at) / this.span);
    const where = new Map();
    rows.forEach(({ worker, slot }, index) => {
      const top = gap + index * (high + gap);
      where.set(`${worker}/${slot}`, top);
      pen.fillStyle = this.colour("faint");
      if (slot === 0) pen.fillText(String(worker), 8, top + high / 2);
      pen.fillStyle = this.colour("rule");
      pen.fillRect(left, top + high, width - left - 8, 1);
    });
    this.places = [];
    for (const bar of this.pool.bars) {
      const top = where.get(`${bar.worker}/${this.slot(bar)}`);
      const [from, to] = [Math.max(left, x(bar.begin)), x(bar.end ?? now)];
      if (top === undefined || to < left) continue;
      this.places.push({ bar, from, to, top, high });
      pen.fillStyle = this.colour(bar.isStart ? "start" : this.hue(bar.function));
      pen.globalAlpha = bar.end === null ? 0.6 : 1;
      pen.fillRect(from, top, Math.max(1, to - from - (to - from > 3 ? 0.5 : 0)), high);
      pen.globalAlpha = 1;
      if (!bar.isStart && bar.end !== null && bar.outcome !== "returned") { pen.fillStyle = this.colour("bad"); pen.fillRect(from, top, Math.max(1.5, to - from - 0.5), 3); }
      if (this.picked !== null && name(bar) === name(this.picked)) { pen.strokeStyle = this.colour("ink"); pen.lineWidth = 2; pen.strokeRect(from - 1, top - 1, Math.max(3, to - from + 2), high + 2); }
    }
    for (const death of this.pool.deaths) this.cross(pen, x(death.at), where.get(`${death.worker}/0`), high, left);
    pen.fillStyle = this.colour("faint");
    pen.font = '12px system-ui, "DejaVu Sans", sans-serif';
    const foots = [[`${ago(this.span)} ago`, "left", left], ["now", "right", width - 8]];
    if (all.length > rows.length) foots.push([`and ${count(all.length - rows.length)} rows more`, "center", width / 2]);
    for (const [text, align, at] of foots) { pen.textAlign = align; pen.fillText(text, at, height - foot / 2); }
    pen.textAlign = "left";
    this.explain();
    if (this.picked === null && this.looked === null) this.tell();
  }

  cross(pen, at, top, high, left) {
    if (top === undefined || at < left) return;
    const middle = top + high / 2;
    const arm = Math.min(6, high / 2);
    pen.strokeStyle = this.colour("bad");
    pen.lineWidth = 2.5;
    pen.beginPath();
    pen.moveTo(at - arm, middle - arm); pen.lineTo(at + arm, middle + arm);
    pen.moveTo(at + arm, middle - arm); pen.lineTo(at - arm, middle + arm);
    pen.stroke();
  }

  explain() {                           // the legend
    const shown = new Set(this.places.filter(({ bar }) => !bar.isStart).map(({ bar }) => bar.function));
    const names = [...this.hues.keys()].filter((name) => shown.has(name));
    const hasStart = this.places.some(({ bar }) => bar.isStart);
    const all = [...names.map((name) => [name, this.hue(name)]), ...(hasStart ? [["a worker starts", "start"]] : [])];
    const named = JSON.stringify(all) + isDark.matches;
    if (named === this.named) return;
    this.named = named;
    this.legend.replaceChildren(...all.slice(0, 24).map(([name, colour]) => {
      const swatch = drawn("svg", { viewBox: "0 0 8 8", "aria-hidden": "true" });
      swatch.append(drawn("rect", { width: 8, height: 8, fill: this.colour(colour) }));
      return element("li", {}, swatch, document.createTextNode(name));
    }));
  }

  tell() {
    const bar = this.picked ?? this.looked;
    if (bar === null) {
      const hidden = this.pool?.now.hidden ?? 0;
      const more = hidden > 0 ? ` ${count(hidden)} bars were too many for their second, and left out.` : "";
      return say(this.reading, `Red crosses are deaths, red edges calls that failed. Arrow keys, or a pointer, read the bars.${more}`);
    }
    const lasted = duration((bar.end ?? this.now()) - bar.begin);
    const at = clock(bar.begin - this.pool.now.now + this.pool.now.wall);
    const what = bar.isStart ? "it starts" : bar.calls > 1 ? `${bar.function}, ${count(bar.calls)} calls` : bar.function;
    say(this.reading, `Worker ${bar.worker}, ${at}: ${what}, ${lasted}; ${bar.end === null ? "it goes on" : bar.outcome}`);
  }

  look(event) {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const found = (this.places ?? []).filter((p) => y >= p.top - 2 && y <= p.top + p.high + 2 && x >= p.from - 2 && x <= p.to + 2);
    const far = (p) => Math.max(p.from - x, x - p.to, 0);
    this.looked = found.sort((a, b) => far(a) - far(b))[0]?.bar ?? null;
    this.tell();
  }

  press(event) {
    if (event.key === "Escape") this.picked = null;
    else if (["ArrowLeft", "ArrowRight"].includes(event.key)) this.along(event.key === "ArrowLeft" ? -1 : 1);
    else if (["ArrowUp", "ArrowDown"].includes(event.key)) this.across(event.key === "ArrowUp" ? -1 : 1);
    else return;
    event.preventDefault();
    this.draw();
    this.tell();
  }

  along(step) {                         // to the bar before or after, of the same slot
    const last = (this.places ?? []).at(-1)?.bar ?? null;
    const from = this.picked ?? last;
    if (from === null) return;
    const row = this.places.map((p) => p.bar).filter((bar) => bar.worker === from.worker && this.slot(bar) === this.slot(from)).sort((a, b) => a.begin - b.begin);
    const at = row.findIndex((bar) => name(bar) === name(from));
    this.picked = this.picked === null ? row.at(-1) : row[Math.min(row.length - 1, Math.max(0, at + step))];
  }

  across(step) {                        // to the nearest one of the slot above or below
    const rows = [...new Set((this.places ?? []).map((p) => p.top))].sort((a, b) => a - b);
    if (rows.length === 0) return;
    const here = this.picked && this.places.find((p) => name(p.bar) === name(this.picked));
    const top = here ? rows[Math.min(rows.length - 1, Math.max(0, rows.indexOf(here.top) + step))] : rows[0];
    const far = (p) => (here ? Math.abs(p.from - here.from) : -p.from);
    this.picked = this.places.filter((p) => p.top === top).sort((a, b) => far(a) - far(b))[0].bar;
  }
}
